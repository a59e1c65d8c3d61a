//! How long each route may take, before an engine that takes what it is sent and says nothing.

use std::time::{Duration, Instant};

use http::Response;
use serde_json::Value;
use tokio::time::timeout;

use crate::support::{Deed, Engine, Wanted, field, gateway};

/// Ends a vain wait: much more than the times that are measured, much less than those that are not.
const PATIENCE: Duration = Duration::from_secs(30);
const FLAGS: [&str; 5] =
    ["--store-timeout", "--recall-timeout", "--narrate-timeout", "--import-timeout", "--request-timeout"];

/// Status and type of a problem.
fn problem(answer: &Response<String>) -> (u16, String) {
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let problem: Value = serde_json::from_str(answer.body()).expect("JSON");
    (answer.status().as_u16(), problem["type"].as_str().expect("a type").to_owned())
}

fn gateway_timeout() -> (u16, String) {
    (504, "https://stellar-memory.dev/problems/gateway-timeout".to_owned())
}

#[tokio::test]
async fn a_route_ends_by_its_own_time_and_by_no_other() {
    let engine = Engine::start(&[Deed::Silent]).await;
    for (own, method, path) in [
        ("--store-timeout", "POST", "/api/v1/store"),
        ("--store-timeout", "POST", "/api/v1/batch"),
        ("--store-timeout", "PATCH", "/api/v1/memories/1"),
        ("--recall-timeout", "GET", "/api/v1/recall?q=x"),
        ("--narrate-timeout", "POST", "/api/v1/narrate"),
        ("--import-timeout", "POST", "/api/v1/import"),
        ("--request-timeout", "GET", "/api/v1/memories"),
        ("--request-timeout", "DELETE", "/api/v1/forget/1"),
    ] {
        let flags: Vec<&str> =
            FLAGS.iter().flat_map(|flag| [*flag, if *flag == own { "100ms" } else { "5m" }]).collect();
        let setup = gateway(Wanted { flags: &flags, ..Wanted::pooled(&engine.address.to_string()) }).await;
        let body = if matches!(method, "POST" | "PATCH") { "{}" } else { "" };
        let answer = timeout(PATIENCE, setup.send(method, path, &[], body)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{method} {path} does not end by {own}"));
        assert_eq!(problem(&answer), gateway_timeout(), "{method} {path}");
    }
}

#[tokio::test]
async fn a_store_is_given_up_before_a_recall_of_the_same_moment_and_neither_is_sent_again() {
    let engine = Engine::start(&[Deed::Silent, Deed::Silent, Deed::Answer(201)]).await;
    let flags = ["--store-timeout", "300ms", "--recall-timeout", "1500ms"];
    let setup = gateway(Wanted { flags: &flags, ..Wanted::pooled(&engine.address.to_string()) }).await;
    let begun = Instant::now();
    let store = async { (setup.store(&[]).await, Instant::now()) };
    let recall = async { (setup.get("/api/v1/recall?q=x").await, Instant::now()) };
    let both = async { tokio::join!(store, recall) };
    let ((stored, store_ended), (recalled, recall_ended)) = timeout(PATIENCE, both).await.expect("both are given up");
    assert_eq!(problem(&stored), gateway_timeout());
    assert_eq!(problem(&recalled), gateway_timeout());
    assert!(store_ended < recall_ended, "the store has less time");
    assert!(store_ended - begun >= Duration::from_millis(300), "not before its time");
    assert!(recall_ended - begun >= Duration::from_millis(1500), "not before its time");

    assert_eq!(setup.store(&[]).await.status(), 201, "the engine is asked again once it speaks");
    let heads = engine.heads();
    let (stores, others): (Vec<&String>, Vec<&String>) =
        heads.iter().partition(|head| head.starts_with("POST /api/v1/store HTTP/1.1"));
    assert_eq!((stores.len(), others.len()), (2, 1), "each request was sent once: {heads:?}");
    let keys: Vec<_> = stores.iter().map(|head| field(head, "idempotency-key").expect("a key")).collect();
    assert_ne!(keys[0], keys[1], "the second store is no repetition of the first");
}

#[tokio::test]
async fn a_body_that_stays_away_is_the_clients_delay_and_one_that_came_is_the_engines() {
    let engine = Engine::start(&[Deed::Silent]).await;
    let flags = ["--store-timeout", "500ms"];
    let setup = gateway(Wanted { flags: &flags, ..Wanted::pooled(&engine.address.to_string()) }).await;
    // Few enough bytes to wait for the others, and too many: these are passed on as they come.
    for length in [5, 100_000] {
        let part = format!(
            "POST /api/v1/store HTTP/1.1\r\nhost: a\r\nx-api-key: {}\r\ncontent-length: 200000\r\n\r\n{}",
            setup.key.expose(),
            "x".repeat(length)
        );
        let answer = timeout(PATIENCE, setup.head_of(&part)).await.expect("it is given up");
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("problems/request-timeout"), "{answer}");
    }
    let whole: &'static str = Box::leak("x".repeat(100_000).into_boxed_str());
    let answer = timeout(PATIENCE, setup.send("POST", "/api/v1/store", &[], whole)).await.expect("it is given up");
    assert_eq!(problem(&answer), gateway_timeout());
}
