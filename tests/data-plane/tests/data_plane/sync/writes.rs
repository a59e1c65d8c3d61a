//! What a client sends: carried out once, in order, each answered.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{changes_to, enter, roomy};
use crate::shared;

#[tokio::test(flavor = "multi_thread")]
async fn store_update_and_remove_are_acknowledged_with_their_number_and_seen() {
    let plane = shared().await;
    let tenant = roomy("sync-writes").await;
    let (mut socket, start) = enter(plane, &tenant, None).await;
    let id = Uuid::new_v4();
    socket
        .send_all(&[
            json!({ "op": "store", "op_id": "1", "id": id, "content": "the tide is high", "importance": 0.9 }),
            json!({ "op": "update", "op_id": "2", "id": id, "content": "the tide is low" }),
            json!({ "op": "remove", "op_id": "3", "id": id }),
        ])
        .await
        .unwrap();
    let (mut acks, mut changes) = (Vec::new(), Vec::new());
    while acks.len() + changes.len() < 6 {
        let frame = socket.frame().await.unwrap();
        match frame["type"].as_str() {
            Some("ack") => acks.push(frame),
            Some("change") => changes.push(frame),
            _ => panic!("{frame}"),
        }
    }
    for (n, ack) in acks.iter().enumerate() {
        assert_eq!(ack["op_id"], (n + 1).to_string());
        assert_eq!((&ack["applied"], ack["seq"].as_i64()), (&json!(true), Some(start + n as i64 + 1)), "{ack}");
        assert_eq!(ack["id"], id.to_string());
    }
    let ops: Vec<&Value> = changes.iter().map(|change| &change["op"]).collect();
    assert_eq!(ops, ["store", "update", "remove"]);
    assert!(changes.iter().all(|change| change["id"] == id.to_string() && change["agent"] == "default"));
    assert_eq!(changes[2].get("memory"), None, "what is gone has no memory");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_sent_again_is_answered_as_the_first_time() {
    let plane = shared().await;
    let tenant = roomy("sync-again").await;
    let (mut socket, _) = enter(plane, &tenant, None).await;
    let store = json!({ "op": "store", "op_id": "once", "content": "only once" });
    socket.send(&store).await.unwrap();
    let first = socket.frame_of("ack").await.unwrap();
    let (mut other, _) = enter(plane, &tenant, None).await;
    other.send(&store).await.unwrap();
    let again = other.frame_of("ack").await.unwrap();
    assert_eq!((&again["id"], &again["seq"], &again["replayed"]), (&first["id"], &first["seq"], &json!(true)));
    other.send(&json!({ "op": "store", "op_id": "once", "content": "something else" })).await.unwrap();
    let error = other.frame_of("error").await.unwrap();
    assert_eq!((&error["op_id"], &error["error"]), (&json!("once"), &json!("conflict")), "{error}");
    assert_eq!(plane.client(&tenant).get("/stats").await.unwrap().body["total_memories"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_one_frame_is_told_and_the_next_is_carried_out() {
    let plane = shared().await;
    let tenant = roomy("sync-wrong").await;
    let (mut socket, start) = enter(plane, &tenant, None).await;
    let unknown = Uuid::new_v4();
    let wrong = [
        (json!([1]), None, "invalid-request"),
        (json!({ "op": "store", "content": "no op_id" }), None, "invalid-request"),
        (json!({ "op": "erase", "op_id": "a" }), Some("a"), "invalid-request"),
        (json!({ "op": "store", "op_id": "b" }), Some("b"), "invalid-request"),
        (json!({ "op": "store", "op_id": "c", "content": "x", "importance": 7 }), Some("c"), "invalid-request"),
        (json!({ "op": "update", "op_id": "d", "id": "no uuid", "content": "x" }), Some("d"), "invalid-request"),
        (json!({ "op": "update", "op_id": "e", "id": unknown }), Some("e"), "invalid-request"),
    ];
    for (frame, op_id, error) in &wrong {
        socket.send(frame).await.unwrap();
        let answer = socket.frame().await.unwrap();
        assert_eq!((&answer["type"], &answer["error"]), (&json!("error"), &json!(error)), "{frame}: {answer}");
        assert_eq!(answer["op_id"].as_str(), *op_id, "{answer}");
    }
    socket.send(&json!({ "op": "update", "op_id": "f", "id": unknown, "content": "x" })).await.unwrap();
    let late = socket.frame_of("ack").await.unwrap();
    assert_eq!((&late["applied"], &late["reason"]), (&json!(false), &json!("removed")), "{late}");
    socket.send(&json!({ "op": "store", "op_id": "g", "content": "a good one" })).await.unwrap();
    let changes = changes_to(&mut socket, start, start + 1).await;
    assert_eq!(changes[0]["memory"]["content"], "a good one");
}

#[tokio::test(flavor = "multi_thread")]
async fn operation_that_cannot_be_read_stops_no_other() {
    let plane = shared().await;
    let tenant = roomy("sync-unreadable").await;
    let (mut socket, start) = enter(plane, &tenant, None).await;
    let nested = format!(r#"{{"op":"store","op_id":"d","metadata":{}{}}}"#, "[".repeat(130), "]".repeat(130));
    let frames = [
        r#"{"op":"store","op_id":"a","content":"one"}"#,
        r#"{"op":"store","op_id":"b","content":"cut \ud83d"}"#,
        r#"{"op":"store","op_id":"c","content":"x","metadata":{"n":1e999}}"#,
        &nested,
        r#"{"op":"store","op_id":"e","content":"x","metadata":{"n":NaN}}"#,
        r#"{"op":"store","op_id":"f","content":"two"}"#,
    ];
    for frame in frames {
        socket.message(tokio_tungstenite::tungstenite::Message::Text(frame.into())).await.unwrap();
    }
    let (mut acknowledged, mut refused) = (Vec::new(), Vec::new());
    while acknowledged.len() + refused.len() < frames.len() {
        let answer = socket.frame().await.unwrap();
        match answer["type"].as_str() {
            Some("ack") => acknowledged.push(answer["op_id"].clone()),
            Some("error") => {
                assert_eq!(answer["error"], "invalid-request", "{answer}");
                refused.push(answer["op_id"].clone());
            }
            _ => {}
        }
    }
    assert_eq!((acknowledged, refused), (vec![json!("a"), json!("f")], ["b", "c", "d", "e"].map(Value::from).to_vec()));
    assert_eq!(plane.client(&tenant).get("/stats").await.unwrap().body["change_seq"], start + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_too_fast_is_read_more_slowly_and_loses_nothing() {
    let plane = shared().await;
    let spec = harness::TenantSpec { socket_messages_per_second: 20, ..super::ROOMY };
    let tenant = plane.tenant("sync-pace", spec).await.unwrap();
    let (mut socket, start) = enter(plane, &tenant, None).await;
    let begun = std::time::Instant::now();
    let stores: Vec<Value> =
        (0..60).map(|n| json!({ "op": "store", "op_id": n.to_string(), "content": format!("note {n}") })).collect();
    socket.send_all(&stores).await.unwrap();
    changes_to(&mut socket, start, start + 60).await;
    let took = begun.elapsed().as_secs_f64();
    assert!(took >= 1.9, "60 at 20 a second, 20 of them at once, take 2 s: {took}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quota_is_told_with_its_figures() {
    let plane = shared().await;
    let spec = harness::TenantSpec { max_memories: 1, ..super::ROOMY };
    let tenant = plane.tenant("sync-quota", spec).await.unwrap();
    let (mut socket, _) = enter(plane, &tenant, None).await;
    let store = |n: &str| json!({ "op": "store", "op_id": n, "content": n });
    socket.send_all(&[store("a"), store("b")]).await.unwrap();
    let error = socket.frame_of("error").await.unwrap();
    assert_eq!((&error["op_id"], &error["error"]), (&json!("b"), &json!("memory-quota-reached")), "{error}");
    assert_eq!((&error["used"], &error["limit"]), (&json!(1), &json!(1)), "{error}");
}
