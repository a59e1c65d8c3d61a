//! Narratives by a language model, when an endpoint that speaks OpenAI's chat completions is configured.
//!
//! It gets the recalled memories and nothing else, and what it answers is only trusted as text: memories are named by the
//! numbers that it cites, and a number that it was not given is removed. The key is read anew for each request, so that it
//! can be replaced, and never reaches a log or an error; nor does what the endpoint says when it refuses.

mod citations;
mod prompt;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::http::{
    HeaderValue, Method, Request, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, InvalidHeaderValue},
    uri::{InvalidUri, PathAndQuery},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use serde::Deserialize;
use uuid::Uuid;

use crate::{
    error_chain,
    memory::{Memory, in_order},
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const LONGEST_ANSWER: usize = 1024 * 1024;
/// The last part of the address, after the base.
const COMPLETIONS: &str = "/chat/completions";

/// Where and how to ask.
pub struct Endpoint {
    /// The base, such as `https://llm.example.com/v1`.
    pub url: Uri,
    /// The model's name.
    pub model: String,
    /// The file with the key; read for each request.
    pub key_file: Option<PathBuf>,
    /// Connecting, asking and the answer together.
    pub timeout: Duration,
}

/// How narratives came about.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct NarrativeLabels {
    /// `model`, `memories` (none is configured or nothing was recalled) or `fallback` (the model failed).
    pub by: &'static str,
}

/// What is measured here.
#[derive(Clone)]
pub struct NarratorMetrics {
    /// Narratives.
    pub narratives: Family<NarrativeLabels, Counter>,
}

/// Asks the model, if one is configured.
#[derive(Clone)]
pub struct Narrator(Arc<Shared>);

struct Shared {
    model: Option<Model>,
    metrics: NarratorMetrics,
}

struct Model {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    address: Uri,
    name: String,
    key_file: Option<PathBuf>,
    timeout: Duration,
    /// So that the log tells of a change, not of every request.
    failing: AtomicBool,
}

/// A narrative by a model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// The text; `[n]` in it is the n-th of `memories`.
    pub narrative: String,
    /// The memories that it cites, in the order of their first mention.
    pub memories: Vec<Uuid>,
    /// The model's name.
    pub model: String,
}

/// Why no model can be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum NarratorError {
    /// The base makes no address.
    #[error("the URL of the narrating model has no usable path")]
    Address(#[source] InvalidUri),
    /// The base makes no address.
    #[error("the URL of the narrating model is not whole")]
    Url(#[source] axum::http::Error),
    /// The system has no certificates to check the endpoint's with.
    #[error("cannot read the system's root certificates, which an https endpoint needs")]
    Roots(#[source] io::Error),
}

/// Why the model did not answer this time. None of them holds the key or a text of the endpoint's.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot read the file with the model's key")]
    Key(#[source] io::Error),
    #[error("the model's key is no value of a header")]
    KeyValue(#[source] InvalidHeaderValue),
    #[error("the request could not be built")]
    Request(#[source] axum::http::Error),
    #[error("the endpoint cannot be reached")]
    Exchange(#[source] hyper_util::client::legacy::Error),
    #[error("the endpoint answered {0}")]
    Status(StatusCode),
    #[error("the endpoint's answer broke off or is too long")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the endpoint did not answer in time")]
    Late,
    #[error("the endpoint's answer is no chat completion")]
    Unreadable,
    #[error("the endpoint's answer holds no text")]
    Empty,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
}

impl Narrator {
    /// Asks the endpoint, or nobody.
    ///
    /// # Errors
    /// [`NarratorError`]
    pub fn new(endpoint: Option<Endpoint>, metrics: NarratorMetrics) -> Result<Self, NarratorError> {
        let model = endpoint.map(Model::new).transpose()?;
        Ok(Self(Arc::new(Shared { model, metrics })))
    }

    /// A narrative by the model. `None`: there is none, nothing was recalled, or it failed, which the log tells.
    pub async fn tell(&self, topic: &str, memories: &[Memory]) -> Option<Told> {
        let Some(model) = self.0.model.as_ref().filter(|_| !memories.is_empty()) else {
            self.count("memories");
            return None;
        };
        let told = model.tell(topic, &in_order(memories)).await;
        self.count(if told.is_some() { "model" } else { "fallback" });
        told
    }

    fn count(&self, by: &'static str) {
        self.0.metrics.narratives.get_or_create(&NarrativeLabels { by }).inc();
    }
}

impl Model {
    fn new(endpoint: Endpoint) -> Result<Self, NarratorError> {
        let Endpoint { url, model, key_file, timeout } = endpoint;
        let tls = url.scheme_str() == Some("https");
        let mut parts = url.into_parts();
        let base = parts.path_and_query.as_ref().map_or("", PathAndQuery::path).trim_end_matches('/');
        let path = format!("{base}{COMPLETIONS}").parse().map_err(NarratorError::Address)?;
        parts.path_and_query = Some(path);
        let address = Uri::from_parts(parts).map_err(|error| NarratorError::Url(error.into()))?;
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .build(connector(tls)?);
        Ok(Self { client, address, name: model, key_file, timeout, failing: AtomicBool::new(false) })
    }

    async fn tell(&self, topic: &str, memories: &[&Memory]) -> Option<Told> {
        let outcome = tokio::time::timeout(self.timeout, self.ask(topic, memories)).await;
        match outcome.unwrap_or(Err(Failure::Late)) {
            Ok(text) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the narrating model answers again");
                }
                let (narrative, cited) = citations::renumber(&text, memories.len());
                let memories = cited.into_iter().filter_map(|n| memories.get(n).map(|memory| memory.id)).collect();
                Some(Told { narrative, memories, model: self.name.clone() })
            }
            Err(failure) => {
                if self.failing.swap(true, Ordering::Relaxed) {
                    tracing::debug!(error = error_chain(&failure), "the narrating model still fails");
                } else {
                    let error = error_chain(&failure);
                    tracing::warn!(error, "the narrating model fails; narratives are composed without it meanwhile");
                }
                None
            }
        }
    }

    async fn ask(&self, topic: &str, memories: &[&Memory]) -> Result<String, Failure> {
        let body = prompt::request(&self.name, topic, memories, &Uuid::new_v4().simple().to_string());
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.address.clone())
            .header(CONTENT_TYPE, JSON)
            .header(ACCEPT, JSON)
            .body(Full::new(Bytes::from(body)))
            .map_err(Failure::Request)?;
        if let Some(path) = &self.key_file {
            let key = tokio::fs::read_to_string(path).await.map_err(Failure::Key)?;
            let mut value = HeaderValue::try_from(format!("Bearer {}", key.trim())).map_err(Failure::KeyValue)?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let answer = self.client.request(request).await.map_err(Failure::Exchange)?;
        if !answer.status().is_success() {
            return Err(Failure::Status(answer.status()));
        }
        let bytes = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await.map_err(Failure::Body)?.to_bytes();
        let Completion { choices } = serde_json::from_slice(&bytes).map_err(|_| Failure::Unreadable)?;
        let text = choices.into_iter().next().and_then(|choice| choice.message.content).unwrap_or_default();
        let text = text.trim();
        if text.is_empty() { Err(Failure::Empty) } else { Ok(text.to_owned()) }
    }
}

/// With `tls`, the system's root certificates count (SSL_CERT_FILE and SSL_CERT_DIR too).
fn connector(tls: bool) -> Result<HttpsConnector<HttpConnector>, NarratorError> {
    let provider = aws_lc_rs::default_provider();
    let builder = if tls {
        HttpsConnectorBuilder::new().with_provider_and_native_roots(provider).map_err(NarratorError::Roots)?
    } else {
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .unwrap_or_else(|_| unreachable!("the provider has the ciphers of its own default versions"))
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        HttpsConnectorBuilder::new().with_tls_config(config)
    };
    Ok(builder.https_or_http().enable_http1().build())
}
