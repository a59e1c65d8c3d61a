//! Sixty-four writers through four gateways and two engines against one tenant's limit: exactly as many memories as it
//! allows, and row count, usage row and change log agree; with forgets between, and with both engines killed meanwhile.

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use attack::tries as how_many;
use harness::{Client, DataPlane, Program, Tenant, TenantSpec};
use sqlx::{PgConnection, Row as _};

use crate::ground::{self, administer};

const WRITERS: usize = 64;

/// The servers: what is in `plane`, another engine, and three more gateways.
struct Stage {
    plane: DataPlane,
    gateways: Vec<Program>,
    engine: Program,
}

/// What the writers were told.
#[derive(Default)]
struct Told {
    /// Contents and ids of stores that were acknowledged.
    accepted: Mutex<Vec<(String, String)>>,
    refused: AtomicUsize,
    /// Nobody knows what became of these: an engine died.
    unknown: AtomicUsize,
    forgotten: Mutex<Vec<String>>,
}

impl Stage {
    async fn prepare() -> Self {
        let plane = DataPlane::start().await.unwrap();
        let engine = plane.another_engine(&[]).await.unwrap();
        let mut gateways = Vec::new();
        // Of the first engine alone as the one in `plane`, of the second alone, so that both write for one tenant; of both.
        for engines in [vec![&plane.engine], vec![&engine], vec![&plane.engine, &engine]] {
            gateways.push(plane.gateway_to(&engines).await.unwrap());
        }
        Self { plane, gateways, engine }
    }

    async fn tenant(&self, name: &str, limit: i32) -> (Tenant, Vec<Client>) {
        let spec = TenantSpec { max_memories: limit, ..TenantSpec::default() };
        let tenant = self.plane.tenant(name, spec).await.unwrap();
        let ports = self.gateways.iter().map(|gateway| gateway.port).chain([self.plane.gateway.port]);
        let clients: Vec<_> = ports.map(|port| Client::new(&format!("http://127.0.0.1:{port}"), &tenant.key)).collect();
        for client in &clients {
            harness::eventually("the tenant is known", || async {
                (client.get("/stats").await.unwrap().status == 200).then_some(())
            })
            .await;
        }
        (tenant, clients)
    }
}

/// Tries to store so often, and once more for each try of which nobody knows what became. With forgets every fourth accepted
/// is forgotten then.
async fn write(clients: &[Client], tries: usize, forgets: bool) -> Told {
    let (told, next) = (Told::default(), AtomicUsize::new(0));
    let writer = async |writer: usize| {
        let client = &clients[writer % clients.len()];
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= tries + told.unknown.load(Ordering::Relaxed) {
                return;
            }
            let content = format!("memory number {n}");
            // A gateway of its dead engine alone has nobody to ask: it says so.
            let answer = client.store(&content).await.unwrap();
            match answer.status {
                201 => {
                    let id = answer.body["id"].as_str().unwrap().to_owned();
                    told.accepted.lock().unwrap().push((content, id.clone()));
                    if forgets && n % 4 == 0 {
                        let gone = client.delete(&format!("/forget/{id}")).await.unwrap();
                        assert_eq!(gone.status, 200, "{}", gone.text);
                        told.forgotten.lock().unwrap().push(id);
                    }
                }
                403 => drop(told.refused.fetch_add(1, Ordering::Relaxed)),
                502..=504 => {
                    told.unknown.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                _ => panic!("{} {}", answer.status, answer.text),
            }
        }
    };
    futures::future::join_all((0..WRITERS).map(writer)).await;
    told
}

/// Rows in Postgres, after seeing that everything that counts them agrees. Else what does not.
async fn counted(plane: &DataPlane, tenant: &Tenant, told: &Told, limit: usize) -> Result<usize, String> {
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    let row = sqlx::query(
        "SELECT u.memory_count::bigint, u.change_seq,
             (SELECT count(*) FROM stellar.memories m WHERE m.user_id = u.user_id),
             (SELECT count(*) FROM stellar.changes c WHERE c.user_id = u.user_id AND c.op = 'store'),
             (SELECT count(*) FROM stellar.changes c WHERE c.user_id = u.user_id AND c.op = 'forget'),
             (SELECT count(DISTINCT c.seq) FROM stellar.changes c WHERE c.user_id = u.user_id AND c.seq BETWEEN 1 AND u.change_seq)
         FROM stellar.usage u WHERE u.user_id = $1",
    )
    .bind(tenant.id.uuid())
    .fetch_one(&mut superuser)
    .await
    .unwrap();
    let [usage, last_seq, rows, stores, forgets, seqs] = [0, 1, 2, 3, 4, 5].map(|n| row.get::<i64, _>(n));
    let contents: Vec<String> = sqlx::query_scalar("SELECT content FROM stellar.memories WHERE user_id = $1")
        .bind(tenant.id.uuid())
        .fetch_all(&mut superuser)
        .await
        .unwrap();
    let (accepted, forgotten) = (told.accepted.lock().unwrap().clone(), told.forgotten.lock().unwrap().clone());
    let unique: HashSet<&String> = contents.iter().collect();
    let lost = accepted.iter().filter(|(content, id)| !forgotten.contains(id) && !unique.contains(content)).count();
    let least = accepted.len() - forgotten.len();
    for (holds, what) in [
        (usage == rows, format!("the usage row says {usage}, there are {rows} rows")),
        (stores - forgets == rows, format!("the log has {stores} stores and {forgets} forgets, there are {rows} rows")),
        (seqs == last_seq, format!("the log has {seqs} entries up to {last_seq}")),
        (rows as usize <= limit, format!("{rows} rows are over the limit of {limit}")),
        (unique.len() == contents.len(), "a store was carried out twice".to_owned()),
        (lost == 0, format!("{lost} acknowledged stores are not there")),
        (rows as usize >= least, format!("{rows} rows of {least} acknowledged")),
        (
            rows as usize <= least + told.unknown.load(Ordering::Relaxed),
            format!("{rows} rows, but {least} were acknowledged"),
        ),
    ] {
        if !holds {
            return Err(what);
        }
    }
    Ok(rows as usize)
}

async fn until_stored(superuser: &mut PgConnection, tenant: &Tenant, least: usize) {
    let start = Instant::now();
    loop {
        let stored =
            sqlx::query_scalar("SELECT memory_count FROM stellar.usage WHERE user_id = $1").bind(tenant.id.uuid());
        let stored: i32 = stored.fetch_one(&mut *superuser).await.unwrap();
        if stored as usize > least {
            return;
        }
        assert!(start.elapsed() < Duration::from_mins(1), "{stored} are stored, and not {least}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_holds_exactly_against_writers_everywhere() {
    let mut stage = Stage::prepare().await;
    let limit = how_many(300, 1_000);
    let tries = limit + limit / 2;

    let (tenant, clients) = stage.tenant("races", limit as i32).await;
    let told = write(&clients, tries, false).await;
    assert_eq!(counted(&stage.plane, &tenant, &told, limit).await, Ok(limit));
    assert_eq!(told.accepted.lock().unwrap().len(), limit, "as many were acknowledged");
    assert_eq!(told.refused.load(Ordering::Relaxed), tries - limit);

    let (tenant, clients) = stage.tenant("races-and-forgets", limit as i32).await;
    let told = write(&clients, tries, true).await;
    let (accepted, forgotten) = (told.accepted.lock().unwrap().len(), told.forgotten.lock().unwrap().len());
    assert_eq!(counted(&stage.plane, &tenant, &told, limit).await, Ok(accepted - forgotten));
    assert!(forgotten > limit / 10, "{forgotten} were forgotten between");

    let (tenant, clients) = stage.tenant("races-with-a-crash", limit as i32).await;
    let mut superuser = stage.plane.postgres.superuser("stellar").await.unwrap();
    let mut engines = [&mut stage.engine, &mut stage.plane.engine];
    let crashes = async {
        // One when a quarter is stored, the other when half is. The first need not serve again by then: were it waited for,
        // the second would have stored all the rest alone, and would die when nothing is under way.
        for (engine, part) in engines.iter_mut().zip([4, 2]) {
            until_stored(&mut superuser, &tenant, limit / part).await;
            engine.kill().unwrap();
            engine.restart().unwrap();
        }
        for engine in &engines {
            engine.ready().await;
        }
    };
    let (told, ()) = tokio::join!(write(&clients, tries, false), crashes);
    let rows = counted(&stage.plane, &tenant, &told, limit).await;
    println!(
        "with crashes: {} acknowledged, {} refused, {} unknown, {rows:?} rows",
        told.accepted.lock().unwrap().len(),
        told.refused.load(Ordering::Relaxed),
        told.unknown.load(Ordering::Relaxed)
    );
    // What room is left can be used, to the last place and no further.
    for n in rows.unwrap()..limit {
        let content = format!("into the room that is left, {n}");
        let answer = clients[0].store(&content).await.unwrap();
        assert_eq!(answer.status, 201, "{n} of {limit}: {}", answer.text);
        told.accepted.lock().unwrap().push((content, answer.body["id"].as_str().unwrap().to_owned()));
    }
    assert_eq!(clients[0].store("one too many").await.unwrap().status, 403);
    assert_eq!(counted(&stage.plane, &tenant, &told, limit).await, Ok(limit));

    // The check would notice: triggers that do not count, rows that vanish.
    let triggers: String =
        ground::ask(&stage.plane, "SELECT pg_get_functiondef('stellar.memories_inserted()'::regprocedure)").await;
    administer(
        &stage.plane,
        "CREATE OR REPLACE FUNCTION stellar.memories_inserted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
    )
    .await;
    let (tenant, clients) = stage.tenant("not-counted", 10).await;
    let told = write(&clients, 100, false).await;
    assert!(counted(&stage.plane, &tenant, &told, 10).await.is_err_and(|what| what.contains("usage row")));
    assert!(told.accepted.lock().unwrap().len() > 10);
    administer(&stage.plane, &triggers).await;
    let (tenant, clients) = stage.tenant("vanishes", 10).await;
    let told = write(&clients, 5, false).await;
    assert_eq!(counted(&stage.plane, &tenant, &told, 10).await, Ok(5));
    administer(
        &stage.plane,
        &format!("DELETE FROM stellar.memories WHERE user_id = '{}' AND content LIKE '%4'", tenant.id),
    )
    .await;
    assert!(counted(&stage.plane, &tenant, &told, 10).await.is_err());
}
