//! Plays the kubelet, and of it only one sentence: every pod of a tenant runs and is ready. And publishes its address, which
//! the real controller does only for pods of a node that there is.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;

use crate::api::Api;

/// Pods become ready as long as this lives.
pub struct Kubelet(JoinHandle<()>);

impl Kubelet {
    pub fn start(api: &Api) -> Self {
        Self(tokio::spawn(keep(api.clone())))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep(api: Api) {
    let status = json!({ "status": { "phase": "Running", "podIP": "192.0.2.1", "podIPs": [{ "ip": "192.0.2.1" }], "conditions": [
        { "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" },
        { "type": "ContainersReady", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" },
    ] } });
    loop {
        let pods = api.call(http::Method::GET, "/api/v1/pods", None).await.unwrap_or_default();
        for pod in pods["items"].as_array().into_iter().flatten() {
            if pod["status"]["phase"] == "Pending" && pod["metadata"]["deletionTimestamp"].is_null() {
                let (namespace, name) =
                    (pod["metadata"]["namespace"].as_str().unwrap(), pod["metadata"]["name"].as_str().unwrap());
                // One that has gone in between needs nothing.
                let _ = api.patch(&format!("/api/v1/namespaces/{namespace}/pods/{name}/status"), &status).await;
                let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
                let _ = api.create(&slices, &published()).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn published() -> serde_json::Value {
    let labels = json!({ "kubernetes.io/service-name": "engine", "endpointslice.kubernetes.io/managed-by": "test" });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": { "name": "engine-test", "labels": labels },
        "addressType": "IPv4", "ports": [],
        "endpoints": [{ "addresses": ["192.0.2.1"], "conditions": { "ready": true } }],
    })
}
