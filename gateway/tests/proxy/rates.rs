//! Rates of operations: a batch counts as what it carries.

use serde_json::Value;

use crate::support::{Deed, Engine, Wanted, gateway};

#[tokio::test]
async fn batches_count_as_their_operations() {
    let engine = Engine::start(&[Deed::Carried(1000)]).await;
    let pooled = engine.address.to_string();
    let setup = gateway(Wanted { requests_per_minute: 60, ..Wanted::pooled(&pooled) }).await;
    let json = [("content-type", "application/json")];
    let first = setup.send("POST", "/api/v1/batch", &json, "{}").await;
    assert_eq!(first.status(), 200);
    assert!(!first.headers().contains_key("x-stellar-operations"), "the engine's count is for the gateway");
    let policies: Vec<_> = first.headers().get_all("ratelimit-policy").iter().collect();
    assert_eq!(policies, ["\"default\";q=60;w=60", "\"operations\";q=1200;w=60"]);
    assert_eq!(setup.send("POST", "/api/v1/import", &[], "{}").await.status(), 200, "something is left");
    let refused = setup.send("POST", "/api/v1/batch", &json, "{}").await;
    assert_eq!(refused.status(), 429);
    let wait: u64 = refused.headers()["retry-after"].to_str().expect("digits").parse().expect("seconds");
    assert!((30..=41).contains(&wait), "800 operations too many are 40 s of 1200 a minute: {wait}");
    let problem: Value = serde_json::from_str(refused.body()).expect("JSON");
    assert_eq!(problem["type"], "https://stellar-memory.dev/problems/rate-limited");
    assert!(problem["detail"].as_str().expect("a sentence").contains("1200 operations a minute"), "{problem}");
    assert_eq!(engine.heads().len(), 2, "what is refused reaches no engine");
    assert_eq!(setup.get("/api/v1/stats").await.status(), 200, "other requests have a rate of their own");
}

#[tokio::test]
async fn announced_bytes_count_before_the_answer() {
    let engine = Engine::start(&[Deed::Carried(1)]).await;
    let pooled = engine.address.to_string();
    let flags = ["--operations-per-request", "1"];
    let setup = gateway(Wanted { requests_per_minute: 60, flags: &flags, ..Wanted::pooled(&pooled) }).await;
    let body = vec![b' '; 60 * 16 * 1024];
    let headers = [("x-api-key", setup.key.expose()), ("content-type", "application/json")];
    assert_eq!(setup.send_bytes("POST", "/api/v1/batch", &headers, body).await.status(), 200);
    assert_eq!(setup.send("POST", "/api/v1/batch", &headers[1..], "{}").await.status(), 429);
}
