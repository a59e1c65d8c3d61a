//! When two write the same memory, the last write wins, in whichever order they arrive. The rule alone is tested where it
//! is written, in `engine/src/memory/last_write.rs`.

use harness::Client;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{batch, content, id_of, log, patch, two_agents};

const STORED: &str = "2026-01-01T00:00:00Z";
const EARLY: &str = "2026-02-01T00:00:00Z";
const LATE: &str = "2026-03-01T00:00:00Z";

async fn stored(client: &Client) -> String {
    id_of(&client.post("/store", &json!({ "content": "as stored", "at": STORED })).await.unwrap())
}

async fn write(client: &Client, operation: Value) -> Value {
    let mut results = batch(client, json!([operation])).await;
    results.pop().unwrap()
}

fn decided(result: &Value) -> (bool, Option<&str>) {
    (result["applied"].as_bool().unwrap_or_else(|| panic!("refused: {result}")), result["reason"].as_str())
}

const WON: (bool, Option<&str>) = (true, None);
const NEWER: (bool, Option<&str>) = (false, Some("newer"));
const REMOVED: (bool, Option<&str>) = (false, Some("removed"));

#[tokio::test(flavor = "multi_thread")]
async fn the_later_of_two_writes_wins_in_both_orders_of_arrival() {
    let (tenant, ada, zoe) = two_agents("both-orders").await;
    for late_first in [false, true] {
        let id = stored(&ada).await;
        let early = json!({ "op": "update", "id": id, "content": "early", "at": EARLY });
        let late = json!({ "op": "update", "id": id, "content": "late", "at": LATE });
        if late_first {
            assert_eq!(decided(&write(&ada, late).await), WON);
            let before = log(&tenant).await.len();
            let lost = write(&zoe, early).await;
            assert_eq!((decided(&lost), &lost["seq"], &lost["status"]), (NEWER, &Value::Null, &json!(200)));
            assert_eq!(log(&tenant).await.len(), before, "what does not win is not in the log");
        } else {
            assert_eq!(decided(&write(&zoe, early).await), WON);
            assert_eq!(decided(&write(&ada, late).await), WON);
        }
        assert_eq!(content(&ada, &id).await.as_deref(), Some("late"), "late first: {late_first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_equal_times_the_larger_name_wins_in_both_orders_of_arrival() {
    let (_, default, zoe) = two_agents("equal-times").await;
    for zoe_first in [false, true] {
        let id = stored(&default).await;
        let update = |content: &str| json!({ "op": "update", "id": id, "content": content, "at": LATE });
        if zoe_first {
            assert_eq!(decided(&write(&zoe, update("zoe's")).await), WON);
            assert_eq!(decided(&write(&default, update("default's")).await), NEWER);
        } else {
            assert_eq!(decided(&write(&default, update("default's")).await), WON);
            assert_eq!(decided(&write(&zoe, update("zoe's")).await), WON);
        }
        assert_eq!(content(&zoe, &id).await.as_deref(), Some("zoe's"), "zoe first: {zoe_first}");
        assert_eq!(decided(&write(&zoe, update("zoe's second")).await), WON, "an agent may correct itself");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_a_time_always_wins_and_the_future_is_now() {
    let (_, ada, zoe) = two_agents("no-time").await;
    let id = stored(&ada).await;
    let future = json!({ "op": "update", "id": id, "content": "from the future", "at": "9000-01-01T00:00:00Z" });
    assert_eq!(decided(&write(&zoe, future.clone()).await), WON);
    let written_at = ada.get(&format!("/memories/{id}")).await.unwrap().body["written_at"].clone();
    assert!(written_at.as_str().unwrap() < "9000", "{written_at}");
    // The smaller name, and at once: still it wins.
    for n in 0..5 {
        let content = format!("number {n}");
        assert_eq!(decided(&write(&ada, json!({ "op": "update", "id": id, "content": content })).await), WON);
    }
    assert_eq!(content(&ada, &id).await.as_deref(), Some("number 4"));
    assert_eq!(decided(&write(&ada, future).await), WON, "what is written later is later");
    let late = json!({ "op": "update", "id": id, "content": "late", "at": LATE });
    assert_eq!(decided(&write(&zoe, late).await), NEWER, "before the writes that the clock timed");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writes_without_a_time_in_one_batch_all_win_in_order() {
    let (tenant, ada, _) = two_agents("one-instant").await;
    let id = Uuid::new_v4();
    let mut operations = vec![json!({ "op": "store", "id": id, "content": "number 0", "at": "9000-01-01T00:00:00Z" })];
    operations.extend((1..50).map(|n| json!({ "op": "update", "id": id, "content": format!("number {n}") })));
    operations.push(json!({ "op": "update", "id": id, "content": "by a fast clock", "at": "9000-01-01T00:00:00Z" }));
    operations.push(json!({ "op": "remove", "id": id, "at": LATE }));
    let results = batch(&ada, json!(operations)).await;
    assert!(results[..51].iter().all(|result| decided(result) == WON), "{results:?}");
    assert_eq!(decided(&results[51]), NEWER);
    assert_eq!(content(&ada, &id.to_string()).await.as_deref(), Some("by a fast clock"));
    assert_eq!(log(&tenant).await.len(), 51);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_stays_removed() {
    let (tenant, ada, zoe) = two_agents("stays-removed").await;
    let id = stored(&ada).await;
    let remove = |at: &str| json!({ "op": "remove", "id": id, "at": at });
    assert_eq!(decided(&write(&zoe, json!({ "op": "update", "id": id, "content": "kept", "at": LATE })).await), WON);
    assert_eq!(decided(&write(&ada, remove(EARLY)).await), NEWER, "it was written since");
    assert_eq!(content(&ada, &id).await.as_deref(), Some("kept"));
    assert_eq!(decided(&write(&zoe, remove(LATE)).await), WON);
    let length = log(&tenant).await.len();
    for operation in [
        remove("2026-04-01T00:00:00Z"),
        json!({ "op": "remove", "id": id }),
        json!({ "op": "update", "id": id, "content": "back" }),
        json!({ "op": "update", "id": id, "content": "back", "at": "9000-01-01T00:00:00Z" }),
        json!({ "op": "update", "id": Uuid::new_v4(), "content": "never there" }),
    ] {
        let result = write(&ada, operation).await;
        assert_eq!((decided(&result), &result["status"]), (REMOVED, &json!(200)), "{result}");
    }
    assert_eq!(content(&ada, &id).await, None);
    assert_eq!(log(&tenant).await.len(), length);
}

#[tokio::test(flavor = "multi_thread")]
async fn store_not_later_than_the_removal_of_its_id_stores_nothing() {
    let (tenant, ada, zoe) = two_agents("removed-id").await;
    let id = stored(&ada).await;
    let store = |at: &str| json!({ "op": "store", "id": id, "content": "back", "at": at });
    assert_eq!(decided(&write(&ada, json!({ "op": "remove", "id": id })).await), WON);
    let length = log(&tenant).await.len();
    for client in [&ada, &zoe] {
        let late = write(client, store(LATE)).await;
        assert_eq!((decided(&late), &late["status"], &late["seq"]), (REMOVED, &json!(200), &Value::Null), "{late}");
    }
    let refused = ada.post("/store", &json!({ "id": id, "content": "back", "at": LATE })).await.unwrap();
    assert_eq!((refused.status, refused.problem()), (409, Some("conflict")), "{}", refused.text);
    assert_eq!(refused.body["reason"], "removed");
    assert_eq!((content(&ada, &id).await, log(&tenant).await.len()), (None, length));

    // Of another id the time is that of an old note, as it always was.
    let other = Uuid::new_v4();
    assert_eq!(decided(&write(&ada, json!({ "op": "store", "id": other, "content": "old", "at": EARLY })).await), WON);
    let later = write(&zoe, store("9000-01-01T00:00:00Z")).await;
    assert_eq!((decided(&later), &later["status"]), (WON, &json!(201)), "{later}");
    // In one batch, and then without a time: it is meant as new.
    let results = batch(
        &ada,
        json!([
            { "op": "remove", "id": id },
            store(LATE),
            { "op": "store", "id": id, "content": "stored anew" },
            { "op": "store", "id": id, "content": "taken", "at": LATE },
        ]),
    )
    .await;
    let statuses: Vec<_> = results.iter().map(|result| result["status"].as_i64().unwrap()).collect();
    assert_eq!((statuses, &results[1]["reason"]), (vec![200, 200, 201, 409], &json!("removed")), "{results:?}");
    assert_eq!(content(&ada, &id).await.as_deref(), Some("stored anew"));
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_id_of_one_tenant_is_free_for_another() {
    let (_, ada, _) = two_agents("removed-ada").await;
    let (_, eve, _) = two_agents("removed-eve").await;
    let id = stored(&ada).await;
    assert_eq!(decided(&write(&ada, json!({ "op": "remove", "id": id })).await), WON);
    let store = json!({ "op": "store", "id": id, "content": "Eve's", "at": LATE });
    assert_eq!(decided(&write(&eve, store).await), WON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_win_is_told_what_did() {
    let (_, ada, zoe) = two_agents("told-what-won").await;
    let id = stored(&ada).await;
    assert_eq!(patch(&zoe, &id, json!({ "content": "late", "at": LATE })).await.status, 200);
    let lost = patch(&ada, &id, json!({ "content": "early", "at": EARLY })).await;
    assert_eq!((lost.status, lost.problem()), (409, Some("conflict")), "{}", lost.text);
    assert_eq!((&lost.body["reason"], &lost.body["memory"]["content"]), (&json!("newer"), &json!("late")));
    assert_eq!(lost.body["memory"]["written_by"], "zoe");
    assert_eq!(content(&ada, &id).await.as_deref(), Some("late"));
    assert_eq!(patch(&ada, &id, json!({ "content": "decided anew" })).await.status, 200);
}
