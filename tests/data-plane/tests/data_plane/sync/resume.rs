//! Coming back: with what was missed, or with the word that it is gone.

use serde_json::json;

use super::{changes_to, enter, roomy};
use crate::shared;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_ten_thousand_changes_behind_catches_up_and_then_hears_live() {
    let plane = shared().await;
    let tenant = roomy("sync-behind").await;
    let client = plane.client(&tenant);
    for round in 0..10 {
        let operations: Vec<_> =
            (0..1000).map(|n| json!({ "op": "store", "content": format!("round {round} note {n}") })).collect();
        let answer = client.post("/batch", &json!({ "operations": operations })).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let (mut socket, seq) = enter(plane, &tenant, Some(0)).await;
    assert!(seq >= 10_000, "{seq}");
    changes_to(&mut socket, 0, seq).await;
    let stored = client.store("live").await.unwrap();
    let live = stored.body["seq"].as_i64().expect("its number");
    // Zones are put in order meanwhile: moves may come in between.
    let changes = changes_to(&mut socket, seq, live).await;
    assert_eq!(changes.last().unwrap()["memory"]["content"], "live");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_behind_the_compaction_is_told_and_ends_equal() {
    let plane = shared().await;
    let tenant = roomy("sync-compacted").await;
    let client = plane.client(&tenant);
    for n in 0..10 {
        assert_eq!(client.store(&format!("note {n}")).await.unwrap().status, 201);
    }
    let mut admin = plane.postgres.superuser("stellar").await.unwrap();
    let prune = "DELETE FROM stellar.changes WHERE user_id = $1 AND seq <= 8";
    sqlx::query(prune).bind(tenant.id.uuid()).execute(&mut admin).await.unwrap();
    let (mut socket, _) = enter(plane, &tenant, Some(3)).await;
    let resync = socket.frame().await.unwrap();
    assert_eq!(resync, json!({ "type": "resync", "seq": 10 }));
    let all = client.get("/memories?limit=100").await.unwrap();
    let mut held: Vec<String> =
        all.body["items"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(held.len(), 10);
    let gone = held[0].clone();
    assert_eq!(client.delete(&format!("/forget/{gone}")).await.unwrap().status, 200);
    let change = &changes_to(&mut socket, 10, 11).await[0];
    assert_eq!((&change["op"], &change["id"]), (&json!("remove"), &json!(gone)));
    held.retain(|id| id != change["id"].as_str().unwrap());
    assert_eq!(client.get("/stats").await.unwrap().body["total_memories"], held.len());
    // One within what is left needs no resync, and one that claims to know more than there is gets one.
    let (mut within, _) = enter(plane, &tenant, Some(8)).await;
    changes_to(&mut within, 8, 11).await;
    let (mut ahead, _) = enter(plane, &tenant, Some(99)).await;
    assert_eq!(ahead.frame().await.unwrap(), json!({ "type": "resync", "seq": 11 }));
}
