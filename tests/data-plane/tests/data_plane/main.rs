//! Gateway, engine and Postgres as real processes. The tests of one module say what one kind of user relies on.
//!
//! Most tests share one set of servers and are kept apart as customers are: by tenant. A test that breaks a server
//! starts servers of its own.

#![allow(missing_docs, clippy::unwrap_used)]

mod audit;
mod auth;
mod clients;
mod connections;
mod contract;
mod documents;
mod edge;
mod faults;
mod flip;
mod hostile;
mod index_memory;
mod isolation;
mod keys;
mod lint;
mod local;
mod logs;
mod memory;
mod openapi;
mod panics;
mod portability;
mod quota;
mod reads;
mod replicas;
mod rotation;
mod shares;
mod sync;
mod traces;
mod writes;
mod zones;

use harness::{DataPlane, Tenant, TenantSpec};
use tokio::sync::OnceCell;

/// The servers that tests share. They end with the test process.
pub async fn shared() -> &'static DataPlane {
    static SHARED: OnceCell<DataPlane> = OnceCell::const_new();
    SHARED.get_or_init(|| async { DataPlane::start().await.expect("the data plane starts") }).await
}

/// A tenant of a free tier on the shared servers, whose key the gateway knows: of one that it does not know it asks Postgres,
/// but not while somebody of this address (another test) tries many.
pub async fn tenant(name: &str) -> Tenant {
    let plane = shared().await;
    let tenant = plane.tenant(name, TenantSpec::default()).await.expect("a tenant is made");
    plane.client(&tenant).opens().await;
    tenant
}
