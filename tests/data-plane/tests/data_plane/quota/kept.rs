//! What is kept of a tenant besides its memories is bounded by its tier and by time: log, answers, audit, ended keys.

use harness::{Answer, DataPlane, Tenant, TenantSpec};
use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection, Row as _, postgres::PgRow};

use crate::shared;

/// Entries of the log, and answers, that are kept of a tenant of a small tier.
const ENTRIES_KEPT: i64 = 50_000;
/// Audit entries that are kept of every tenant.
const AUDIT_KEPT: i64 = 10_000;
/// Ended keys that are kept of every tenant.
const ENDED_KEYS_KEPT: i64 = 1_000;
/// Rows of each kind that one call of `stellar.prune` takes.
const BATCH: i64 = 5_000;

/// A log with so many entries, as if they had been written one after another.
const LOG: &str = "WITH log AS (
        INSERT INTO stellar.changes (user_id, seq, op, memory_id)
        SELECT $1, n, 'update', gen_random_uuid() FROM generate_series(1, $2) n)
    UPDATE stellar.usage SET change_seq = $2 WHERE user_id = $1";
const STORE: &str = "INSERT INTO stellar.memories (user_id, id, content, zone, total_score)
    SELECT $1, gen_random_uuid(), 'a memory', 4, 0 FROM generate_series(1, $2)";
const ANSWER: &str = "INSERT INTO stellar.operations (user_id, op_id, request_hash, answer)
    SELECT $1, $3 || n, sha256('asked'), '{}' FROM generate_series(1, $2) n";

/// Runs a statement about so many rows of a tenant.
async fn run(superuser: &mut PgConnection, statement: &'static str, of: &Tenant, rows: i64) {
    sqlx::query(statement).bind(of.id.uuid()).bind(rows).execute(superuser).await.unwrap();
}

async fn numbers(superuser: &mut PgConnection, question: &'static str, of: &Tenant) -> PgRow {
    sqlx::query(question).bind(of.id.uuid()).fetch_one(superuser).await.unwrap()
}

/// How many entries a log has, its first and its last.
async fn log(superuser: &mut PgConnection, of: &Tenant) -> (i64, i64, i64) {
    let question = "SELECT count(*), min(seq), max(seq) FROM stellar.changes WHERE user_id = $1";
    let row = numbers(superuser, question, of).await;
    (row.get(0), row.get(1), row.get(2))
}

async fn count(superuser: &mut PgConnection, question: &'static str, of: &Tenant) -> i64 {
    numbers(superuser, question, of).await.get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn full_log_loses_its_oldest_entries() {
    let plane = shared().await;
    let full = plane.tenant("log-full", TenantSpec::default()).await.unwrap();
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    run(&mut superuser, LOG, &full, ENTRIES_KEPT).await;
    run(&mut superuser, STORE, &full, 600).await;
    assert_eq!(log(&mut superuser, &full).await, (ENTRIES_KEPT, 601, ENTRIES_KEPT + 600));
    run(&mut superuser, "UPDATE stellar.memories SET content = $2 || content WHERE user_id = $1", &full, 1).await;
    assert_eq!(log(&mut superuser, &full).await, (ENTRIES_KEPT, 1_201, ENTRIES_KEPT + 1_200));
    run(&mut superuser, "DELETE FROM stellar.memories WHERE user_id = $1 AND $2 > 0", &full, 1).await;
    assert_eq!(log(&mut superuser, &full).await, (ENTRIES_KEPT, 1_801, ENTRIES_KEPT + 1_800));
    // What is left is a log as any other.
    let client = plane.client(&full);
    client.opens().await;
    assert_eq!(client.store("one more").await.unwrap().body["seq"], ENTRIES_KEPT + 1_801);
    let audit = client.get("/audit?limit=2").await.unwrap();
    assert_eq!((audit.status, &audit.body["items"][0]["what"]), (200, &json!("store")), "{}", audit.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_over_a_lowered_bound_shrinks_in_steps() {
    let plane = shared().await;
    let lowered = plane.tenant("log-lowered", TenantSpec::default()).await.unwrap();
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    run(&mut superuser, LOG, &lowered, ENTRIES_KEPT + 10_000).await;
    run(&mut superuser, STORE, &lowered, 600).await;
    // Twice what was added since the log was looked at, which is once in 256 entries: a write never removes all at once.
    let removed = 2 * (600 + 256);
    let last = ENTRIES_KEPT + 10_600;
    assert_eq!(log(&mut superuser, &lowered).await, (last - removed, removed + 1, last));
}

#[tokio::test(flavor = "multi_thread")]
async fn log_of_a_larger_tier_keeps_more() {
    let plane = shared().await;
    let spec = TenantSpec { max_memories: 6_000, ..TenantSpec::default() };
    let larger = plane.tenant("log-larger", spec).await.unwrap();
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    run(&mut superuser, LOG, &larger, 60_000).await;
    run(&mut superuser, STORE, &larger, 600).await;
    assert_eq!(log(&mut superuser, &larger).await, (60_000, 601, 60_600));
    let question = "SELECT stellar.entries_kept(-1)";
    let unlimited: i64 = sqlx::query_scalar(question).fetch_one(&mut superuser).await.unwrap();
    assert_eq!(unlimited, 10_000_000, "without a limit of memories there is one all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_answers_over_their_bound_lose_the_oldest() {
    let plane = shared().await;
    let busy = plane.tenant("answers", TenantSpec::default()).await.unwrap();
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    let kept = "SELECT count(*) FROM stellar.operations WHERE user_id = $1";
    let batches = 70;
    for batch in 1..=batches {
        sqlx::query(ANSWER)
            .bind(busy.id.uuid())
            .bind(1_000_i64)
            .bind(format!("{batch}-"))
            .execute(&mut superuser)
            .await
            .unwrap();
        if batch % 10 == 0 {
            let kept = count(&mut superuser, kept, &busy).await;
            assert!(kept <= ENTRIES_KEPT && kept >= (batch * 1_000).min(ENTRIES_KEPT * 9 / 10), "{kept} of {batch}");
        }
    }
    let oldest = "SELECT min(split_part(op_id, '-', 1)::integer)::bigint FROM stellar.operations WHERE user_id = $1";
    let oldest = count(&mut superuser, oldest, &busy).await;
    assert!((batches - 50..=batches - 45).contains(&(oldest - 1)), "the newest stay: from batch {oldest} on");
    // A new one is kept as ever.
    let client = plane.client(&busy);
    client.opens().await;
    let store = async || {
        let request = client.request(Method::POST, "/store").header("idempotency-key", "once");
        let answer = request.json(&json!({ "content": "stored once" })).send().await.unwrap();
        Answer::read(answer).await.unwrap()
    };
    let (first, again) = (store().await, store().await);
    assert_eq!((first.status, again.status), (201, 201), "{}", again.text);
    assert_eq!(first.body["id"], again.body["id"], "it is answered and not repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_over_its_bound_loses_the_oldest() {
    let plane = shared().await;
    let audited = plane.tenant("audited", TenantSpec::default()).await.unwrap();
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    let add = "INSERT INTO stellar.audit (user_id, what, at)
        SELECT $1, 'of-a-test', now() + n * interval '1 second' FROM generate_series(1, $2) n";
    run(&mut superuser, add, &audited, AUDIT_KEPT + 50).await;
    let kept = "SELECT count(*) FROM stellar.audit WHERE user_id = $1";
    assert_eq!(count(&mut superuser, kept, &audited).await, AUDIT_KEPT);
    let oldest = "SELECT extract(epoch FROM max(at) - min(at))::bigint FROM stellar.audit WHERE user_id = $1";
    assert_eq!(count(&mut superuser, oldest, &audited).await, AUDIT_KEPT - 1, "the newest stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_keys_over_their_bound_are_forgotten() {
    let plane = shared().await;
    let spec = TenantSpec { max_api_keys: 5, ..TenantSpec::default() };
    let holder = plane.tenant("ended-keys", spec).await.unwrap();
    let client = plane.client(&holder);
    client.opens().await;
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    let add = "INSERT INTO stellar.api_keys (user_id, agent, key_hash, prefix, revoked_at)
        SELECT $1, 'default', sha256(($1::text || n)::bytea), 'sk', now() - n * interval '1 second' FROM generate_series(1, $2) n";
    run(&mut superuser, add, &holder, ENDED_KEYS_KEPT + 20).await;
    let made = client.post("/auth/api-keys", &json!({ "agent": "default" })).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text);
    let ended = "SELECT count(*) FROM stellar.api_keys WHERE user_id = $1 AND revoked_at IS NOT NULL";
    assert_eq!(count(&mut superuser, ended, &holder).await, ENDED_KEYS_KEPT);
    let live = "SELECT count(*) FROM stellar.api_keys WHERE user_id = $1 AND revoked_at IS NULL";
    assert_eq!(count(&mut superuser, live, &holder).await, 2, "no live key goes");
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_goes_on_until_nothing_waits() {
    let plane = DataPlane::start().await.unwrap();
    let tenant = plane.tenant("pruned", TenantSpec::default()).await.unwrap();
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    let mut operator = plane.login("operator").await.unwrap();
    let lag = async |operator: &mut PgConnection| -> i64 {
        let question = "SELECT stellar.prune_lag('30 days', '90 days')::bigint";
        sqlx::query_scalar(question).fetch_one(operator).await.unwrap()
    };
    assert_eq!(lag(&mut operator).await, 0);
    run(&mut superuser, LOG, &tenant, 2 * BATCH + 7).await;
    for aged in [
        "UPDATE stellar.changes SET at = now() - interval '30 days 2 hours'",
        "INSERT INTO stellar.audit (user_id, what, at) SELECT id, 'of-a-test', now() - interval '90 days 1 hour' FROM stellar.users",
    ] {
        sqlx::query(aged).execute(&mut superuser).await.unwrap();
    }
    assert!((7_200..10_000).contains(&lag(&mut operator).await), "the oldest of all kinds counts");
    let mut rounds: Vec<i64> = Vec::new();
    while rounds.last().is_none_or(|rows| *rows >= BATCH) {
        let prune = sqlx::query_scalar("SELECT stellar.prune('30 days', '90 days', $1)").bind(BATCH as i32);
        rounds.push(prune.fetch_one(&mut operator).await.unwrap());
    }
    // The newest entry of the log stays, and of the audit the one that has just been written.
    assert_eq!(rounds, [BATCH + 1, BATCH, 6]);
    assert_eq!(lag(&mut operator).await, 0);
    assert_eq!(log(&mut superuser, &tenant).await, (1, 2 * BATCH + 7, 2 * BATCH + 7));
    let size: i64 =
        sqlx::query_scalar("SELECT pg_database_size(current_database())").fetch_one(&mut operator).await.unwrap();
    assert!(size > 1_000_000, "the operator's login may ask: {size}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_waits_for_no_writer() {
    let plane = DataPlane::start().await.unwrap();
    let tenant = plane.tenant("held", TenantSpec::default()).await.unwrap();
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    run(&mut superuser, LOG, &tenant, 10).await;
    sqlx::query("UPDATE stellar.changes SET at = now() - interval '31 days'").execute(&mut superuser).await.unwrap();
    let hold = "BEGIN; SELECT FROM stellar.changes WHERE seq = 3 FOR UPDATE";
    sqlx::raw_sql(AssertSqlSafe(hold.to_owned())).execute(&mut superuser).await.unwrap();
    let mut operator = plane.login("operator").await.unwrap();
    sqlx::query("SET lock_timeout = '10s'").execute(&mut operator).await.unwrap();
    let prune = "SELECT stellar.prune('30 days', '90 days', 100)";
    let rows: i64 = sqlx::query_scalar(prune).fetch_one(&mut operator).await.expect("it waits for nobody");
    assert_eq!(rows, 8, "all but the held one and the newest");
    sqlx::raw_sql("COMMIT").execute(&mut superuser).await.unwrap();
    let rows: i64 = sqlx::query_scalar(prune).fetch_one(&mut operator).await.unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn erasing_removes_answers_in_batches() {
    let plane = shared().await;
    let erased = plane.tenant("erased", TenantSpec::default()).await.unwrap();
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    sqlx::query(ANSWER).bind(erased.id.uuid()).bind(250_i64).bind("a-").execute(&mut superuser).await.unwrap();
    let mut operator = plane.login("operator").await.unwrap();
    let kept = "SELECT count(*) FROM stellar.operations WHERE user_id = $1";
    let mut left = Vec::new();
    loop {
        let erase = sqlx::query_scalar("SELECT stellar.tenant_erase($1, $2, 100)");
        let done = erase.bind(erased.id.uuid()).bind(&erased.name).fetch_one(&mut operator).await.unwrap();
        if done {
            break;
        }
        left.push(count(&mut superuser, kept, &erased).await);
    }
    assert_eq!(left, [150, 50, 0]);
}
