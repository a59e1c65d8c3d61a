//! The end of a Tenant that somebody else's finalizer holds.

use std::time::Duration;

use harness::eventually_within;
use serde_json::json;

use crate::{
    api::{Api, TENANTS, condition, settled},
    program::Operator,
    stage::stage,
};

const PATIENCE: Duration = Duration::from_mins(1);
const OURS: &str = "stellar-memory.dev/cleanup";
const OTHER: &str = "example.org/inventory";

#[tokio::test(flavor = "multi_thread")]
async fn retired_tenant_that_others_hold_is_not_ready() {
    let stage = stage().await;
    let api = Api::admin().await;
    let _operator = Operator::start(&stage.start());
    for policy in ["Retain", "Delete"] {
        let name = format!("held-{}", policy.to_lowercase());
        let path = format!("{TENANTS}/{name}");
        api.tenant(&name, &json!({ "tier": "free", "deletionPolicy": policy })).await;
        eventually_within(PATIENCE, "Ready", || async { api.get(&path).await.filter(settled).map(drop) }).await;
        api.patch(&path, &json!({ "metadata": { "finalizers": [OURS, OTHER] } })).await.unwrap();
        api.delete(&path).await;
        let held = eventually_within(PATIENCE, "the operator lets go", || async {
            api.get(&path).await.filter(|tenant| tenant["metadata"]["finalizers"] == json!([OTHER]))
        })
        .await;
        // At this moment and not some time after: nobody looks at this Tenant any more.
        for (kind, status) in [("Ready", "False"), ("EngineReady", "False"), ("KeyReady", "False")] {
            assert_eq!(condition(&held, kind, "status"), Some(status), "{kind}: {held}");
            assert_eq!(condition(&held, kind, "reason"), Some("Deleting"), "{kind}: {held}");
        }
        assert_eq!(held["status"]["phase"], "Deleting", "{held}");
        let message = condition(&held, "Reconciling", "message").unwrap();
        assert!(message.contains(OTHER), "{message}");
        api.patch(&path, &json!({ "metadata": { "finalizers": [] } })).await.unwrap();
        api.gone(&path).await;
    }
}
