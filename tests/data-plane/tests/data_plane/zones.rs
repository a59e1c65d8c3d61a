//! Zones follow the scores of a tenant that is active: outward with time, inward with recalls, and each holds no more than
//! it has room for. What is forgotten is in the cloud: it is not deleted, and a recall brings it back.

use harness::{Client, Socket, Tenant, TenantSpec, eventually};
use serde_json::{Value, json};

use crate::{shared, tenant};

/// As if so many days had passed for each memory, in the order of storing: a stored score falls by 0.30 in 90 days.
async fn age(tenant: &Tenant, days: &[i32]) {
    let age = "UPDATE stellar.memories m SET total_score = m.total_score - (0.30 / 90 * d.days)::real
         FROM (SELECT o.id, ($2::integer[])[(row_number() OVER (ORDER BY o.id))::integer] AS days
               FROM stellar.memories o WHERE o.user_id = $1) d
         WHERE m.user_id = $1 AND m.id = d.id";
    let aged = sqlx::query(age)
        .bind(tenant.id.uuid())
        .bind(days)
        .execute(&mut shared().await.postgres.superuser("stellar").await.unwrap())
        .await
        .unwrap();
    assert_eq!(aged.rows_affected(), days.len() as u64);
}

/// The zones as they are stored, in the order of storing.
async fn stored_zones(tenant: &Tenant) -> Vec<i16> {
    sqlx::query_scalar("SELECT m.zone FROM stellar.memories m WHERE m.user_id = $1 ORDER BY m.id")
        .bind(tenant.id.uuid())
        .fetch_all(&mut shared().await.postgres.superuser("stellar").await.unwrap())
        .await
        .unwrap()
}

/// How many of the tenant's changes are of these kinds.
async fn logged(tenant: &Tenant, ops: &[&str]) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM stellar.changes c WHERE c.user_id = $1 AND c.op = ANY ($2)")
        .bind(tenant.id.uuid())
        .bind(ops)
        .fetch_one(&mut shared().await.postgres.superuser("stellar").await.unwrap())
        .await
        .unwrap()
}

/// The tenant's stats once its log has so many entries. Asking keeps the tenant active.
async fn stats_at(client: &Client, change_seq: i64) -> Value {
    eventually(&format!("the log has {change_seq} entries"), || async {
        let stats = client.get("/stats").await.unwrap().body;
        (stats["change_seq"] == change_seq).then_some(stats)
    })
    .await
}

/// Memories by zone, from the core outward.
fn counts(stats: &Value) -> Vec<i64> {
    stats["zones"].as_array().unwrap().iter().map(|zone| zone["count"].as_i64().unwrap()).collect()
}

async fn store(client: &Client, content: &str, importance: f64) -> Value {
    let stored = client.post("/store", &json!({ "content": content, "importance": importance })).await.unwrap();
    assert_eq!(stored.status, 201, "{}", stored.text);
    stored.body
}

async fn store_many(client: &Client, count: usize, content: &str, importance: f64) {
    let operation = json!({ "op": "store", "content": content, "importance": importance });
    let answer = client.post("/batch", &json!({ "operations": vec![operation; count] })).await.unwrap();
    let results = answer.body["results"].as_array().unwrap_or_else(|| panic!("{}", answer.text));
    assert_eq!(results.iter().filter(|result| result["status"] == 201).count(), count);
}

async fn memory(client: &Client, id: &Value) -> Value {
    let answer = client.get(&format!("/memories/{}", id.as_str().unwrap())).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_that_nobody_recalls_moves_outward_and_the_log_says_so() {
    let plane = shared().await;
    let ada = tenant("outward").await;
    let client = plane.client(&ada);
    // Importance, days without a recall, the zone before and the zone after.
    let courses: [(f64, i32, i16, i16); 4] = [(0.5, 0, 2, 2), (1.0, 30, 1, 2), (0.5, 80, 2, 3), (0.5, 140, 2, 4)];
    let mut ids = Vec::new();
    for (importance, _, zone, _) in courses {
        let stored = store(&client, "a note", importance).await;
        assert_eq!(stored["zone"], zone, "{stored}");
        ids.push(stored["id"].clone());
    }
    let (mut socket, seq) = Socket::enter(&plane.url(), &ada.key, None).await.unwrap();
    assert_eq!(seq, 4);

    age(&ada, &courses.map(|(_, days, _, _)| days)).await;
    let zones = courses.map(|(_, _, _, zone)| zone);
    for (id, zone) in ids.iter().zip(zones) {
        let memory = memory(&client, id).await;
        assert_eq!(memory["zone"], zone, "a reader sees it at once: {memory}");
    }
    let mut moved = Vec::new();
    for seq in 5..8 {
        let change = socket.frame_of("change").await.unwrap();
        assert_eq!((&change["seq"], &change["op"]), (&json!(seq), &json!("move")), "{change}");
        moved.push((change["id"].clone(), change["memory"]["zone"].clone()));
    }
    moved.sort_by_key(|(id, _)| ids.iter().position(|known| known == id));
    let expected: Vec<_> = ids.iter().cloned().zip(zones.map(|zone| json!(zone))).skip(1).collect();
    assert_eq!(moved, expected);
    assert_eq!(stored_zones(&ada).await, zones);

    let stats = stats_at(&client, 7).await;
    assert_eq!(counts(&stats), [0, 0, 2, 1, 1]);
    assert_eq!((&stats["total_memories"], &stats["quota"]["used"]), (&json!(4), &json!(4)), "nothing is deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_that_is_recalled_moves_into_the_core_and_its_neighbour_stays_outside() {
    let plane = shared().await;
    let ada = tenant("inward").await;
    let client = plane.client(&ada);
    let recalled = store(&client, "the violin is in the attic", 1.0).await["id"].clone();
    let neighbour = store(&client, "the trumpet is in the cellar", 1.0).await["id"].clone();
    age(&ada, &[120, 120]).await;
    for id in [&recalled, &neighbour] {
        assert_eq!(memory(&client, id).await["zone"], 3);
    }
    for _ in 0..10 {
        let answer = client.recall("violin attic").await.unwrap();
        let found: Vec<_> = answer.body.as_array().unwrap().iter().map(|memory| &memory["id"]).collect();
        assert_eq!(found, [&recalled], "{}", answer.text);
    }
    let inside = eventually("it is in the core", || async {
        let memory = memory(&client, &recalled).await;
        (memory["zone"] == 0 && memory["recall_count"] == 10).then_some(memory)
    })
    .await;
    assert!(inside["last_recalled_at"].is_string() && inside["score"].as_f64().unwrap() >= 0.8, "{inside}");
    let outside = memory(&client, &neighbour).await;
    assert_eq!((&outside["zone"], &outside["recall_count"]), (&json!(3), &json!(0)), "{outside}");
    assert_eq!(stored_zones(&ada).await, [0, 3]);
    assert!(logged(&ada, &["move"]).await >= 2);
    assert_eq!(logged(&ada, &["update", "forget"]).await, 0, "a recall is no change");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_zone_pushes_its_lowest_outward_and_what_is_forgotten_comes_back_by_a_recall() {
    let plane = shared().await;
    let ada = plane.tenant("full", TenantSpec { max_memories: -1, ..TenantSpec::default() }).await.unwrap();
    let client = plane.client(&ada);
    store_many(&client, 200, "small talk", 0.1).await;
    store_many(&client, 999, "decision", 0.5).await;
    let wanted = store(&client, "lighthouse", 0.5).await["id"].clone();

    // By its score each of them belongs to the outer zone, which has room for 1,000.
    let stats = stats_at(&client, 1400).await;
    assert_eq!(counts(&stats), [0, 0, 1000, 200, 0]);
    assert_eq!(logged(&ada, &["move"]).await, 200);
    let pushed = client.get("/memories?zone=3&limit=500").await.unwrap();
    let pushed = pushed.body["items"].as_array().unwrap();
    assert_eq!(pushed.len(), 200);
    assert!(pushed.iter().all(|memory| memory["content"] == "small talk"), "the lowest scores: {pushed:?}");

    // By another engine: one knows up to which score it has looked for forgotten memories, and time never lowers one of
    // them below that, as the test does.
    age(&ada, &[140; 1200]).await;
    let other = plane.another_engine(&[]).await.unwrap();
    let active = reqwest::Client::new()
        .get(format!("http://127.0.0.1:{}/api/v1/stats", other.port))
        .header(tenancy::TENANT_HEADER, ada.id.to_string())
        .header(tenancy::CAPABILITY_HEADER, plane.master().capability(ada.id, 1).expose())
        .send()
        .await
        .unwrap();
    assert_eq!(active.status(), 200);
    let stats = stats_at(&client, 2600).await;
    assert_eq!(counts(&stats), [0, 0, 0, 0, 1200]);
    assert_eq!(stored_zones(&ada).await, [4; 1200]);
    assert_eq!(stats["total_memories"], 1200, "nothing is deleted");

    let recalled = client.recall("lighthouse").await.unwrap();
    assert_eq!((&recalled.body[0]["id"], &recalled.body[0]["zone"]), (&wanted, &json!(4)), "{}", recalled.text);
    let stats = stats_at(&client, 2601).await;
    assert_eq!(counts(&stats), [0, 1, 0, 0, 1199]);
    assert_eq!(memory(&client, &wanted).await["zone"], 1);
}
