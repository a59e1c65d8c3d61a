//! The API as the gateway calls it: `/api/v1/…` with the tenant's identity and capability in headers.

mod audit;
mod batch;
mod body;
mod changes;
mod cursor;
mod error;
mod etag;
mod export;
mod forget;
mod health;
mod idempotency;
mod import;
mod local;
mod local_sync;
mod members;
mod memories;
mod memory;
mod narrate;
mod observe;
mod openapi;
mod operations;
mod params;
mod recall;
mod stats;
mod store;
mod tenant_request;
mod timeline;
mod view;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{delete, get, post},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    activity::Activity,
    follow::Logs,
    index::Indexes,
    narrator::Narrator,
    store::{Coalescer, Store},
};
pub use error::{ApiError, problem_response};
pub use health::{Readiness, health_router};
pub use local::{LocalCaller, local_router};
pub use local_sync::LocalRooms;
pub use observe::HttpMetrics;
pub use openapi::description;

/// Larger than any valid body: 10,000 characters, all escaped, and 16 KiB of metadata.
const MAX_BODY_BYTES: usize = 512 * 1024;
/// Of a batch.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Imports at one time that are in memory as a whole.
pub const WHOLE_IMPORTS: usize = 2;
const IMPORT: &str = "/import";

/// What handlers work with.
#[derive(Clone)]
pub struct Api {
    /// The way to a tenant's rows.
    pub store: Store,
    /// The way in for whatever is written.
    pub coalescer: Coalescer,
    /// Where those wait who follow a log.
    pub logs: Logs,
    /// What finds them.
    pub indexes: Indexes,
    /// Where notes are left.
    pub activity: Activity,
    /// What requests are measured by.
    pub metrics: HttpMetrics,
    /// Who tells narratives.
    pub narrator: Narrator,
    /// Places for imports that are in memory as a whole.
    pub whole_imports: Arc<Semaphore>,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How long an import may take.
    pub import_timeout: Duration,
    /// Set when streams shall end.
    pub closing: CancellationToken,
}

/// Every route there is.
pub fn router(api: Api) -> Router {
    let prefix = Router::new()
        .route("/store", post(store::store))
        .route("/recall", get(recall::recall))
        .route("/forget/{id}", delete(forget::forget))
        .route("/batch", post(batch::batch).layer(DefaultBodyLimit::max(MAX_BATCH_BYTES)))
        .route("/memories", get(memories::memories))
        .route("/memories/{id}", get(memory::memory).patch(memory::update))
        .route("/timeline", get(timeline::timeline))
        .route("/narrate", post(narrate::narrate))
        .route("/stats", get(stats::stats))
        .route("/audit", get(audit::audit))
        .route("/export", get(export::export))
        .route(IMPORT, post(import::import))
        .layer(middleware::from_fn(etag::conditional));
    Router::new()
        .nest("/api/v1", prefix)
        .route(changes::ROUTE, get(changes::changes))
        .fallback(error::no_such_route)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(middleware::from_fn_with_state(api.clone(), observe::observe))
        .with_state(api)
}
