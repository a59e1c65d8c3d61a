//! Logs: each line is a JSON object, each request has one in the gateway's, and none holds a customer's secret. What is
//! written when more is asked for is searched by `tests/attack`.

use harness::{Answer, Client, DataPlane, Program, TenantSpec, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

/// As by default, whatever the test's own environment says.
const ENVIRONMENT: [(&str, &str); 3] = [("RUST_LOG", ""), ("LOG_LEVEL", ""), ("LOG_FORMAT", "json")];
const CONTENT: &str = "the orchard gate opens with the blue lever";
const STRANGER: &str = "sk-stellar-0123456789abcdef0123456789abcdef";

/// The whole log of a program that is asked to end.
async fn ended(program: &mut Program) -> String {
    program.terminate().unwrap();
    let status = eventually("the program ends", || {
        let status = program.exited();
        async move { status }
    })
    .await;
    assert!(status.success(), "{status}: {}", program.log());
    program.log()
}

/// The lines of a log, each with what every line has.
fn objects(log: &str) -> Vec<Value> {
    let object = |line: &str| {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let field = |name: &str| object[name].as_str().unwrap_or_else(|| panic!("no {name}: {line}"));
        assert!(OffsetDateTime::parse(field("timestamp"), &Rfc3339).is_ok(), "{line}");
        assert!(["ERROR", "WARN", "INFO"].contains(&field("level")), "{line}");
        assert!(!field("message").is_empty() && !field("target").is_empty(), "{line}");
        object
    };
    log.lines().filter(|line| !line.is_empty()).map(object).collect()
}

#[tokio::test]
async fn every_line_is_an_object_and_every_request_has_one_without_a_secret() {
    let mut plane = DataPlane::start_in(&ENVIRONMENT, &[], &["--pre-stop-lag", "0s"]).await.unwrap();
    let tenant = plane.tenant("logged", TenantSpec::default()).await.unwrap();
    let client = plane.client(&tenant);
    let store = client.request(Method::POST, "/store").header("x-request-id", "named-by-the-client");
    let stored = Answer::read(store.json(&json!({ "content": CONTENT })).send().await.unwrap()).await.unwrap();
    assert_eq!(stored.header("x-request-id"), Some("named-by-the-client"));
    let recalled = client.recall("orchard cobalt").await.unwrap();
    assert_eq!(recalled.body[0]["content"], CONTENT, "{}", recalled.text);
    let refused = Client::new(&plane.url(), STRANGER).get("/stats?since=cobalt").await.unwrap();
    let unknown = client.delete(&format!("/forget/{}", Uuid::new_v4())).await.unwrap();
    let unmatched = client.get("/orchard").await.unwrap();

    let logs = [ended(&mut plane.gateway).await, ended(&mut plane.engine).await];
    let [gateway, engine] = logs.each_ref().map(|log| objects(log));
    assert!(!engine.is_empty());
    let access: Vec<&Value> = gateway.iter().filter(|line| line["target"] == "access").collect();
    let id = tenant.id.to_string();
    let expected = [
        ("POST", "/api/v1/store", 201, Some(&*id), stored),
        ("GET", "/api/v1/recall", 200, Some(&*id), recalled),
        ("GET", "/api/v1/stats", 401, None, refused),
        ("DELETE", "/api/v1/forget/{id}", 404, Some(&*id), unknown),
        ("GET", "unmatched", 404, None, unmatched),
    ];
    assert_eq!(access.len(), expected.len(), "{access:?}");
    for (line, (method, route, status, tenant, answer)) in access.into_iter().zip(&expected) {
        assert_eq!((answer.status, &line["status"]), (*status, &json!(status)), "{line}");
        assert_eq!((line["method"].as_str(), line["route"].as_str()), (Some(*method), Some(*route)), "{line}");
        assert_eq!(line["tenant"].as_str(), *tenant, "{line}");
        assert_eq!(line["request_id"].as_str(), answer.header("x-request-id"), "{line}");
        assert!(line["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{line}");
        assert!(line["duration_ms"].as_f64().is_some_and(|duration| duration >= 0.0), "{line}");
    }
    let [key, wrong] = [&*tenant.key, STRANGER].map(|key| key.trim_start_matches("sk-stellar-"));
    let capability = plane.master().capability(tenant.id, 1).expose();
    for secret in [key, wrong, &*capability, "orchard", "lever", "cobalt"] {
        assert!(!logs.iter().any(|log| log.contains(secret)), "a log holds what nobody may read there");
    }
}
