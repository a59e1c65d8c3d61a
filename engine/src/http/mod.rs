//! The API as the gateway calls it: `/api/v1/…` with the tenant's identity and capability in headers.

mod body;
mod cursor;
mod error;
mod events;
mod forget;
mod health;
mod local;
mod memories;
mod narrate;
mod observe;
mod params;
mod recall;
mod stats;
mod store;
mod tenant_request;
mod timeline;
mod view;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{delete, get, post},
};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    activity::Activity,
    index::Indexes,
    store::{Coalescer, Store},
};
pub use error::{ApiError, problem_response};
pub use health::{Readiness, health_router};
pub use local::{LocalCaller, local_router};
pub use observe::HttpMetrics;

/// Larger than any valid body: 10,000 characters, all escaped, and 16 KiB of metadata.
const MAX_BODY_BYTES: usize = 512 * 1024;

/// What handlers work with.
#[derive(Clone)]
pub struct Api {
    /// The way to a tenant's rows.
    pub store: Store,
    /// The way in for new memories.
    pub coalescer: Coalescer,
    /// What finds them.
    pub indexes: Indexes,
    /// Where notes are left.
    pub activity: Activity,
    /// What requests are measured by.
    pub metrics: HttpMetrics,
    /// How long a request may take.
    pub request_timeout: std::time::Duration,
    /// Set when streams shall end.
    pub closing: CancellationToken,
}

/// Every route there is.
pub fn router(api: Api) -> Router {
    let prefix = Router::new()
        .route("/store", post(store::store))
        .route("/recall", get(recall::recall))
        .route("/forget/{id}", delete(forget::forget))
        .route("/memories", get(memories::memories))
        .route("/timeline", get(timeline::timeline))
        .route("/narrate", post(narrate::narrate))
        .route("/stats", get(stats::stats))
        .route("/events", get(events::events));
    Router::new()
        .nest("/api/v1", prefix)
        .fallback(error::no_such_route)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(middleware::from_fn_with_state(api.clone(), observe::observe))
        .with_state(api)
}
