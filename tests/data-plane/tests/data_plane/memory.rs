//! What an agent developer relies on: what was stored is found, listed, forgotten; nothing of another's is seen.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{shared, tenant};

fn contents(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().filter_map(|item| item["content"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_memory_is_recalled_at_once_and_by_another_form_of_its_words() {
    let ada = shared().await.client(&tenant("recalled-at-once").await);
    ada.store("The cat sleeps on the red sofa").await.unwrap();
    let stored = ada.store("Ada prefers flying to Lisbon by night").await.unwrap();
    assert_eq!(stored.status, 201, "{}", stored.text);
    assert!(stored.body["zone"].is_u64() && stored.body["score"].is_f64(), "{}", stored.text);
    for q in ["flying Lisbon", "flights to lisbon", "PREFER NIGHT"] {
        let recalled = ada.recall(q).await.unwrap();
        assert_eq!(recalled.status, 200, "{}", recalled.text);
        assert_eq!(recalled.body[0]["id"], stored.body["id"], "{q}: {}", recalled.text);
        assert_eq!(recalled.body[0]["content"], "Ada prefers flying to Lisbon by night");
    }
    let nothing = ada.recall("zebra").await.unwrap();
    assert_eq!((nothing.status, nothing.body), (200, json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_a_memory_comes_back() {
    let ada = shared().await.client(&tenant("every-field").await);
    let memory = json!({
        "content": "We agreed to ship on Friday – ✓ naïve 東京",
        "importance": 0.75,
        "metadata": { "project": "orbit", "nested": { "n": [1, 2] } },
        "session": "standup-7",
        "speaker": "Grace",
        "occurred_at": "2026-03-01T09:30:00Z",
    });
    assert_eq!(ada.post("/store", &memory).await.unwrap().status, 201);
    let list = ada.get("/memories").await.unwrap();
    let item = &list.body["items"][0];
    for field in ["content", "metadata", "session", "speaker", "occurred_at"] {
        assert_eq!(item[field], memory[field], "{field}: {}", list.text);
    }
    assert!((item["importance"].as_f64().unwrap() - 0.75).abs() < 1e-6);
    assert_eq!(list.body["total"], 1);
    assert_eq!(ada.recall("東京").await.unwrap().body[0]["session"], "standup-7");
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_every_size_come_back() {
    let ada = shared().await.client(&tenant("numbers").await);
    // Postgres writes the largest as 309 digits.
    let numbers = json!([f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, 0.1, -0.0, i64::MIN, u64::MAX, 1e23, 1e22]);
    let stored = ada.post("/store", &json!({ "content": "numbers", "metadata": { "n": numbers } })).await.unwrap();
    assert_eq!(stored.status, 201, "{}", stored.text);
    for path in ["/memories", "/timeline"] {
        let list = ada.get(path).await.unwrap();
        assert_eq!(list.status, 200, "{path}: {}", list.text);
        let read = list.body["items"][0]["metadata"]["n"].as_array().unwrap();
        let mut pairs = read.iter().zip(numbers.as_array().unwrap());
        assert!(pairs.all(|(read, sent)| read.as_f64() == sent.as_f64()), "{path}: {}", list.text);
        assert_eq!(read.len(), 10);
    }
    assert_eq!(ada.recall("numbers").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_memory_is_gone_everywhere() {
    let ada = shared().await.client(&tenant("forgotten").await);
    let id = ada.store("a password that nobody should keep").await.unwrap().body["id"].as_str().unwrap().to_owned();
    assert_eq!(ada.recall("password").await.unwrap().body[0]["id"], id.as_str());
    let forgotten = ada.delete(&format!("/forget/{id}")).await.unwrap();
    assert_eq!((forgotten.status, &forgotten.body["removed"]), (200, &json!(true)));
    assert_eq!(ada.recall("password").await.unwrap().body, json!([]));
    assert_eq!(ada.get("/memories").await.unwrap().body["total"], 0);
    assert_eq!(ada.get("/stats").await.unwrap().body["total_memories"], 0);
    let again = ada.delete(&format!("/forget/{id}")).await.unwrap();
    assert_eq!((again.status, again.problem()), (404, Some("not-found")));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenants_key_sees_nothing_of_anothers() {
    let plane = shared().await;
    let (ada, eve) = (plane.client(&tenant("ada").await), plane.client(&tenant("eve").await));
    let id = ada.store("Ada's secret is a violin").await.unwrap().body["id"].as_str().unwrap().to_owned();
    assert_eq!(eve.recall("secret violin").await.unwrap().body, json!([]));
    assert_eq!(eve.get("/memories").await.unwrap().body["total"], 0);
    assert!(!eve.get("/timeline").await.unwrap().text.contains("violin"));
    let (foreign, unknown) = (
        eve.delete(&format!("/forget/{id}")).await.unwrap(),
        eve.delete(&format!("/forget/{}", uuid::Uuid::new_v4())).await.unwrap(),
    );
    assert_eq!(
        (foreign.status, foreign.body),
        (unknown.status, unknown.body),
        "a foreign id answers as an unknown one"
    );
    assert_eq!(ada.recall("violin").await.unwrap().body[0]["id"], id.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_choose_its_tenant_by_header() {
    let plane = shared().await;
    let (ada, eve) = (tenant("header-ada").await, tenant("header-eve").await);
    plane.client(&ada).store("the vault opens with a feather").await.unwrap();
    let answer = plane
        .client(&eve)
        .request(Method::GET, "/recall")
        .query(&[("q", "vault feather")])
        .header(tenancy::TENANT_HEADER, ada.id.to_string())
        .header(tenancy::CAPABILITY_HEADER, plane.master().capability(ada.id, 1).expose())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json::<Value>().await.unwrap(), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_page_to_the_end_without_a_gap_or_a_repeat() {
    let ada = shared().await.client(&tenant("paging").await);
    for n in 0..23 {
        let at = format!("2026-01-{:02}T00:00:00Z", n + 1);
        let memory = json!({ "content": format!("note {n}"), "importance": f64::from(n) / 30.0, "occurred_at": at });
        assert_eq!(ada.post("/store", &memory).await.unwrap().status, 201);
    }
    for (path, items) in [("/memories?limit=7", "items"), ("/timeline?limit=7", "items")] {
        let mut seen = Vec::new();
        let mut cursor = None::<String>;
        loop {
            let page = match &cursor {
                Some(cursor) => ada.get(&format!("{path}&cursor={cursor}")).await.unwrap(),
                None => ada.get(path).await.unwrap(),
            };
            assert_eq!(page.status, 200, "{}", page.text);
            seen.extend(contents(&page.body[items]).into_iter().map(str::to_owned));
            match page.body["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        let mut distinct = seen.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!((seen.len(), distinct.len()), (23, 23), "{path}");
        if path.starts_with("/timeline") {
            assert_eq!((seen[0].as_str(), seen[22].as_str()), ("note 0", "note 22"), "in the order of time");
        }
    }
    let march = ada.get("/timeline?start=2026-01-10T00:00:00Z&end=2026-01-12T00:00:00Z").await.unwrap();
    assert!(contents(&march.body["items"]).starts_with(&["note 9", "note 10"]), "{}", march.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrative_tells_what_happened_in_order() {
    let ada = shared().await.client(&tenant("narrative").await);
    for (day, content) in [("02", "The launch slipped to April"), ("01", "The launch was planned for March")] {
        let memory = json!({ "content": content, "occurred_at": format!("2026-02-{day}T10:00:00Z") });
        assert_eq!(ada.post("/store", &memory).await.unwrap().status, 201);
    }
    let told = ada.post("/narrate", &json!({ "topic": "launch" })).await.unwrap();
    assert_eq!(told.status, 200, "{}", told.text);
    let narrative = told.body["narrative"].as_str().unwrap();
    let (planned, slipped) = (narrative.find("planned for March"), narrative.find("slipped to April"));
    assert!(planned.is_some() && planned < slipped, "{narrative}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_idempotency_key_stores_once() {
    let ada = shared().await.client(&tenant("idempotent").await);
    let send = async |content: &str| {
        let request = ada.request(Method::POST, "/store").header("idempotency-key", "order-4711");
        harness::Answer::read(request.json(&json!({ "content": content })).send().await.unwrap()).await.unwrap()
    };
    let (first, second) = (send("paid the invoice").await, send("paid the invoice").await);
    assert_eq!((first.status, &first.body["id"]), (201, &second.body["id"]), "{}", second.text);
    let other = send("paid another invoice").await;
    assert_eq!((other.status, other.problem()), (409, Some("conflict")), "{}", other.text);
    assert_eq!(ada.get("/stats").await.unwrap().body["total_memories"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_idempotency_key_forgets_once_and_answers_the_same() {
    let ada = shared().await.client(&tenant("forgetful").await);
    let stored = ada.store("the old address").await.unwrap();
    let path = format!("/forget/{}", stored.body["id"].as_str().unwrap());
    let send = async |path: &str| {
        let request = ada.request(Method::DELETE, path).header("idempotency-key", "forget-1");
        harness::Answer::read(request.send().await.unwrap()).await.unwrap()
    };
    let (first, second) = (send(&path).await, send(&path).await);
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, None), "{}", first.text);
    assert_eq!((second.status, second.header("idempotency-replayed")), (200, Some("true")), "{}", second.text);
    assert_eq!(first.body, second.body);
    let other = send(&format!("/forget/{}", uuid::Uuid::new_v4())).await;
    assert_eq!((other.status, other.problem()), (409, Some("conflict")), "{}", other.text);
    assert_eq!(ada.delete(&path).await.unwrap().status, 404, "without the key it is unknown");
    let request = ada.request(Method::POST, "/store").header("idempotency-key", "forget-1");
    let reused = request.json(&json!({ "content": "something else" })).send().await.unwrap();
    assert_eq!(reused.status().as_u16(), 409, "one key, one operation");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_stores_are_all_kept_and_the_log_has_no_gap() {
    let plane = shared().await;
    let ada = tenant("concurrent").await;
    let client = plane.client(&ada);
    let stores = (0..200).map(|n| {
        let client = client.clone();
        async move { client.store(&format!("concurrent note {n}")).await.unwrap().status }
    });
    let statuses = futures::future::join_all(stores).await;
    assert!(statuses.iter().all(|status| *status == 201), "{statuses:?}");
    let (rows, last, first): (i64, i64, i64) =
        sqlx::query_as("SELECT count(DISTINCT seq), max(seq), min(seq) FROM stellar.changes WHERE user_id = $1")
            .bind(ada.id.uuid())
            .fetch_one(&mut plane.postgres.superuser("stellar").await.unwrap())
            .await
            .unwrap();
    assert_eq!((rows, last, first), (200, 200, 1));
    for n in [0, 99, 199] {
        let recalled = client.recall(&format!("note {n}")).await.unwrap();
        assert_eq!(recalled.body[0]["content"], format!("concurrent note {n}").as_str(), "{}", recalled.text);
    }
}
