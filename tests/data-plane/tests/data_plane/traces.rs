//! Traces: one request is one trace across the programs, and carries nothing that is a customer's secret.

use harness::{Collector, DataPlane, TenantSpec, eventually, free_port};
use reqwest::Method;
use serde_json::json;

const TRACE: [u8; 16] = *b"\x4b\xf9\x2f\x35\x77\xb3\x4d\xa6\xa3\xce\x92\x9d\x0e\x0e\x47\x36";
const CLIENT: [u8; 8] = *b"\x00\xf0\x67\xaa\x0b\xa9\x02\xb7";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn a_request_is_one_trace_from_the_client_through_gateway_and_engine_without_a_secret() {
    let collector = Collector::start().await.unwrap();
    let plane = DataPlane::start_in(&collector.environment(), &[], &[]).await.unwrap();
    let tenant = plane.tenant("name-of-a-traced-tenant", TenantSpec::default()).await.unwrap();
    let content = "the orchard gate opens with the blue lever";
    let client = plane.client(&tenant);
    let request = client.request(Method::POST, "/store").header("traceparent", TRACEPARENT);
    let answer = request.json(&json!({ "content": content })).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(client.get("/recall?q=what-the-query-says").await.unwrap().status, 200);

    let (gateway, engine) = eventually("both programs' spans arrive", || async {
        let spans = collector.spans();
        let of = |service: &str| spans.iter().find(|span| span.trace == TRACE && span.service == service).cloned();
        Some((of("stellar-gateway")?, of("stellar-engine")?))
    })
    .await;
    assert_eq!(gateway.parent, CLIENT);
    assert_eq!(engine.parent, gateway.id);
    for told in ["POST /api/v1/store", "http.response.status_code", "free", &tenant.id.to_string(), "service.version"] {
        assert!(collector.contains(told), "{told} is in the trace");
    }
    eventually("the recall arrives too", || async { collector.contains("GET /api/v1/recall").then_some(()) }).await;
    let capability = plane.master().capability(tenant.id, 1).expose();
    for secret in [&tenant.key, &*capability, content, "orchard", "what-the-query-says", &tenant.name] {
        assert!(!collector.contains(secret), "a trace holds what nobody may read there");
    }
}

#[tokio::test]
async fn a_collector_that_is_gone_costs_no_request() {
    let endpoint = format!("http://127.0.0.1:{}", free_port().unwrap());
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    let mut plane = DataPlane::start_in(&environment, &[], &["--pre-stop-lag", "0s"]).await.unwrap();
    let tenant = plane.tenant("untraced", TenantSpec::default()).await.unwrap();
    let client = plane.client(&tenant);
    for number in 0..20 {
        let answer = client.store(&format!("memory {number} without a collector")).await.unwrap();
        assert!(answer.status < 300, "{answer:?}");
    }
    eventually("the log says so", || async { plane.gateway.log().contains("does not take traces").then_some(()) })
        .await;
    assert_eq!(client.recall("memory").await.unwrap().status, 200);
    plane.gateway.terminate().unwrap();
    let ended = eventually("the gateway ends", || {
        let ended = plane.gateway.exited();
        async move { ended }
    })
    .await;
    assert!(ended.success(), "the gateway ends well: {ended}");
}
