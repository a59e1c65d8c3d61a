//! An operation happens once under its name, and is answered the same each time.

use harness::{Answer, Client};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{batch, content, id_of, log, patch, two_agents};
use crate::{shared, tenant};

/// The same answer, but for what says that it is one.
fn replay_of(first: &Value) -> Value {
    let mut replay = first.clone();
    replay["replayed"] = json!(true);
    replay
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_of_a_batch_is_answered_again_and_not_repeated() {
    let (tenant, ada, _) = two_agents("batch-again").await;
    let (id, other) = (Uuid::new_v4(), Uuid::new_v4());
    let operations = json!([
        { "op": "store", "op_id": "1", "id": id, "content": "stored" },
        { "op": "store", "op_id": "2", "content": "stored under an id of the engine's" },
        { "op": "update", "op_id": "3", "id": id, "content": "updated" },
        { "op": "update", "op_id": "4", "id": id, "content": "too early", "at": "2000-01-01T00:00:00Z" },
        { "op": "store", "op_id": "5", "id": other, "content": "short-lived" },
        { "op": "remove", "op_id": "6", "id": other },
        { "op": "remove", "op_id": "7", "id": other },
    ]);
    let first = batch(&ada, operations.clone()).await;
    let reasons: Vec<_> = first.iter().map(|result| result["reason"].as_str()).collect();
    assert_eq!(reasons, [None, None, None, Some("newer"), None, None, Some("removed")], "{first:?}");
    let length = log(&tenant).await.len();
    // What would be decided otherwise by now is answered as it was.
    assert_eq!(ada.delete(&format!("/forget/{id}")).await.unwrap().status, 200);
    let again = batch(&ada, operations.clone()).await;
    assert_eq!(again, first.iter().map(replay_of).collect::<Vec<_>>());
    assert_eq!(log(&tenant).await.len(), length + 1);
    assert_eq!(content(&ada, &id.to_string()).await, None, "what is removed was not stored again");

    for place in 0..7 {
        let mut operation = operations[place].clone();
        operation["at"] = json!("2026-01-01T00:00:00Z");
        let result = &batch(&ada, json!([operation])).await[0];
        assert_eq!(result["status"], 409, "the same name, something else: {result}");
        assert!(result["problem"]["type"].as_str().unwrap().ends_with("/conflict"), "{result}");
        assert_eq!(result["op_id"], operations[place]["op_id"]);
    }
    assert_eq!(log(&tenant).await.len(), length + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_twice_in_one_batch_is_one_operation() {
    let (tenant, ada, _) = two_agents("name-twice").await;
    let store = json!({ "op": "store", "op_id": "x", "content": "once" });
    let results = batch(
        &ada,
        json!([store, store, { "op": "store", "op_id": "x", "content": "twice" }, { "content": "once", "op_id": "x", "op": "store" }]),
    )
    .await;
    assert_eq!((&results[1], &results[3]), (&replay_of(&results[0]), &replay_of(&results[0])));
    assert_eq!(results[2]["status"], 409, "{results:?}");
    assert_eq!(log(&tenant).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_agent_names_its_operations_for_itself_and_no_idempotency_key_meets_them() {
    let (tenant, ada, zoe) = two_agents("own-names").await;
    let store = json!([{ "op": "store", "op_id": "same", "content": "mine" }]);
    let (first, second) = (batch(&ada, store.clone()).await, batch(&zoe, store.clone()).await);
    assert_ne!(first[0]["id"], second[0]["id"]);
    assert_eq!((&first[0]["replayed"], &second[0]["replayed"]), (&json!(false), &json!(false)));
    let with_key = async |key: &str| {
        let request = ada.request(Method::POST, "/store").header("idempotency-key", key);
        Answer::read(request.json(&json!({ "content": "mine" })).send().await.unwrap()).await.unwrap()
    };
    let third = with_key("same").await;
    assert!(third.header("idempotency-replayed").is_none());
    assert_ne!(id_of(&third), first[0]["id"].as_str().unwrap());
    for key in ["sync/default/same", "batch/x/0"] {
        let refused = with_key(key).await;
        assert_eq!((refused.status, refused.problem()), (400, Some("invalid-request")), "{}", refused.text);
    }
    for op_id in [json!(""), json!("with blank"), json!("é"), json!("x".repeat(129)), json!(7)] {
        let results = batch(&ada, json!([{ "op": "store", "op_id": op_id, "content": "x" }])).await;
        assert_eq!(results[0]["status"], 400, "{results:?}");
    }
    assert_eq!(log(&tenant).await.len(), 3);
}

async fn keyed(client: &Client, method: Method, path: &str, key: &str, body: &Value) -> Answer {
    let request = client.request(method, path).header("idempotency-key", key).json(body);
    Answer::read(request.send().await.unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_idempotency_key_changes_once() {
    let ada = shared().await.client(&tenant("patch-again").await);
    let id = id_of(&ada.store("as stored").await.unwrap());
    let path = format!("/memories/{id}");
    let change = json!({ "content": "as changed" });
    let first = keyed(&ada, Method::PATCH, &path, "k", &change).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, None), "{}", first.text);
    // What was written since is not written over.
    assert_eq!(patch(&ada, &id, json!({ "content": "as changed since" })).await.status, 200);
    let again = keyed(&ada, Method::PATCH, &path, "k", &change).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")), "{}", again.text);
    assert_eq!((&again.body["seq"], &again.body["content"]), (&first.body["seq"], &json!("as changed since")));
    let other = keyed(&ada, Method::PATCH, &path, "k", &json!({ "content": "something else" })).await;
    assert_eq!((other.status, other.problem()), (409, Some("conflict")), "{}", other.text);
    // One key, one operation: the same body elsewhere is something else.
    assert_eq!(keyed(&ada, Method::POST, "/store", "k", &change).await.status, 409);
    let second = id_of(&ada.store("another").await.unwrap());
    assert_eq!(keyed(&ada, Method::PATCH, &format!("/memories/{second}"), "k", &change).await.status, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_idempotency_key_carries_a_batch_out_once() {
    let ada = tenant("batch-key").await;
    let client = shared().await.client(&ada);
    let operations = json!({ "operations": [
        { "op": "store", "content": "one" },
        { "op": "store", "content": "one" },
        { "op": "store", "op_id": "named", "content": "three" },
        { "op": "erase" },
    ]});
    let first = keyed(&client, Method::POST, "/batch", "k", &operations).await;
    let again = keyed(&client, Method::POST, "/batch", "k", &operations).await;
    assert_eq!((first.status, again.status), (200, 200), "{}", again.text);
    for place in 0..3 {
        assert_eq!(first.body["results"][place]["status"], 201, "{}", first.text);
        assert_eq!(again.body["results"][place], replay_of(&first.body["results"][place]));
    }
    assert_eq!(again.body["results"][3]["status"], 400);
    assert_eq!(log(&ada).await.len(), 3);
    let named = batch(&client, json!([{ "op": "store", "op_id": "named", "content": "three" }])).await;
    assert_eq!(named[0]["replayed"], true, "its own name counts, whatever the batch is called");
    let other = json!({ "operations": [{ "op": "store", "content": "another" }, { "op": "store", "content": "one" }] });
    let other = keyed(&client, Method::POST, "/batch", "k", &other).await;
    assert_eq!((&other.body["results"][0]["status"], &other.body["results"][1]["status"]), (&json!(409), &json!(201)));
    assert_eq!(log(&ada).await.len(), 3);
}
