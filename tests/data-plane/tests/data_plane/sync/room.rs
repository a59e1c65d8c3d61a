//! Who hears what: all of a tenant, and nobody else.

use harness::{Client, Heard, Socket, eventually};
use serde_json::json;
use uuid::Uuid;

use super::{changes_to, enter, roomy, roomy_at};
use crate::shared;

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_every_way_to_write_arrive_in_order() {
    let plane = shared().await;
    let tenant = roomy("sync-ways").await;
    let client = plane.client(&tenant);
    let (mut socket, start) = enter(plane, &tenant, None).await;
    let stored = client.store("by REST").await.unwrap();
    let id = stored.body["id"].as_str().unwrap().to_owned();
    let batch = json!({ "operations": [{ "op": "store", "content": "by batch" }, { "op": "update", "id": id, "content": "again" }] });
    assert_eq!(client.post("/batch", &batch).await.unwrap().status, 200);
    let made = client.post("/auth/api-keys", &json!({ "agent": "second" })).await.unwrap();
    let key = made.body["api_key"].as_str().or(made.body["key"].as_str()).expect("the key's text").to_owned();
    let second = Client::new(&plane.url(), &key);
    eventually("the second agent's key opens", || async {
        (second.get("/stats").await.unwrap().status == 200).then_some(())
    })
    .await;
    assert_eq!(second.store("by another agent").await.unwrap().status, 201);
    assert_eq!(second.delete(&format!("/forget/{id}")).await.unwrap().status, 200);
    let changes = changes_to(&mut socket, start, start + 5).await;
    let seen: Vec<_> = changes.iter().map(|c| (c["op"].as_str().unwrap(), c["agent"].as_str().unwrap())).collect();
    assert_eq!(
        seen,
        [("store", "default"), ("store", "default"), ("update", "default"), ("store", "second"), ("remove", "second")]
    );
    assert_eq!(changes[3]["memory"]["content"], "by another agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_replica_wrote_arrives_too() {
    let plane = shared().await;
    let tenant = roomy("sync-replica").await;
    let (mut socket, start) = enter(plane, &tenant, None).await;
    let other = plane.another_engine(&[]).await.unwrap();
    let gateway = plane.gateway_to(&[&other]).await.unwrap();
    let url = format!("http://127.0.0.1:{}", gateway.port);
    assert_eq!(Client::new(&url, &tenant.key).store("elsewhere").await.unwrap().status, 201);
    let changes = changes_to(&mut socket, start, start + 1).await;
    assert_eq!(changes[0]["memory"]["content"], "elsewhere");
    let (mut there, _) = Socket::enter(&url, &tenant.key, Some(start)).await.unwrap();
    assert_eq!(plane.client(&tenant).store("and back").await.unwrap().status, 201);
    changes_to(&mut there, start, start + 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_with_the_same_ids_hear_not_one_frame_of_each_other() {
    let plane = shared().await;
    let (ada, eve) = (roomy("sync-ada").await, roomy("sync-eve").await);
    let ids: Vec<Uuid> = (0..20).map(|_| Uuid::new_v4()).collect();
    let ((mut a, from_a), (mut e, from_e)) = (enter(plane, &ada, None).await, enter(plane, &eve, None).await);
    for (socket, whose) in [(&mut a, "ada's"), (&mut e, "eve's")] {
        for id in &ids {
            let store =
                json!({ "op": "store", "op_id": format!("s-{id}"), "id": id, "content": format!("{whose} own") });
            let update = json!({ "op": "update", "op_id": format!("u-{id}"), "id": id, "metadata": { "of": whose } });
            socket.send_all(&[store, update]).await.unwrap();
        }
    }
    // Eve removes all of hers; Ada's stay.
    for id in &ids {
        e.send(&json!({ "op": "remove", "op_id": format!("r-{id}"), "id": id })).await.unwrap();
    }
    for (socket, whose, from, changes) in [(&mut a, "ada's own", from_a, 40), (&mut e, "eve's own", from_e, 60)] {
        for change in changes_to(socket, from, from + changes).await {
            let memory = &change["memory"];
            assert!(memory.is_null() || memory["content"] == whose, "a foreign frame: {change}");
        }
    }
    // A last write of each is the next that each hears: nothing of the other came in between.
    for (socket, tenant, from) in [(&mut a, &ada, from_a + 40), (&mut e, &eve, from_e + 60)] {
        assert_eq!(plane.client(tenant).store("the last").await.unwrap().status, 201);
        loop {
            let Heard::Frame(frame) = socket.hear().await.unwrap() else { panic!("closed") };
            if frame["type"] == "change" {
                assert_eq!((frame["seq"].as_i64(), &frame["memory"]["content"]), (Some(from + 1), &json!("the last")));
                break;
            }
        }
    }
    assert_eq!(plane.client(&ada).get("/stats").await.unwrap().body["total_memories"], 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_read_is_closed_and_slows_nobody() {
    let plane = harness::DataPlane::start().await.unwrap();
    let tenant = roomy_at(&plane, "sync-stalled").await;
    let (stalled, _) = enter(&plane, &tenant, None).await;
    let (mut reader, start) = enter(&plane, &tenant, None).await;
    let text = "x".repeat(9_000);
    let client = plane.client(&tenant);
    // Far more than the kernel keeps for one that does not read.
    let rounds = 40;
    for round in 0..rounds {
        let operations: Vec<_> =
            (0..50).map(|n| json!({ "op": "store", "content": format!("{round} {n} {text}") })).collect();
        assert_eq!(client.post("/batch", &json!({ "operations": operations })).await.unwrap().status, 200);
        changes_to(&mut reader, start + round * 50, start + (round + 1) * 50).await;
    }
    let closed = "stellar_gateway_sync_closed_total{code=\"4009\"} 1";
    harness::eventually_within(std::time::Duration::from_mins(1), "the one that does not read is closed", || async {
        plane.gateway.metrics().await.unwrap().contains(closed).then_some(())
    })
    .await;
    drop(stalled);
}
