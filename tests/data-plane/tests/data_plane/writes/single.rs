//! One memory by its id: stored under an id of the client's own, read, changed.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{assert_told, content, id_of, log, patch, two_agents};
use crate::{shared, tenant};

#[tokio::test(flavor = "multi_thread")]
async fn the_number_in_every_answer_is_that_of_the_log() {
    let (tenant, ada, zoe) = two_agents("numbered").await;
    let first = ada.store("first").await.unwrap();
    let second = zoe.store("second").await.unwrap();
    let id = id_of(&first);
    let changed = patch(&zoe, &id, json!({ "importance": 1.0 })).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    let removed = ada.delete(&format!("/forget/{}", id_of(&second))).await.unwrap();
    assert_eq!((removed.status, &removed.body["removed"]), (200, &json!(true)), "{}", removed.text);
    let log = log(&tenant).await;
    assert_eq!(log.len(), 4, "{log:?}");
    assert_told(&log, &first.body["seq"], "store", &first.body["id"], "default");
    assert_told(&log, &second.body["seq"], "store", &second.body["id"], "zoe");
    assert_told(&log, &changed.body["seq"], "update", &first.body["id"], "zoe");
    assert_told(&log, &removed.body["seq"], "forget", &second.body["id"], "default");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_replaces_what_it_names_and_nothing_else() {
    let (_, ada, zoe) = two_agents("changed").await;
    let memory = json!({
        "content": "the launch is in March", "importance": 0.25, "metadata": { "a": 1, "b": 2 }, "session": "s",
        "speaker": "Grace", "source": "mail", "emotion": "calm", "occurred_at": "2026-03-01T09:30:00Z",
    });
    let id = id_of(&ada.post("/store", &memory).await.unwrap());
    let before = ada.get(&format!("/memories/{id}")).await.unwrap();
    assert_eq!((before.status, &before.body["written_by"]), (200, &json!("default")), "{}", before.text);

    let after = patch(&zoe, &id, json!({ "metadata": { "c": 3 } })).await;
    assert_eq!((after.status, &after.body["metadata"]), (200, &json!({ "c": 3 })), "{}", after.text);
    assert_eq!((&after.body["agent"], &after.body["written_by"]), (&json!("default"), &json!("zoe")));
    assert!(after.body["written_at"].as_str() > before.body["written_at"].as_str(), "{}", after.text);
    let others = |body: &Value| {
        let mut body = body.as_object().unwrap().clone();
        body.retain(|name, _| !["metadata", "written_at", "written_by", "seq", "score"].contains(&name.as_str()));
        body
    };
    assert_eq!(others(&after.body), others(&before.body));

    let after = patch(&ada, &id, json!({ "content": "the launch is in April", "importance": 1.0 })).await;
    assert_eq!(after.body["content"], "the launch is in April");
    let gained = after.body["score"].as_f64().unwrap() - before.body["score"].as_f64().unwrap();
    assert!((gained - 0.25 * 0.75).abs() < 1e-3, "the score follows the importance: {gained}");
    assert_eq!((&after.body["zone"], &before.body["zone"]), (&json!(1), &json!(2)), "and the zone the score");
    let read = ada.get(&format!("/memories/{id}")).await.unwrap();
    assert_eq!(read.body["content"], "the launch is in April");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_found_by_recall_at_once_and_what_it_replaced_is_not() {
    let plane = shared().await;
    let ada = tenant("found-at-once").await;
    let client = plane.client(&ada);
    // An engine that took none of the writes and has an index already.
    let other = plane.another_engine(&[]).await.unwrap();
    let gateway = plane.gateway_to(&[&other]).await.unwrap();
    let elsewhere = harness::Client::new(&format!("http://127.0.0.1:{}", gateway.port), &ada.key);
    let id = id_of(&client.store("the meeting is about violins").await.unwrap());
    for reader in [&client, &elsewhere] {
        assert_eq!(reader.recall("violins").await.unwrap().body[0]["id"], id.as_str());
    }
    for round in 0..20 {
        let content = format!("the meeting is about trumpet{round}");
        assert_eq!(patch(&client, &id, json!({ "content": content })).await.status, 200);
        for reader in [&client, &elsewhere] {
            let found = reader.recall(&format!("trumpet{round}")).await.unwrap();
            assert_eq!(found.body[0]["content"], content.as_str(), "{}", found.text);
            assert_eq!(reader.recall("violins").await.unwrap().body, json!([]));
        }
    }
    assert_eq!(client.delete(&format!("/forget/{id}")).await.unwrap().status, 200);
    for reader in [&client, &elsewhere] {
        assert_eq!(reader.recall("meeting").await.unwrap().body, json!([]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_the_clients_own_is_taken_once() {
    let plane = shared().await;
    let (ada, eve) = (plane.client(&tenant("own-id").await), plane.client(&tenant("same-id").await));
    let id = Uuid::new_v4().to_string();
    let memory = |content: &str| json!({ "content": content, "id": id });
    assert_eq!(id_of(&ada.post("/store", &memory("Ada's")).await.unwrap()), id);
    let again = ada.post("/store", &memory("another")).await.unwrap();
    assert_eq!((again.status, again.problem()), (409, Some("conflict")), "{}", again.text);
    assert_eq!(content(&ada, &id).await.as_deref(), Some("Ada's"));

    // Another tenant's id is nobody's business: it is free, and each has its own under it.
    assert_eq!(content(&eve, &id).await, None);
    assert_eq!(id_of(&eve.post("/store", &memory("Eve's")).await.unwrap()), id);
    assert_eq!(patch(&eve, &id, json!({ "content": "Eve's, changed" })).await.status, 200);
    assert_eq!(content(&ada, &id).await.as_deref(), Some("Ada's"));
    assert_eq!(eve.recall("changed").await.unwrap().body[0]["id"], id.as_str());
    assert_eq!(ada.recall("changed").await.unwrap().body, json!([]));
    assert_eq!(eve.delete(&format!("/forget/{id}")).await.unwrap().status, 200);
    assert_eq!(content(&ada, &id).await.as_deref(), Some("Ada's"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_cannot_be_read_or_changed_and_a_change_must_name_something() {
    let ada = shared().await.client(&tenant("not-there").await);
    let id = id_of(&ada.store("there").await.unwrap());
    for unknown in [Uuid::new_v4().to_string(), Uuid::nil().to_string(), "rubbish".to_owned()] {
        let read = ada.get(&format!("/memories/{unknown}")).await.unwrap();
        assert_eq!((read.status, read.problem()), (404, Some("not-found")), "{}", read.text);
        let changed = patch(&ada, &unknown, json!({ "content": "x" })).await;
        assert_eq!((changed.status, changed.problem()), (404, Some("not-found")), "{}", changed.text);
    }
    for (body, named) in [
        (json!({}), "content"),
        (json!({ "at": "2026-03-01T09:30:00Z" }), "content"),
        (json!({ "content": "" }), "content"),
        (json!({ "importance": 2 }), "importance"),
        (json!({ "metadata": [] }), "metadata"),
        (json!({ "content": "x", "at": "yesterday" }), "at"),
        (json!({ "content": "x", "session": "s" }), "session"),
    ] {
        let refused = patch(&ada, &id, body).await;
        assert_eq!((refused.status, refused.problem()), (400, Some("invalid-request")), "{}", refused.text);
        assert!(refused.text.contains(named), "{named}: {}", refused.text);
    }
    for (body, named) in [
        (json!({ "content": "x", "id": "rubbish" }), "id"),
        (json!({ "content": "x", "id": Uuid::nil() }), "id"),
        (json!({ "content": "x", "at": "2026-03-01" }), "at"),
    ] {
        let refused = ada.post("/store", &body).await.unwrap();
        assert_eq!((refused.status, refused.problem()), (400, Some("invalid-request")), "{}", refused.text);
        assert!(refused.text.contains(named), "{named}: {}", refused.text);
    }
    assert_eq!(content(&ada, &id).await.as_deref(), Some("there"));
}

#[tokio::test(flavor = "multi_thread")]
async fn number_beyond_64_bits_is_refused_wherever_metadata_is_written() {
    let ada = shared().await.client(&tenant("beyond-64-bits").await);
    let id = id_of(&ada.store("there").await.unwrap());
    let send = async |method: Method, path: &str, content_type: &str, body: String| {
        let request = ada.request(method, path).header("content-type", content_type).body(body);
        harness::Answer::read(request.send().await.unwrap()).await.unwrap()
    };
    let patch = format!("/memories/{id}");
    for number in ["12345678901234567890123", "18446744073709551616", "-9223372036854775809"] {
        let metadata = format!(r#"{{"a":[{{"n":{number}}}]}}"#);
        let memory = format!(r#"{{"id":"{}","content":"x","metadata":{metadata}}}"#, Uuid::new_v4());
        let operation = memory.replacen('{', r#"{"op":"store","#, 1);
        for (method, path, content_type, body) in [
            (Method::POST, "/store", "application/json", memory.clone()),
            (Method::PATCH, &*patch, "application/json", format!(r#"{{"metadata":{metadata}}}"#)),
            (Method::POST, "/batch", "application/json", format!(r#"{{"operations":[{operation}]}}"#)),
            (Method::POST, "/import", "application/x-ndjson", memory.clone()),
            (Method::POST, "/import", "application/json", format!(r#"{{"version":"0.3.0","items":[{memory}]}}"#)),
        ] {
            let answer = send(method, path, content_type, body).await;
            let problem = match path {
                "/batch" => &answer.body["results"][0]["problem"],
                "/import" => &answer.body["errors"][0]["problem"],
                _ => &answer.body,
            };
            assert_eq!((&problem["status"], &problem["field"]), (&json!(400), &json!("metadata")), "{}", answer.text);
            assert!(problem["detail"].as_str().unwrap().contains("send it as a text"), "{}", answer.text);
        }
    }
    assert_eq!(ada.get("/stats").await.unwrap().body["total_memories"], 1);
    let largest = r#"{"content":"x","metadata":{"n":[18446744073709551615,-9223372036854775808,1e22],"t":"1234567890123456789012"}}"#;
    let stored = id_of(&send(Method::POST, "/store", "application/json", largest.to_owned()).await);
    let read = ada.get(&format!("/memories/{stored}")).await.unwrap();
    assert_eq!(read.body["metadata"]["n"], json!([u64::MAX, i64::MIN, 1e22]), "{}", read.text);
    // What is exported is taken elsewhere.
    let exported = ada.get("/export").await.unwrap();
    let eve = shared().await.client(&tenant("beyond-64-bits-elsewhere").await);
    let request = eve.request(Method::POST, "/import").header("content-type", "application/x-ndjson");
    let imported = harness::Answer::read(request.body(exported.text).send().await.unwrap()).await.unwrap();
    assert_eq!((&imported.body["imported"], &imported.body["refused"]), (&json!(2), &json!(0)), "{}", imported.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_a_store_an_update_a_move_and_a_removal() {
    let plane = shared().await;
    let ada = tenant("told-by-events").await;
    let client = plane.client(&ada);
    let id = id_of(&client.store("what happens to it").await.unwrap());
    assert_eq!(patch(&client, &id, json!({ "content": "something happened" })).await.status, 200);
    sqlx::query("UPDATE stellar.memories SET zone = 4 WHERE user_id = $1")
        .bind(ada.id.uuid())
        .execute(&mut plane.postgres.superuser("stellar").await.unwrap())
        .await
        .unwrap();
    assert_eq!(client.delete(&format!("/forget/{id}")).await.unwrap().status, 200);
    let mut stream = client.request(Method::GET, "/events?since=0").send().await.unwrap();
    let mut text = String::new();
    while text.matches("event: change").count() < 4 || !text.ends_with("\n\n") {
        let part = tokio::time::timeout(std::time::Duration::from_secs(20), stream.chunk()).await;
        text.push_str(&String::from_utf8_lossy(&part.expect("events come").unwrap().expect("the stream goes on")));
    }
    let told: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    let ops: Vec<_> = told.iter().map(|change| change["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["store", "update", "move", "remove"], "{text}");
    assert!(told.iter().all(|change| change["id"] == id.as_str()), "{text}");
}
