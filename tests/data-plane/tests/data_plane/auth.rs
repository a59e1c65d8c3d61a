//! Keys: what opens, what does not, and how soon a change is felt.

use std::time::{Duration, Instant};

use harness::{Answer, Client, TenantSpec};
use reqwest::Method;
use serde_json::json;

use crate::{shared, tenant};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_taken_from_either_header_and_rubbish_is_refused_alike() {
    let plane = shared().await;
    let ada = tenant("either-header").await;
    let http = reqwest::Client::new();
    let url = format!("{}/api/v1/stats", plane.url());
    let bearer = http.get(&url).bearer_auth(&ada.key).send().await.unwrap();
    assert_eq!(bearer.status(), 200);
    let missing = Answer::read(http.get(&url).send().await.unwrap()).await.unwrap();
    assert_eq!((missing.status, missing.problem()), (401, Some("missing-api-key")));
    assert!(missing.header("www-authenticate").is_some());
    let mut details = Vec::new();
    for key in ["x", "sk-stellar-00000000000000000000000000000000", "sk-stellar-ZZ", &ada.key.to_uppercase()] {
        let answer = Answer::read(http.get(&url).header("x-api-key", key).send().await.unwrap()).await.unwrap();
        assert_eq!((answer.status, answer.problem()), (401, Some("invalid-api-key")), "{key}");
        assert!(!answer.text.contains(key) || key == "x", "a key is never repeated");
        details.push(answer.body["detail"].clone());
    }
    details.dedup();
    assert_eq!(details.len(), 1, "unknown and malformed are told alike: {details:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_a_suspension_and_a_retirement_are_felt_at_once() {
    let plane = shared().await;
    let ada = tenant("felt-at-once").await;
    let client = plane.client(&ada);
    assert_eq!(client.get("/stats").await.unwrap().status, 200);
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    for (sql, status, problem) in [
        ("UPDATE stellar.users SET suspended = true WHERE id = $1", 403, Some("tenant-suspended")),
        ("UPDATE stellar.users SET suspended = false WHERE id = $1", 200, None),
        ("UPDATE stellar.api_keys SET revoked_at = now() WHERE user_id = $1", 401, Some("invalid-api-key")),
        ("UPDATE stellar.api_keys SET revoked_at = NULL WHERE user_id = $1", 200, None),
        ("UPDATE stellar.users SET retired_at = now() WHERE id = $1", 401, Some("invalid-api-key")),
        ("UPDATE stellar.users SET retired_at = NULL WHERE id = $1", 200, None),
    ] {
        sqlx::query(sql).bind(ada.id.uuid()).execute(&mut superuser).await.unwrap();
        harness::eventually(sql, || async {
            let answer = client.get("/stats").await.unwrap();
            (answer.status == status && answer.problem() == problem).then_some(())
        })
        .await;
    }
}

/// Not a speed that is asserted: the bound is what the product promises, with room for a busy machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_reaches_the_gateway_by_notice_and_not_by_the_next_full_reload() {
    let plane = shared().await;
    let start = Instant::now();
    let ada = tenant("by-notice").await;
    let client = plane.client(&ada);
    harness::eventually_within(Duration::from_secs(5), "a new key opens", || async {
        (client.get("/stats").await.unwrap().status == 200).then_some(())
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_makes_lists_and_revokes_keys_within_its_quota() {
    let plane = shared().await;
    let spec = TenantSpec { max_agents: 2, max_api_keys: 3, ..TenantSpec::default() };
    let ada = plane.tenant("keys", spec).await.unwrap();
    let client = plane.client(&ada);
    client.opens().await;
    let made = client.post("/auth/api-keys", &json!({ "agent": "planner" })).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let key = made.body["api_key"].as_str().expect("the text is shown once").to_owned();
    let planner = Client::new(&plane.url(), &key);
    harness::eventually("the new key opens", || async {
        (planner.get("/stats").await.unwrap().status == 200).then_some(())
    })
    .await;
    let third = client.post("/auth/api-keys", &json!({ "agent": "third-agent" })).await.unwrap();
    assert_eq!((third.status, third.problem()), (403, Some("key-quota-reached")), "{}", third.text);
    assert_eq!((&third.body["what"], &third.body["limit"]), (&json!("agents"), &json!(2)), "{}", third.text);
    let list = client.get("/auth/api-keys").await.unwrap();
    assert_eq!(list.body["items"].as_array().unwrap().len(), 2, "{}", list.text);
    assert!(!list.text.contains(&key), "a key's text is never shown again");
    let id = made.body["id"].as_str().unwrap();
    let revoked = client.delete(&format!("/auth/api-keys/{id}")).await.unwrap();
    assert_eq!(revoked.status, 200, "{}", revoked.text);
    harness::eventually("the revoked key is refused", || async {
        (planner.get("/stats").await.unwrap().status == 401).then_some(())
    })
    .await;
    let usage = client.get("/auth/usage").await.unwrap();
    assert_eq!((usage.status, &usage.body["tier"]), (200, &json!("free")), "{}", usage.text);
    let other = plane.client(&tenant("keys-other").await);
    let foreign = other.delete(&format!("/auth/api-keys/{id}")).await.unwrap();
    assert_eq!((foreign.status, foreign.problem()), (404, Some("not-found")), "{}", foreign.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_reaches_a_log() {
    let plane = shared().await;
    let ada = tenant("no-secret").await;
    let client = plane.client(&ada);
    client.store("a word that is nobody's business: xylophone").await.unwrap();
    client.recall("xylophone").await.unwrap();
    let refused = client.request(Method::POST, "/store").body("{ \"content\": 7 }").send().await.unwrap();
    assert!(refused.status().is_client_error());
    let capability = plane.master().capability(ada.id, 1).expose();
    for (program, log) in [("gateway", plane.gateway.log()), ("engine", plane.engine.log())] {
        for secret in [ada.key.as_str(), capability.as_str(), "xylophone"] {
            assert!(!log.contains(secret), "{program} logs a secret");
        }
    }
}
