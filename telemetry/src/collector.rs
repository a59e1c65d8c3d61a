//! The HTTP client that batches of spans leave by.
//!
//! The exporter calls it from a thread of its own, which has no I/O: the request runs on the program's runtime and
//! that thread waits for it, never longer than `LONGEST`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use opentelemetry_http::{HttpClient, HttpError};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tokio::{runtime::Handle, time::timeout};

use crate::Error;

/// Connecting, sending and the answer together.
const LONGEST: Duration = Duration::from_secs(5);
/// An answer tells of refused spans at most.
const LONGEST_ANSWER: usize = 64 * 1024;

/// The way to the collector of traces.
#[derive(Clone, Debug)]
pub(crate) struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Handle,
    /// So that the log tells of a change, not of every batch.
    failing: Arc<AtomicBool>,
}

impl Collector {
    /// With `tls`, the system's root certificates count (SSL_CERT_FILE and SSL_CERT_DIR too).
    pub(crate) fn new(tls: bool) -> Result<Self, Error> {
        let provider = aws_lc_rs::default_provider();
        let connector = if tls {
            HttpsConnectorBuilder::new().with_provider_and_native_roots(provider).map_err(Error::Roots)?
        } else {
            let config = ClientConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(rustls::DEFAULT_VERSIONS)
                .expect("the provider has the ciphers of its own default versions")
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            HttpsConnectorBuilder::new().with_tls_config(config)
        };
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(1)
            .build(connector.https_or_http().enable_http1().build());
        Ok(Self { client, runtime: Handle::current(), failing: Arc::default() })
    }

    async fn send(self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let outcome = timeout(LONGEST, self.exchange(request)).await.unwrap_or_else(|late| Err(late.into()));
        match &outcome {
            Ok(answer) if answer.status().is_success() => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the collector takes traces again");
                }
            }
            Ok(answer) => self.fails(&answer.status()),
            Err(error) => self.fails(error),
        }
        outcome
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = self.client.request(request.map(Full::new)).await?.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }

    fn fails(&self, error: &(impl std::fmt::Display + ?Sized)) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the collector does not take traces; they are dropped until it does");
        }
    }
}

// The trait's methods are made by async-trait: this is what such a method is.
impl HttpClient for Collector {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let sending = self.runtime.spawn(self.clone().send(request));
        Box::pin(async move { sending.await? })
    }
}
