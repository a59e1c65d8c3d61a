//! Who did what: kept for each tenant, readable by it, and by nobody else.

use harness::{Client, TenantSpec};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{shared, tenant};

async fn entries(client: &Client, query: &str) -> Vec<Value> {
    let answer = client.get(&format!("/audit{query}")).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body["items"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_was_done_is_told_with_agent_and_key() {
    let plane = shared().await;
    let spec = TenantSpec { max_agents: 5, ..TenantSpec::default() };
    let ada = plane.tenant("audited", spec).await.unwrap();
    let client = plane.client(&ada);
    let stored = client.store("first of all").await.unwrap();
    let made = client.post("/auth/api-keys", &json!({ "agent": "helper" })).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text);
    let (key, helper_key) = (made.body["id"].as_str().unwrap(), made.body["api_key"].as_str().unwrap());
    let helper = Client::new(&plane.url(), helper_key);
    harness::eventually("the key works", || async {
        (helper.get("/stats").await.unwrap().status == 200).then_some(())
    })
    .await;
    let forgotten = format!("/forget/{}", stored.body["id"].as_str().unwrap());
    assert_eq!(helper.delete(&forgotten).await.unwrap().status, 200);
    assert_eq!(client.delete(&format!("/auth/api-keys/{key}")).await.unwrap().status, 200);
    plane.apply(&ada, TenantSpec { tier: "pro", ..spec }).await.unwrap();

    let told = entries(&client, "").await;
    let what: Vec<_> = told.iter().map(|entry| entry["what"].as_str().unwrap()).collect();
    let expected =
        ["tier-changed", "api-key-revoked", "forget", "api-key-created", "store", "api-key-created", "tenant-created"];
    assert_eq!(what, expected);
    assert_eq!(told[0]["detail"], json!({ "from": "free", "to": "pro" }));
    assert_eq!((&told[0]["agent"], &told[0]["key_id"]), (&Value::Null, &Value::Null), "the platform did it");
    assert_eq!(told[1]["detail"], json!({ "key": key }));
    assert_eq!((told[2]["agent"].as_str(), told[2]["key_id"].as_str()), (Some("helper"), Some(key)));
    assert_eq!(told[2]["memory_id"], stored.body["id"]);
    assert_eq!(told[3]["detail"], json!({ "key": key, "agent": "helper" }));
    assert_eq!(
        (told[4]["agent"].as_str(), told[4]["memory_id"].as_str()),
        (Some("default"), stored.body["id"].as_str())
    );
    assert_eq!(told[4]["key_id"], told[3]["key_id"], "the same key stored and made the other one");
    assert!(told[4]["key_id"].is_string());

    let other = entries(&plane.client(&tenant("not-audited").await), "").await;
    let what: Vec<_> = other.iter().map(|entry| entry["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["api-key-created", "tenant-created"], "another tenant's audit is its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_lead_through_all_of_it() {
    let client = shared().await.client(&tenant("much-audited").await);
    for n in 0..23 {
        assert_eq!(client.store(&format!("note {n}")).await.unwrap().status, 201);
    }
    let all = entries(&client, "").await;
    assert_eq!(all.len(), 25);
    let (mut paged, mut query) = (Vec::new(), "?limit=4".to_owned());
    loop {
        let page = client.get(&format!("/audit{query}")).await.unwrap();
        paged.extend(page.body["items"].as_array().unwrap().clone());
        let Some(cursor) = page.body["next_cursor"].as_str() else { break };
        query = format!("?limit=4&cursor={cursor}");
    }
    assert_eq!(paged, all);
    for (query, named) in
        [("?limit=0", "limit"), ("?limit=501", "limit"), ("?cursor=nonsense", "cursor"), ("?q=1", "q")]
    {
        let refused = client.get(&format!("/audit{query}")).await.unwrap();
        assert_eq!((refused.status, refused.problem()), (400, Some("invalid-request")), "{query}: {}", refused.text);
        assert!(refused.text.contains(named), "{query}: {}", refused.text);
    }
    let wrong = client.request(Method::POST, "/audit").send().await.unwrap();
    assert_eq!(wrong.status().as_u16(), 405, "it is only read");
}
