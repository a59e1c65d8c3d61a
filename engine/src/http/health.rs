//! Health and metrics, on a port of their own.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{metrics::Metrics, store::Store};

const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether requests should be sent here.
#[derive(Clone)]
pub struct Readiness(Arc<RwLock<Phase>>);

enum Phase {
    Starting,
    Serving(Store),
    Stopping,
}

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(Phase::Starting)))
    }
}

impl Readiness {
    /// From now on ready whenever the database is.
    pub fn serving(&self, store: Store) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Phase::Serving(store);
    }

    /// From now on not ready any more.
    pub fn stopping(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Phase::Stopping;
    }

    async fn check(&self) -> Result<(), &'static str> {
        let store = match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            Phase::Starting => return Err("starting: waiting for the database URL"),
            Phase::Stopping => return Err("stopping"),
            Phase::Serving(store) => store.clone(),
        };
        match tokio::time::timeout(CHECK_TIMEOUT, store.check()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(crate::store::StoreError::NotServedHere)) => Err("the tenant's role is not admitted (yet)"),
            Ok(Err(_)) => Err("the database does not answer"),
            Err(_) => Err("the database does not answer in time"),
        }
    }
}

/// `/healthz`, `/readyz`, `/metrics`.
pub fn health_router(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(readiness.clone())
        .merge(Router::new().route("/metrics", get(page)).with_state((readiness, metrics)))
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    match readiness.check().await {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn page(State((readiness, metrics)): State<(Readiness, Metrics)>) -> Response {
    let connections = match &*readiness.0.read().unwrap_or_else(PoisonError::into_inner) {
        Phase::Serving(store) => store.connections(),
        Phase::Starting | Phase::Stopping => (0, 0),
    };
    match metrics.page(connections) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
