//! The port for the platform: /healthz (the process runs), /readyz (send requests here), /metrics.
//!
//! Ready means that the directory was loaded once and that the gateway is not about to leave. A lost Postgres does not
//! make it unready, for it serves on from its directory, until that is too old (`--directory-max-age`).

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Instant,
};

use axum::body::Body;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use tokio_util::sync::CancellationToken;

use crate::{directory::Directory, metrics::Metrics, server::Handler};

/// See the module.
pub struct Health {
    /// What /metrics shows.
    pub metrics: Arc<Metrics>,
    /// Set when the program has read its files and begun to load.
    pub directory: OnceLock<Arc<Directory>>,
    /// Cancelled when the gateway is about to leave.
    pub leaving: CancellationToken,
    /// The start.
    pub started: Instant,
}

impl Handler for Health {
    async fn answer(&self, request: Request<Body>, _client: IpAddr) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET");
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok"),
            "/readyz" => match self.unready() {
                None => text(StatusCode::OK, "ready"),
                Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason),
            },
            "/metrics" => {
                let body =
                    self.metrics.expose(self.directory.get().map(|directory| &**directory), self.started.elapsed());
                let mut response = Response::new(Body::from(body));
                let media_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, media_type);
                response
            }
            _ => text(StatusCode::NOT_FOUND, "try /healthz, /readyz or /metrics"),
        }
    }
}

impl Health {
    fn unready(&self) -> Option<&'static str> {
        if self.leaving.is_cancelled() {
            return Some("shutting down");
        }
        match self.directory.get() {
            None => Some("waiting for the files with the database URL and the master key"),
            Some(directory) if !directory.is_loaded() => Some("waiting for Postgres: the directory is not loaded yet"),
            Some(directory) if directory.is_too_old() => {
                Some("waiting for Postgres: which keys still count has not been known for too long")
            }
            Some(_) => None,
        }
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
