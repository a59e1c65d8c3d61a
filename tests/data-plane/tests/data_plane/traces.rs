//! Traces leave by configuration, and never at the cost of a request.

use harness::{DataPlane, TenantSpec, eventually, free_port};

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
