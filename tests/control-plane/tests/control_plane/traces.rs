//! Traces of the operator, sent where the configuration says: each reconciliation of a Tenant is one, with how it went.
//! That none of them holds a secret is shown in `secrets`, while the operator is at its most talkative.

use std::time::Duration;

use harness::{Collector, Span, eventually_within};
use serde_json::json;

use crate::{
    api::{Api, TENANTS, condition, settled},
    program::{Operator, Start},
    stage::stage,
};

const PATIENCE: Duration = Duration::from_secs(90);

/// A reconciliation of the Tenant that ended so: with an error of this reason, or with none.
async fn reconciliation(collector: &Collector, tenant: &str, reason: Option<&str>) -> Span {
    eventually_within(PATIENCE, &format!("a trace of {tenant} arrives"), || async {
        collector.spans().into_iter().find(|span| {
            let says = |attribute: &str| span.attributes.get(attribute).map(String::as_str);
            says("tenant") == Some(tenant) && says("error.type") == reason
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconciliation_is_a_trace_that_names_the_tenant_and_how_it_went() {
    let stage = stage().await;
    let api = &Api::admin().await;
    let collector = Collector::start().await.unwrap();
    let _operator = Operator::start(&Start { traces: Some(collector.clone()), ..stage.start() });
    let [good, bad] = &["traced", "tierless"].map(|name| format!("{TENANTS}/{name}"));
    api.tenant("traced", &json!({ "tier": "free", "deletionPolicy": "Delete" })).await;
    api.tenant("tierless", &json!({ "tier": "nowhere", "deletionPolicy": "Delete" })).await;

    let tenant = eventually_within(PATIENCE, "Ready", || async { api.get(good).await.filter(settled) }).await;
    let span = reconciliation(&collector, "traced", None).await;
    assert_eq!((&*span.service, &*span.name), ("stellar-operator", "reconcile"));
    assert!(span.parent.is_empty() && span.error.is_none(), "{span:?}");
    assert_eq!(tenant["metadata"]["uid"], span.attributes["stellar.tenant.id"]);

    let tenant = eventually_within(PATIENCE, "not Ready", || async {
        api.get(bad).await.filter(|tenant| condition(tenant, "Ready", "reason") == Some("TierNotFound"))
    })
    .await;
    let span = reconciliation(&collector, "tierless", Some("TierNotFound")).await;
    assert_eq!(tenant["metadata"]["uid"], span.attributes["stellar.tenant.id"]);
    assert_eq!(span.error.as_deref(), condition(&tenant, "Ready", "message"), "the trace says what the status says");

    for path in [good, bad] {
        api.delete(path).await;
        api.gone(path).await;
    }
}
