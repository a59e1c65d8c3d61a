//! Tenants that take room in the database, or its connections.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use attack::tries;
use futures::future::join_all;
use harness::{Answer, Client, DataPlane, Tenant};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    lasting, nothing,
    stage::{CONNECTIONS, FREE, Setting, Stage},
};
use crate::ground::{administer, ask};

/// The gateway's flag of this name, as it is without being set.
const OPERATIONS_PER_REQUEST: f64 = 20.0;
/// As many operations as a batch may have.
const BATCH: usize = 1_000;
/// KiB of the database that an operation may take: the row's new version, a log entry, and an answer that is kept.
const OPERATION: f64 = 4.0;
/// MiB of the database that everything else may take meanwhile.
const ELSE: f64 = 16.0;
/// Log entries, and answers, that are kept of a free tenant, and those that may be above it until the next look.
const ENTRIES_KEPT: i64 = 50_000 + 2_000;
/// How long each question of a slow tenant takes.
const SLOWNESS: Duration = Duration::from_millis(300);

/// Operations a second that the free tier comes to.
fn operations_per_second() -> f64 {
    OPERATIONS_PER_REQUEST * f64::from(FREE.requests_per_minute) / 60.0
}

/// Operations that a free tenant may have carried out in this time, with `batches` that are begun when there is room for one
/// operation.
fn allowed(since: Instant, batches: usize) -> f64 {
    operations_per_second() * (60.0 + since.elapsed().as_secs_f64()) + (batches * BATCH) as f64
}

/// As many updates of one memory as a batch may have.
async fn rewrite(client: &Client, memory: &str) -> Answer {
    let update = |n: usize| {
        let op_id = format!("{:x<128}", Uuid::new_v4());
        json!({ "op": "update", "op_id": op_id, "id": memory, "content": format!("rewritten, {n}") })
    };
    let operations: Vec<Value> = (0..BATCH).map(update).collect();
    client.post("/batch", &json!({ "operations": operations })).await.unwrap()
}

async fn stored(client: &Client) -> String {
    let answer = client.store("to be rewritten for ever").await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.body["id"].as_str().unwrap().to_owned()
}

/// One batch after another.
pub async fn rewrites(stage: &Stage) -> Vec<String> {
    let what = format!("batches of {BATCH} updates, one after another");
    let (_, client) = stage.attacker("rewrites").await;
    let memory = stored(&client).await;
    let began = Instant::now();
    let (cost, (carried_out, refused)) = stage
        .endure(&what, async {
            let (end, mut carried_out, mut refused) = (began + lasting(), 0, 0);
            while (refused == 0 || Instant::now() < end) && carried_out as f64 <= allowed(began, 1) {
                match rewrite(&client, &memory).await.status {
                    200 => carried_out += BATCH,
                    429 => {
                        refused += 1;
                        sleep(Duration::from_secs(1)).await;
                    }
                    status => panic!("{status}"),
                }
            }
            (carried_out, refused)
        })
        .await;
    let (most, database) = (allowed(began, 1), cost.database);
    let mut found = cost.of_connections(1);
    if refused == 0 || carried_out as f64 > most {
        found.push(format!("{what}: {carried_out} operations were carried out, and {most:.0} are allowed"));
    }
    let room = most * OPERATION / 1024.0 + ELSE;
    if database > room {
        found.push(format!("{what}: the database grew by {database:.0} MiB, and {room:.0} are allowed"));
    }
    found
}

/// Many batches at once: those that are under way when the first are counted are owed, and are waited for.
async fn rewrites_at_once(stage: &Stage) -> Vec<String> {
    let batches = tries(10, 40);
    let what = format!("{batches} batches of {BATCH} updates at once");
    let (_, client) = stage.attacker("at-once").await;
    let memory = stored(&client).await;
    let began = Instant::now();
    let (cost, (answers, next)) = stage
        .endure(&what, async {
            let answers = join_all((0..batches).map(|_| rewrite(&client, &memory))).await;
            (answers, rewrite(&client, &memory).await)
        })
        .await;
    let carried_out = answers.iter().chain([&next]).filter(|answer| answer.status == 200).count() * BATCH;
    let mut found = cost.of_connections(batches);
    let wait: f64 = next.header("retry-after").and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0);
    let paid = allowed(began, 1) + wait * operations_per_second();
    if carried_out as f64 > paid {
        found.push(format!("{what}: {carried_out} operations were carried out, and the next may come after {wait} s"));
    }
    if let Some(other) = answers.iter().find(|answer| !matches!(answer.status, 200 | 429 | 503)) {
        found.push(format!("{what}: {} {:.200}", other.status, other.text));
    }
    found
}

/// The most connections of the pooled engine of which this holds at one time, until told to stop.
async fn sessions(plane: &DataPlane, condition: &str, stop: &AtomicBool) -> i64 {
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    let count = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = 'stellar_pool' AND {condition}");
    let mut most = 0;
    while !stop.load(Ordering::Relaxed) {
        let now: i64 = sqlx::query_scalar(AssertSqlSafe(count.clone())).fetch_one(&mut superuser).await.unwrap();
        most = most.max(now);
        sleep(Duration::from_millis(10)).await;
    }
    most
}

/// What it returned, and the most connections of which the condition held meanwhile.
async fn with_sessions<T>(plane: &DataPlane, condition: &str, behaviour: impl Future<Output = T>) -> (T, i64) {
    let stop = AtomicBool::new(false);
    let behaviour = async {
        let outcome = behaviour.await;
        stop.store(true, Ordering::Relaxed);
        outcome
    };
    tokio::join!(behaviour, sessions(plane, condition, &stop))
}

/// Says what is wrong with that many connections of one tenant's.
fn too_many(what: &str, connections: i64) -> Option<String> {
    // Its own, one that refreshes its index, and one that notes its recalls.
    let most = CONNECTIONS / 2 + 2;
    (connections > most).then(|| format!("{what}: it had {connections} connections at a time, and {most} are allowed"))
}

async fn imports(stage: &Stage) -> Vec<String> {
    let (imports, memories) = (20, 1_000);
    let what = format!("{imports} imports of {memories} memories at once");
    let (tenant, client) = stage.attacker("imports").await;
    let line = |n: usize| format!("{}\n", json!({ "id": Uuid::new_v4(), "content": format!("imported, number {n}") }));
    let file: String = (0..memories).map(line).collect();
    let import = || {
        let request = client.request(Method::POST, "/import").header("content-type", "application/x-ndjson");
        let sent = request.body(file.clone()).send();
        async move { Answer::read(sent.await.unwrap()).await.unwrap() }
    };
    let all = join_all((0..imports).map(|_| import()));
    let waiting = with_sessions(stage.plane(), "wait_event_type = 'Lock'", all);
    let (cost, (answers, connections)) = stage.endure(&what, waiting).await;
    let mut found = cost.of_connections(imports);
    found.extend(too_many(&what, connections));
    if let Some(other) = answers.iter().find(|answer| !matches!(answer.status, 200 | 429 | 503)) {
        found.push(format!("{what}: {} {:.200}", other.status, other.text));
    }
    let count = format!("SELECT memory_count FROM stellar.usage WHERE user_id = '{}'", tenant.id);
    let there: i32 = ask(stage.plane(), &count).await;
    if there != memories as i32 {
        found.push(format!("{what}: {there} memories are there"));
    }
    found
}

/// A tenant whose questions take the database long, for whatever reason: a function that stays replaced until the next stage.
pub async fn slow_questions(stage: &Stage) -> Vec<String> {
    let questions = tries(40, 55);
    let what = format!("{questions} questions at once that take {SLOWNESS:?} each");
    let (tenant, client) = stage.attacker("slow-questions").await;
    let admitted: String =
        ask(stage.plane(), "SELECT pg_get_functiondef('stellar.admitted(uuid, bytea)'::regprocedure)").await;
    let sleeps = format!("BEGIN PERFORM pg_sleep({}) WHERE tenant = '{}';", SLOWNESS.as_secs_f64(), tenant.id);
    administer(stage.plane(), &admitted.replacen("BEGIN", &sleeps, 1)).await;
    let all = join_all((0..questions).map(|_| client.get("/memories?limit=1")));
    let asleep = with_sessions(stage.plane(), "wait_event = 'PgSleep'", all);
    let (cost, (answers, connections)) = stage.endure(&what, asleep).await;
    let mut found = cost.of_connections(questions);
    found.extend(too_many(&what, connections));
    if connections == 0 || !answers.iter().any(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 200)) {
        found.push(format!("{what}: none was carried out"));
    }
    found
}

async fn rows(plane: &DataPlane, table: &str, tenant: &Tenant) -> i64 {
    ask(plane, &format!("SELECT count(*) FROM stellar.{table} WHERE user_id = '{}'", tenant.id)).await
}

/// Writes without an end, as they arrive at the database.
pub async fn entries(stage: &Stage) -> Vec<String> {
    let rounds = tries(56, 300);
    let what = format!("{rounds},000 updates with answers that are kept");
    let (tenant, _) = stage.attacker("entries").await;
    let memories: Vec<String> = (0..1_000).map(|n| format!("written again and again, {n}")).collect();
    stage.plane().fill(&tenant, &memories).await.unwrap();
    let (cost, ()) = stage
        .endure(&what, async {
            for round in 0..rounds {
                let write = format!(
                    "SELECT FROM stellar.usage WHERE user_id = '{0}' FOR UPDATE;
                     UPDATE stellar.memories SET written_at = written_at + interval '1 ms' WHERE user_id = '{0}';
                     INSERT INTO stellar.operations (user_id, op_id, request_hash, answer)
                     SELECT '{0}', '{round}-' || n, sha256('one'), '{{}}' FROM generate_series(1, 1000) n",
                    tenant.id
                );
                administer(stage.plane(), &write).await;
            }
        })
        .await;
    // A change and its answer.
    let pair = cost.database / (rounds as f64).min(ENTRIES_KEPT as f64 / 1e3) / 1e3;
    let a_day = operations_per_second() * 86_400.0;
    println!(
        "a free tenant that writes at its rate all day: {:.0} MiB of log and kept answers at most, where {:.0} MiB were written",
        pair * (ENTRIES_KEPT as f64).min(a_day),
        pair * a_day
    );
    let mut found = cost.of_connections(0);
    for table in ["changes", "operations"] {
        let kept = rows(stage.plane(), table, &tenant).await;
        if kept > ENTRIES_KEPT {
            found.push(format!("{what}: {kept} rows of {table} are kept"));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_without_an_end() {
    let stage = Stage::start(Setting::default()).await;
    nothing(&[rewrites(&stage).await, rewrites_at_once(&stage).await, entries(&stage).await]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_the_database() {
    let stage = Stage::start(Setting::default()).await;
    nothing(&[imports(&stage).await, slow_questions(&stage).await]);
}
