//! A hundred tenants on four connections of the engine's own store: requests that panic or are given up anywhere within a
//! tenant's transaction, and connections that are killed, leave nothing for whoever gets the connection next.

use std::{panic::resume_unwind, time::Duration};

use attack::tries;
use engine::store::{Access, Caller, Database, MemoryPage, Store, StoreError, TenantTx};
use futures::{StreamExt as _, stream};
use harness::{DataPlane, TenantSpec};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

const TENANTS: usize = 100;
const CONNECTIONS: u32 = 4;
const AT_ONCE: usize = 16;
const ON_PURPOSE: &str = "on purpose";

/// What a tenant is called, and the content of its one memory.
fn mark(n: usize) -> String {
    format!("panics-{n}")
}

/// What all memories hold that the transaction sees.
async fn contents(tx: &mut TenantTx) -> Result<Vec<String>, StoreError> {
    let page = MemoryPage { zone: None, after: None, offset: 0, limit: 10 };
    let list = tx.list(page, OffsetDateTime::now_utc()).await?;
    Ok(list.into_iter().map(|memory| memory.content).collect())
}

/// How a request ends.
#[derive(Clone, Copy)]
enum End {
    Commit,
    Drop,
    /// After that many microseconds, wherever it is: its client hangs up.
    GiveUp(u64),
    /// Likewise: it panics.
    Panic(u64),
}

/// What it saw, looking twice; nothing if it was given up.
async fn request(store: Store, caller: Caller, access: Access, end: End) -> Option<Result<Vec<String>, StoreError>> {
    let work = async {
        let mut tx = store.begin(&caller, access).await?;
        let mut seen = contents(&mut tx).await?;
        seen.extend(contents(&mut tx).await?);
        if let End::Commit = end {
            tx.commit().await?;
        }
        Ok::<_, StoreError>(seen)
    };
    let (End::GiveUp(after) | End::Panic(after)) = end else { return Some(work.await) };
    tokio::select! {
        biased;
        () = tokio::time::sleep(Duration::from_micros(after)) => {
            // As a panic goes, without its message.
            if matches!(end, End::Panic(_)) { resume_unwind(Box::new(ON_PURPOSE)) } else { None }
        }
        answer = work => Some(answer),
    }
}

/// What became of the requests.
#[derive(Default)]
struct Told {
    right: usize,
    given_up: usize,
    panicked: usize,
    /// With an error that says so: the connection was killed.
    refused: usize,
    /// Connections.
    killed: usize,
    wrong: Vec<String>,
}

/// Requests of all tenants, in turn, on whatever connection is free.
async fn drive(plane: &DataPlane, store: &Store, callers: &[Caller], requests: usize) -> Told {
    let attempt = |n: usize| {
        // 100, 3, 7 and 7,993 have no divisor in common, so each tenant meets each end with each access, early and late.
        let of = n * 11 % TENANTS;
        let access = if n.is_multiple_of(3) { Access::Write } else { Access::Read };
        let after = n as u64 * 37 % 7_993;
        let end = match n % 7 {
            0 | 1 => End::Commit,
            2 => End::Drop,
            3 | 4 => End::GiveUp(after),
            _ => End::Panic(after),
        };
        let (store, caller) = (store.clone(), callers[of].clone());
        async move {
            let killed = if n % 40 == 39 { kill_one(plane).await } else { 0 };
            (of, killed, tokio::spawn(request(store, caller, access, end)).await)
        }
    };
    let mut ended = stream::iter(0..requests).map(attempt).buffer_unordered(AT_ONCE);
    let mut told = Told::default();
    while let Some((of, killed, outcome)) = ended.next().await {
        told.killed += killed;
        match outcome {
            Err(error) => {
                let panic = error.into_panic();
                assert_eq!(panic.downcast_ref::<&str>(), Some(&ON_PURPOSE), "no other panic");
                told.panicked += 1;
            }
            Ok(None) => told.given_up += 1,
            Ok(Some(Err(StoreError::Unavailable { .. }))) => told.refused += 1,
            Ok(Some(Err(error))) => told.wrong.push(format!("{}: {error:?}", mark(of))),
            Ok(Some(Ok(seen))) if seen == [mark(of), mark(of)] => told.right += 1,
            Ok(Some(Ok(seen))) => told.wrong.push(format!("{} sees {}", mark(of), seen.join(", "))),
        }
    }
    told
}

/// Kills a connection of the store's, in whatever it is doing just then. Returns how many there were to kill: one or none.
async fn kill_one(plane: &DataPlane) -> usize {
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    let killed = sqlx::query(
        "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a WHERE a.usename = 'stellar_pool'
         ORDER BY random() LIMIT 1",
    );
    killed.fetch_all(&mut superuser).await.unwrap().len()
}

async fn administer(plane: &DataPlane, sql: &str) {
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut superuser).await.unwrap();
}

/// The pool may take on every tenant's role, and what [`keeping`] replaces has another name.
const MOVED: &str = "
    DO $$ DECLARE tenant text; BEGIN
        FOR tenant IN SELECT u.role_name FROM stellar.users u LOOP
            EXECUTE format('GRANT %I TO stellar_pool', tenant);
        END LOOP;
    END $$;
    ALTER FUNCTION stellar.enter(uuid, bytea, text, boolean, uuid) RENAME TO entered;
    ALTER TABLE stellar.memories RENAME TO hidden_memories";

/// A build that takes a connection for one tenant's: `enter` keeps in the session, and not in the transaction, whom it was
/// called for first, and what is seen are that tenant's memories. The engine's statements name the tenant too, so these are
/// called the memories of whoever asks.
struct Kept {
    /// Whether nothing is kept so far.
    free: &'static str,
    setting: &'static str,
    value: &'static str,
    /// The tenant that is kept.
    tenant: &'static str,
}

/// A setting as any other, of those that the engine puts away when a connection is given back.
const SETTING: Kept = Kept {
    free: "coalesce(current_setting('app.kept', true), '') = ''",
    setting: "app.kept",
    value: "tenant::text",
    tenant: "current_setting('app.kept')::uuid",
};
/// A role, which RESET ALL leaves as it is. The pool has none to take on, so nobody puts it away.
const ROLE: Kept = Kept {
    free: "current_user = session_user",
    setting: "role",
    value: "'t_' || replace(tenant::text, '-', '')",
    tenant: "substr(current_user::text, 3)::uuid",
};

fn keeping(Kept { free, setting, value, tenant }: &Kept) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION stellar.enter(tenant uuid, capability bytea, agent text, writes boolean, key_id uuid)
         RETURNS TABLE (change_seq bigint, memory_count integer, memory_limit integer) LANGUAGE plpgsql
         AS $$ BEGIN
             IF {free} THEN
                 PERFORM set_config('{setting}', {value}, false);
             END IF;
             RETURN QUERY SELECT e.change_seq, e.memory_count, e.memory_limit
                 FROM stellar.entered(tenant, capability, agent, writes, key_id) e;
         END $$;
         CREATE OR REPLACE VIEW stellar.memories AS SELECT (SELECT stellar.current_tenant()) AS user_id, m.id, m.content,
             m.metadata, m.session, m.speaker, m.occurred_at, m.source, m.agent, m.created_at, m.last_recalled_at,
             m.recall_count, m.importance, m.emotion, m.zone, m.total_score, m.written_at, m.written_by
             FROM stellar.hidden_memories m WHERE m.user_id = {tenant};
         GRANT SELECT ON stellar.memories TO stellar_pool, stellar_tenants"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_within_a_transaction_is_nothing_to_the_next_tenant_on_its_connection() {
    let mut plane = DataPlane::start().await.unwrap();
    // So that every connection of the pool's login is one of the store below.
    plane.engine.kill().unwrap();
    let plane = &plane;
    let tenants: Vec<_> = stream::iter(0..TENANTS)
        .map(|n| async move { plane.tenant(&mark(n), TenantSpec::default()).await.unwrap() })
        .buffered(8)
        .collect()
        .await;
    administer(
        plane,
        "INSERT INTO stellar.memories (user_id, id, content, zone, total_score)
         SELECT u.id, gen_random_uuid(), u.name, 2, 0 FROM stellar.users u",
    )
    .await;
    let callers: Vec<_> = tenants
        .iter()
        .map(|tenant| {
            let capability = plane.master().capability(tenant.id, 1);
            Caller { tenant: tenant.id, capability, agent: Some("default".to_owned()), key: None }
        })
        .collect();
    let url = plane.secrets().join("pool-url");
    let database = Database::from_file(&url, &CancellationToken::new()).await.unwrap();
    let store = Store::new(&database, CONNECTIONS, None);

    let requests = tries(2_000, 10_000);
    let Told { right, given_up, panicked, refused, killed, wrong } = drive(plane, &store, &callers, requests).await;
    println!(
        "{requests} requests: {panicked} panicked, {given_up} given up, {refused} refused; {killed} connections killed"
    );
    assert_eq!(wrong, Vec::<String>::new(), "requests that saw something else than their tenant's");
    assert!(right > requests / 4, "most of those that were let are answered: {right}");
    assert!(
        panicked > requests / 20 && given_up > requests / 20 && killed > requests / 80,
        "there was something to bear: {panicked}, {given_up}, {killed}"
    );
    // Nothing stays locked.
    let mut tx = store.begin(&callers[0], Access::Write).await.unwrap();
    assert_eq!(contents(&mut tx).await.unwrap(), [mark(0)]);
    tx.commit().await.unwrap();
    assert!(store.connections().0 <= CONNECTIONS);

    // Were settings to outlive the transaction, the engine would still put them away.
    administer(plane, MOVED).await;
    administer(plane, &keeping(&SETTING)).await;
    let tidied = drive(plane, &store, &callers, requests / 4).await;
    assert_eq!(tidied.wrong, Vec::<String>::new(), "a connection is put in order however a request ended");
    assert!(tidied.right > requests / 16, "{}", tidied.right);
    // And what outlives that too is noticed.
    administer(plane, &keeping(&ROLE)).await;
    let leaks = drive(plane, &store, &callers, 400).await.wrong;
    let of_another = leaks.iter().filter(|leak| leak.contains(" sees panics-")).count();
    println!("{of_another} requests saw another tenant's where a role is kept, such as {:?}", leaks.first());
    assert!(of_another > 40, "tenants see each other: {leaks:#?}");
}
