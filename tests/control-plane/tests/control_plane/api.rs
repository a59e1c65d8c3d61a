//! The API server by path and JSON: what a test reads is what is there, whatever the product's own types say.

use std::{path::Path, time::Duration};

use harness::eventually_within;
use http::{Method, Request};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
    core::Status,
};
use serde_json::{Value, json};

pub const TENANTS: &str = "/apis/stellar-memory.dev/v1alpha1/tenants";
pub const TIERS: &str = "/apis/stellar-memory.dev/v1alpha1/tiers";

/// The longest that something takes to go.
const GONE: Duration = Duration::from_mins(1);

/// A client of the API server.
#[derive(Clone)]
pub struct Api(pub Client);

impl Api {
    /// As the administrator of `KUBECONFIG`.
    pub async fn admin() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Self(Client::try_default().await.expect("KUBECONFIG names a control plane: `. DIR/env`"))
    }

    /// As the account of a kubeconfig.
    pub async fn of(kubeconfig: &Path) -> Self {
        let config = Kubeconfig::read_from(kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        Self(Client::try_from(config).unwrap())
    }

    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Status> {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        self.send(method, path, kind, body).await
    }

    pub async fn get(&self, path: &str) -> Option<Value> {
        match self.call(Method::GET, path, None).await {
            Ok(found) => Some(found),
            Err(status) if status.code == 404 => None,
            Err(status) => panic!("GET {path}: {}", status.message),
        }
    }

    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, Status> {
        self.call(Method::POST, path, Some(object)).await
    }

    pub async fn patch(&self, path: &str, patch: &Value) -> Result<Value, Status> {
        self.call(Method::PATCH, path, Some(patch)).await
    }

    /// Deletes; what is not there is deleted already.
    pub async fn delete(&self, path: &str) {
        match self.call(Method::DELETE, path, None).await {
            Err(status) if status.code != 404 => panic!("DELETE {path}: {}", status.message),
            _ => {}
        }
    }

    /// Waits until nothing is there any more.
    pub async fn gone(&self, path: &str) {
        eventually_within(GONE, &format!("{path} is gone"), || async { self.get(path).await.is_none().then_some(()) })
            .await;
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: Option<&Value>) -> Result<Value, Status> {
        let body = body.map(ToString::to_string).unwrap_or_default().into_bytes();
        let request = Request::builder().method(method).uri(path).header("content-type", kind).body(body).unwrap();
        match self.0.request::<Value>(request).await {
            Ok(answer) => Ok(answer),
            Err(kube::Error::Api(status)) => Err(*status),
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Makes a Tenant, which must be accepted.
    pub async fn tenant(&self, name: &str, spec: &Value) {
        self.create(TENANTS, &tenant(name, spec)).await.unwrap();
    }
}

pub fn tenant(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "stellar-memory.dev/v1alpha1", "kind": "Tenant", "metadata": { "name": name }, "spec": spec })
}

pub fn tier(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "stellar-memory.dev/v1alpha1", "kind": "Tier", "metadata": { "name": name }, "spec": spec })
}

/// A condition's field: `status`, `reason` or `message`.
pub fn condition<'a>(object: &'a Value, kind: &str, field: &str) -> Option<&'a str> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)?[field].as_str()
}

/// As its spec says, at this generation, and nothing left to do.
pub fn settled(object: &Value) -> bool {
    condition(object, "Ready", "status") == Some("True")
        && condition(object, "Reconciling", "status") == Some("False")
        && object["status"]["observedGeneration"] == object["metadata"]["generation"]
}
