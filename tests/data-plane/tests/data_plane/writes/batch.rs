//! Many operations in one request, or in many at once: in order, each with its own answer, and none at the cost of
//! another.

use std::collections::HashSet;

use futures::future::join_all;
use harness::{Answer, DataPlane, TenantSpec, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection as _;
use uuid::Uuid;

use super::{assert_told, batch, content, id_of, log, two_agents};
use crate::{shared, tenant};

#[tokio::test(flavor = "multi_thread")]
async fn operations_are_carried_out_in_order_and_the_log_has_them_so() {
    let (tenant, ada, _) = two_agents("in-order").await;
    // By id they are in the opposite order.
    let ids: Vec<String> = (0..30u128).rev().map(|n| Uuid::from_u128(n + 1).to_string()).collect();
    let mut operations: Vec<Value> =
        ids.iter().map(|id| json!({ "op": "store", "id": id, "content": format!("note {id}") })).collect();
    operations.extend(ids.iter().map(|id| json!({ "op": "update", "id": id, "content": format!("changed {id}") })));
    operations.extend(ids[1..].iter().map(|id| json!({ "op": "remove", "id": id })));
    operations.push(json!({ "op": "store", "id": ids[1], "content": "stored again" }));
    let results = batch(&ada, json!(operations)).await;
    assert_eq!(results.len(), operations.len());
    let log = log(&tenant).await;
    assert_eq!(log.len(), operations.len());
    for (n, (operation, result)) in operations.iter().zip(&results).enumerate() {
        let stores = operation["op"] == "store";
        assert_eq!((&result["status"], &result["applied"]), (&json!(if stores { 201 } else { 200 }), &json!(true)));
        assert_eq!((&result["seq"], &result["id"]), (&json!(n + 1), &operation["id"]), "{result}");
        let op = operation["op"].as_str().unwrap();
        assert_told(&log, &result["seq"], if op == "remove" { "forget" } else { op }, &operation["id"], "default");
        let there = op != "remove";
        assert_eq!((result["zone"].is_u64(), result["score"].is_f64()), (there, there), "{result}");
    }
    assert_eq!(content(&ada, &ids[0]).await, Some(format!("changed {}", ids[0])));
    assert_eq!(content(&ada, &ids[1]).await.as_deref(), Some("stored again"));
    assert_eq!(ada.get("/stats").await.unwrap().body["total_memories"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_passes_the_quota_in_its_middle_stores_what_fits() {
    let plane = shared().await;
    let spec = TenantSpec { max_memories: 3, ..TenantSpec::default() };
    let tenant = plane.tenant("quota-in-a-batch", spec).await.unwrap();
    let client = plane.client(&tenant);
    let id = Uuid::new_v4();
    let store = |n: u32| json!({ "op": "store", "op_id": format!("s{n}"), "content": format!("note {n}") });
    let results = batch(
        &client,
        json!([
            { "op": "store", "id": id, "content": "the first" },
            store(1), store(2), store(3), store(4),
            { "op": "update", "id": id, "content": "changed" },
            { "op": "remove", "id": id },
            store(5), store(6),
        ]),
    )
    .await;
    let statuses: Vec<_> = results.iter().map(|result| result["status"].as_i64().unwrap()).collect();
    assert_eq!(statuses, [201, 201, 201, 403, 403, 200, 200, 201, 403], "{results:?}");
    for refused in [3, 4, 8] {
        let problem = &results[refused]["problem"];
        assert!(problem["type"].as_str().unwrap().ends_with("/memory-quota-reached"), "{problem}");
        assert_eq!((&problem["used"], &problem["limit"], &problem["status"]), (&json!(3), &json!(3), &json!(403)));
    }
    assert_eq!(client.get("/stats").await.unwrap().body["total_memories"], 3);
    assert_eq!(log(&tenant).await.len(), 6);
    // A refusal is not kept: with room it is carried out, and only then once.
    plane.apply(&tenant, TenantSpec { max_memories: 4, ..spec }).await.unwrap();
    let again = batch(&client, json!([store(1), store(3), store(3), store(4)])).await;
    let replayed: Vec<_> = again.iter().map(|result| result["replayed"].as_bool()).collect();
    assert_eq!(replayed, [Some(true), Some(false), Some(true), None], "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_one_operation_concerns_it_alone() {
    let (tenant, ada, _) = two_agents("one-is-wrong").await;
    let id = Uuid::new_v4();
    let results = batch(
        &ada,
        json!([
            { "op": "store", "op_id": "a", "id": id, "content": "good" },
            { "op": "store", "op_id": "b", "content": "" },
            { "op": "erase", "op_id": "c", "id": id },
            "store",
            { "op": "update", "op_id": "d", "id": id },
            { "op": "update", "op_id": "e", "id": "rubbish", "content": "x" },
            { "op": "remove", "op_id": "f", "id": id, "at": "yesterday" },
            { "op": "store", "op_id": "g", "id": id, "content": "the id is taken" },
            { "op": "update", "op_id": "h", "id": id, "content": "better" },
        ]),
    )
    .await;
    let statuses: Vec<_> = results.iter().map(|result| result["status"].as_i64().unwrap()).collect();
    assert_eq!(statuses, [201, 400, 400, 400, 400, 400, 400, 409, 200], "{results:?}");
    let op_ids: Vec<_> = results.iter().map(|result| result["op_id"].as_str()).collect();
    assert_eq!(op_ids, [Some("a"), Some("b"), Some("c"), None, Some("d"), Some("e"), Some("f"), Some("g"), Some("h")]);
    for refused in &results[1..8] {
        assert!(refused["problem"]["detail"].as_str().unwrap().len() > 10, "{refused}");
        assert_eq!(refused["applied"], Value::Null, "{refused}");
    }
    assert_eq!(content(&ada, &id.to_string()).await.as_deref(), Some("better"));
    assert_eq!(log(&tenant).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_operation_is_refused_alone_under_its_name() {
    let (tenant, ada, _) = two_agents("unreadable").await;
    let deep = format!("{}1{}", "[".repeat(130), "]".repeat(130));
    let deep = format!(r#"{{"op":"store","op_id":"d","content":"x","metadata":{{"a":{deep}}}}}"#);
    let operations = [
        r#"{"op":"store","op_id":"a","content":"the first good one"}"#,
        r#"{"op":"store","op_id":"b","content":"cut \ud83d"}"#,
        r#"{"op":"store","op_id":"c","content":"x","metadata":{"n":1e999}}"#,
        &deep,
        r#"{"op":"store","op_id":"e","content":"x","metadata":{"n":12345678901234567890123}}"#,
        r#""cut \ud83d""#,
        r#"{"op":"store","op_id":"g","content":"the last good one"}"#,
    ];
    let body = format!(r#"{{"operations":[{}]}}"#, operations.join(","));
    for again in [false, true] {
        let request = ada.request(Method::POST, "/batch").header("content-type", "application/json").body(body.clone());
        let answer = Answer::read(request.send().await.unwrap()).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
        let results = answer.body["results"].as_array().unwrap();
        let statuses: Vec<_> = results.iter().map(|result| result["status"].as_i64().unwrap()).collect();
        assert_eq!(statuses, [201, 400, 400, 400, 400, 400, 201], "{results:?}");
        let op_ids: Vec<_> = results.iter().map(|result| result["op_id"].as_str()).collect();
        assert_eq!(op_ids, [Some("a"), Some("b"), Some("c"), Some("d"), Some("e"), None, Some("g")]);
        for (place, named) in [(1, "`content`"), (2, "`metadata`"), (3, "`metadata`"), (4, "`metadata`")] {
            let detail = results[place]["problem"]["detail"].as_str().unwrap();
            assert!(detail.contains(named), "{named}: {detail}");
        }
        assert_eq!((&results[0]["replayed"], &results[6]["replayed"]), (&json!(again), &json!(again)));
        assert_eq!(log(&tenant).await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_bounded_and_a_full_one_is_carried_out() {
    let ada = tenant("full-batch").await;
    let client = shared().await.client(&ada);
    for (body, named) in [
        (json!({ "operations": [] }), "operations"),
        (json!({ "operations": vec![json!({ "op": "erase" }); 1001] }), "operations"),
        (json!({ "operations": {} }), "operations"),
        (json!({ "operations": [], "atomic": true }), "atomic"),
        (json!({}), "operations"),
    ] {
        let refused = client.post("/batch", &body).await.unwrap();
        assert_eq!((refused.status, refused.problem()), (400, Some("invalid-request")), "{}", refused.text);
        assert!(refused.text.contains(named), "{named}: {}", refused.text);
    }
    let stores: Vec<Value> =
        (0..1000).map(|n| json!({ "op": "store", "content": format!("{n} {}", "long ".repeat(700)) })).collect();
    let results = batch(&client, json!(stores)).await;
    assert_eq!(results.len(), 1000);
    for (seq, result) in (1..).zip(&results) {
        assert_eq!((&result["status"], &result["seq"]), (&json!(201), &json!(seq)), "{result}");
    }
    let updates: Vec<Value> =
        results.iter().map(|result| json!({ "op": "update", "id": result["id"], "importance": 0.7 })).collect();
    let updated = batch(&client, json!(updates)).await;
    assert!(updated.iter().all(|result| result["applied"] == true));
    let removals: Vec<Value> = results.iter().map(|result| json!({ "op": "remove", "id": result["id"] })).collect();
    let removed = batch(&client, json!(removals)).await;
    assert!(removed.iter().all(|result| result["applied"] == true));
    assert_eq!(client.get("/stats").await.unwrap().body["total_memories"], 0);
    assert_eq!(log(&ada).await.len(), 3000);

    let large = json!({ "operations": [{ "op": "store", "content": "x".repeat(4 * 1024 * 1024) }] });
    let refused = client.post("/batch", &large).await.unwrap();
    assert_eq!((refused.status, refused.problem()), (413, Some("payload-too-large")), "{}", refused.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_at_once_is_each_told_once_and_of_the_right_agent() {
    let (tenant, ada, zoe) = two_agents("all-at-once").await;
    let tasks = (0..24).map(|n| {
        let (client, agent) = if n % 2 == 0 { (ada.clone(), "default") } else { (zoe.clone(), "zoe") };
        async move {
            let (id, gone) = (Uuid::new_v4(), Uuid::new_v4());
            let mut told = Vec::new();
            let operations = json!([
                { "op": "store", "id": id, "content": format!("note {n}") },
                { "op": "store", "id": gone, "content": format!("short-lived {n}") },
                { "op": "remove", "id": gone },
            ]);
            for (result, op) in batch(&client, operations).await.iter().zip(["store", "store", "forget"]) {
                told.push((result["seq"].clone(), op, result["id"].clone(), agent));
            }
            for round in 0..4 {
                let changed = super::patch(&client, &id.to_string(), json!({ "metadata": { "round": round } })).await;
                assert_eq!(changed.status, 200, "{}", changed.text);
                told.push((changed.body["seq"].clone(), "update", json!(id), agent));
            }
            told
        }
    });
    let told: Vec<_> = join_all(tasks).await.into_iter().flatten().collect();
    let log = log(&tenant).await;
    let logged: Vec<_> = log.iter().filter(|(_, op, ..)| op != "move").collect();
    assert_eq!(told.len(), 24 * 7);
    assert_eq!(logged.len(), told.len());
    let numbers: HashSet<i64> = told.iter().map(|(seq, ..)| seq.as_i64().unwrap()).collect();
    assert_eq!(numbers.len(), told.len(), "no number is given twice");
    for (seq, op, id, agent) in &told {
        assert_told(&log, seq, op, id, agent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_wait_together_share_a_transaction() {
    // Of its own, so that its gateway has no other requests in flight.
    let plane = DataPlane::start().await.unwrap();
    let ada = plane.tenant("waits-together", TenantSpec::default()).await.unwrap();
    let client = plane.client(&ada);
    assert_eq!(client.get("/auth/usage").await.unwrap().status, 200);
    let mut holder = plane.postgres.superuser("stellar").await.unwrap();
    let mut lock = holder.begin().await.unwrap();
    let lock_usage = "SELECT pg_backend_pid() FROM stellar.usage u WHERE u.user_id = $1 FOR UPDATE";
    let pid: i32 = sqlx::query_scalar(lock_usage).bind(ada.id.uuid()).fetch_one(&mut *lock).await.unwrap();

    let store = |n| {
        let client = client.clone();
        tokio::spawn(async move { client.store(&format!("note {n}")).await.unwrap() })
    };
    let stores: Vec<_> = (0..12).map(store).collect();
    eventually("all stores are under way", || async {
        plane.gateway.metrics().await.unwrap().contains("stellar_gateway_requests_in_flight 12\n").then_some(())
    })
    .await;
    eventually("a store waits for the lock", || async {
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity a WHERE $1 = ANY (pg_blocking_pids(a.pid)))";
        let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
        sqlx::query_scalar::<_, bool>(waits).bind(pid).fetch_one(&mut superuser).await.unwrap().then_some(())
    })
    .await;
    lock.commit().await.unwrap();

    let mut ids = HashSet::new();
    for store in stores {
        ids.insert(id_of(&store.await.unwrap()));
    }
    assert_eq!(ids.len(), 12);
    let transactions: i64 =
        sqlx::query_scalar("SELECT count(DISTINCT m.xmin::text) FROM stellar.memories m WHERE m.user_id = $1")
            .bind(ada.id.uuid())
            .fetch_one(&mut holder)
            .await
            .unwrap();
    assert!((1..12).contains(&transactions), "{transactions} transactions for 12 stores");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_batches_of_two_tenants_with_the_same_ids_and_names_know_nothing_of_each_other() {
    let (ada, ada_client, _) = two_agents("same-ada").await;
    let (eve, eve_client, _) = two_agents("same-eve").await;
    let id = Uuid::new_v4();
    let operations = |whose: &str| {
        json!([
            { "op": "store", "op_id": "1", "id": id, "content": format!("{whose} violin") },
            { "op": "update", "op_id": "2", "id": id, "content": format!("{whose} trumpet") },
        ])
    };
    let (hers, others) = (batch(&ada_client, operations("ada")).await, batch(&eve_client, operations("eve")).await);
    for (first, second) in hers.iter().zip(&others) {
        assert_eq!((&first["applied"], &second["applied"]), (&json!(true), &json!(true)));
        assert_eq!((&first["replayed"], &second["replayed"]), (&json!(false), &json!(false)));
        assert_eq!(first["seq"], second["seq"]);
    }
    let removed = batch(&eve_client, json!([{ "op": "remove", "op_id": "3", "id": id }])).await;
    assert_eq!(removed[0]["applied"], true);
    assert_eq!(content(&ada_client, &id.to_string()).await.as_deref(), Some("ada trumpet"));
    assert_eq!((log(&ada).await.len(), log(&eve).await.len()), (2, 3));
}
