//! A hundred tenants on four connections, while clients hang up in the middle and connections are killed: every answer
//! holds its tenant's memories alone, and what was acknowledged is there.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use attack::tries as how_many;
use harness::{Client, DataPlane, Tenant, TenantSpec};

use crate::ground::{self, Dice, administer};

const TENANTS: usize = 100;
const CLIENTS: usize = 16;

/// What the clients saw.
#[derive(Default)]
struct Seen {
    stores: AtomicUsize,
    recalls: AtomicUsize,
    hung_up: AtomicUsize,
    /// Refused for now, with an error that says so.
    refused: AtomicUsize,
    wrong: Mutex<Vec<String>>,
    /// By tenant: the words of the stores that were acknowledged.
    acknowledged: Mutex<Vec<(usize, String)>>,
}

fn mark(tenant: &Tenant) -> String {
    format!("belongs to {}. ", tenant.name)
}

/// One client: stores and recalls of random tenants, some of them given up after a moment.
async fn load(clients: &[Client], tenants: &[Tenant], seen: &Seen, client: usize, requests: usize) {
    let mut dice = Dice::new(client as u64);
    for n in 0..requests {
        let of = dice.roll(tenants.len());
        let (mark, word) = (mark(&tenants[of]), format!("c{client}n{n}"));
        let (stores, hangs_up) = (dice.roll(2) == 0, dice.roll(5) == 0);
        let patience = Duration::from_micros(if hangs_up { 200 + dice.roll(8_000) as u64 } else { 30_000_000 });
        let request = async {
            if stores { clients[of].store(&format!("{mark}{word}")).await } else { clients[of].recall("belongs").await }
        };
        let Ok(answer) = tokio::time::timeout(patience, request).await else {
            seen.hung_up.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let answer = answer.unwrap();
        match (stores, answer.status) {
            (true, 201) => {
                seen.stores.fetch_add(1, Ordering::Relaxed);
                seen.acknowledged.lock().unwrap().push((of, word));
            }
            (false, 200) => {
                seen.recalls.fetch_add(1, Ordering::Relaxed);
                let items = answer.body.as_array().unwrap();
                if !items.iter().all(|item| item["content"].as_str().unwrap().starts_with(&mark)) {
                    seen.wrong.lock().unwrap().push(format!("{mark}: {}", answer.text));
                }
            }
            (_, 502..=504) if answer.problem().is_some() => {
                seen.refused.fetch_add(1, Ordering::Relaxed);
            }
            _ => seen.wrong.lock().unwrap().push(format!("{mark}: {} {}", answer.status, answer.text)),
        }
    }
}

/// Ends a connection of the engine's after every fortieth answer, until told to stop. Returns how many.
async fn killer(plane: &DataPlane, seen: &Seen, stop: &AtomicBool) -> usize {
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    let (mut killed, mut answered_before) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let answered = seen.stores.load(Ordering::Relaxed) + seen.recalls.load(Ordering::Relaxed);
        if answered < answered_before + 40 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        answered_before = answered;
        // In whatever it is doing just then.
        let rows = sqlx::query(
            "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a WHERE a.usename = 'stellar_pool' ORDER BY random() LIMIT 1",
        )
        .fetch_all(&mut superuser)
        .await
        .unwrap();
        killed += rows.len();
    }
    killed
}

/// What is wrong with what the tenants have in the end: something of another, or something acknowledged that is missing.
async fn wrong_in_the_end(clients: &[Client], tenants: &[Tenant], acknowledged: &[(usize, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (of, tenant) in tenants.iter().enumerate() {
        let (client, mark) = (&clients[of], mark(tenant));
        let mut words = HashSet::new();
        let mut path = "/memories?limit=50".to_owned();
        loop {
            let page = client.get(&path).await.unwrap();
            assert_eq!(page.status, 200, "{}", page.text);
            for item in page.body["items"].as_array().unwrap() {
                let content = item["content"].as_str().unwrap();
                match content.strip_prefix(&mark) {
                    Some(word) => drop(words.insert(word.to_owned())),
                    None => wrong.push(format!("{} has: {content}", tenant.name)),
                }
            }
            match page.body["next_cursor"].as_str() {
                Some(cursor) => path = format!("/memories?limit=50&cursor={cursor}"),
                None => break,
            }
        }
        for (_, word) in acknowledged.iter().filter(|(owner, _)| *owner == of) {
            if !words.contains(word) {
                wrong.push(format!("{} lost {word}", tenant.name));
                continue;
            }
            let recalled = client.recall(word).await.unwrap();
            if recalled.body[0]["content"] != format!("{mark}{word}") {
                wrong.push(format!("{} does not recall {word}: {}", tenant.name, recalled.text));
            }
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_tenants_on_four_connections_see_their_own_alone() {
    let plane = Arc::new(DataPlane::start_with(&["--max-connections", "4"], &[]).await.unwrap());
    let spec = TenantSpec { max_memories: -1, ..TenantSpec::default() };
    let tenants = Arc::new(ground::tenants(&plane, "crowd", TENANTS, spec).await);
    let clients: Arc<Vec<_>> = Arc::new(tenants.iter().map(|tenant| plane.client(tenant)).collect());
    let last = &clients[TENANTS - 1];
    harness::eventually("the tenants are known", || async {
        (last.get("/stats").await.unwrap().status == 200).then_some(())
    })
    .await;

    let (seen, stop, requests) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)), how_many(1_500, 10_000));
    let killing = tokio::spawn({
        let (plane, seen, stop) = (plane.clone(), seen.clone(), stop.clone());
        async move { killer(&plane, &seen, &stop).await }
    });
    let loads: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (clients, tenants, seen) = (clients.clone(), tenants.clone(), seen.clone());
            tokio::spawn(async move { load(&clients, &tenants, &seen, client, requests.div_ceil(CLIENTS)).await })
        })
        .collect();
    for load in loads {
        load.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let killed = killing.await.unwrap();
    let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
    let (stores, recalls) = (count(&seen.stores), count(&seen.recalls));
    let (hung_up, refused) = (count(&seen.hung_up), count(&seen.refused));
    println!("{stores} stores, {recalls} recalls, {hung_up} given up, {refused} refused, {killed} connections killed");
    assert_eq!(*seen.wrong.lock().unwrap(), Vec::<String>::new());
    assert!(stores > requests / 4 && recalls > requests / 4, "most requests are answered: {stores}, {recalls}");
    assert!(killed > 3 && hung_up > requests / 100, "there was something to bear: {killed}, {hung_up}");
    let acknowledged = seen.acknowledged.lock().unwrap().clone();
    assert_eq!(wrong_in_the_end(&clients, &tenants, &acknowledged).await, Vec::<String>::new());

    // The checks would notice: a memory that is lost, one that is another's, and a key that opens another tenant.
    let (of, word) = acknowledged[0].clone();
    let (owner, other) = (&tenants[of], &tenants[(of + 1) % TENANTS]);
    let lost = format!("DELETE FROM stellar.memories WHERE content = '{}{word}'", mark(owner));
    administer(&plane, &lost).await;
    let wrong = wrong_in_the_end(&clients, &tenants, &acknowledged[..1]).await;
    assert_eq!(wrong, [format!("{} lost {word}", owner.name)]);
    administer(
        &plane,
        &format!(
            "UPDATE stellar.api_keys SET user_id = '{}' WHERE user_id = '{}';
             SELECT pg_notify('stellar_control', '{}'), pg_notify('stellar_control', '{}')",
            other.id, owner.id, other.id, owner.id
        ),
    )
    .await;
    assert_eq!(clients[(of + 1) % TENANTS].store(&format!("{}planted", mark(other))).await.unwrap().status, 201);
    harness::eventually("answers with another tenant's memories are noticed", || async {
        let (weak, swapped) = (Seen::default(), std::slice::from_ref(owner));
        load(&clients[of..=of], swapped, &weak, 0, 10).await;
        (!weak.wrong.lock().unwrap().is_empty()).then_some(())
    })
    .await;
}
