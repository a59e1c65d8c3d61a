//! `operator smoke-test`: what `helm test` runs. Stores one memory through the gateway, recalls it, forgets it.

use std::{fs, path::PathBuf, time::Duration};

use axum::body::Body;
use http::{Method, Request, StatusCode, Uri, uri::InvalidUri};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tenancy::{ApiKey, ApiKeyError};

use crate::config::SmokeTestArgs;

const EACH_REQUEST: Duration = Duration::from_secs(15);

/// Why the installation does not do what it is for.
#[derive(Debug, thiserror::Error)]
pub enum SmokeTestError {
    /// The mounted file cannot be read.
    #[error("read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds no key.
    #[error(transparent)]
    Key(#[from] ApiKeyError),
    /// The gateway's address is none.
    #[error("the gateway's URL must be such as http://stellar-memory-gateway.stellar-system.svc:8080")]
    Url(#[from] InvalidUri),
    /// No answer.
    #[error("the gateway did not answer when asked to {operation}: {reason}")]
    NoAnswer {
        /// What was asked.
        operation: &'static str,
        /// Why there was no answer.
        reason: String,
    },
    /// An answer that is not the right one. Memories are made up here, so the body is no secret.
    #[error("asked to {operation}, the gateway answered {status}: {body}")]
    Wrong {
        /// What was asked.
        operation: &'static str,
        /// The answer's status.
        status: StatusCode,
        /// The answer's body.
        body: String,
    },
}

/// Stores, recalls and forgets one memory.
///
/// # Errors
/// [`SmokeTestError`], which names the step that failed.
pub async fn smoke_test(args: &SmokeTestArgs) -> Result<(), SmokeTestError> {
    let path = args.api_key_file.clone();
    let text = fs::read_to_string(&path).map_err(|source| SmokeTestError::File { path, source })?;
    let gateway = Gateway {
        http: Client::builder(TokioExecutor::new()).build_http(),
        base: args.gateway_url.trim_end_matches('/').to_owned(),
        key: ApiKey::parse(text.trim())?,
    };
    // Random, so that an earlier run's memory is not taken for this one's.
    let word = format!("smoke{:08x}", rand::random::<u32>());
    let body = serde_json::json!({ "content": format!("The smoke test chose the word {word}"), "importance": 0 });
    let stored = gateway.ask("store", Method::POST, "/store", body.to_string(), |_| true).await?;
    let id = stored["id"].as_str().unwrap_or_default();
    let found = |recalled: &Value| recalled[0]["id"] == id;
    gateway.ask("recall", Method::GET, &format!("/recall?q={word}"), String::new(), found).await?;
    gateway.ask("forget", Method::DELETE, &format!("/forget/{id}"), String::new(), |_| true).await?;
    Ok(())
}

struct Gateway {
    http: Client<HttpConnector, Body>,
    base: String,
    key: ApiKey,
}

impl Gateway {
    async fn ask(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        body: String,
        right: impl Fn(&Value) -> bool,
    ) -> Result<Value, SmokeTestError> {
        let uri: Uri = format!("{}/api/v1{path}", self.base).parse()?;
        let no_answer = |reason: String| SmokeTestError::NoAnswer { operation, reason };
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", "application/json")
            .header("x-api-key", self.key.expose())
            .body(Body::from(body))
            .map_err(|error| no_answer(error.to_string()))?;
        let exchange = async {
            let (head, body) =
                self.http.request(request).await.map_err(|error| no_answer(error.to_string()))?.into_parts();
            let body = body.collect().await.map_err(|error| no_answer(error.to_string()))?.to_bytes();
            Ok::<_, SmokeTestError>((head.status, String::from_utf8_lossy(&body).into_owned()))
        };
        let (status, body) = tokio::time::timeout(EACH_REQUEST, exchange)
            .await
            .map_err(|_| no_answer(format!("not within {EACH_REQUEST:?}")))??;
        match serde_json::from_str(&body) {
            Ok(value) if status.is_success() && right(&value) => Ok(value),
            _ => Err(SmokeTestError::Wrong { operation, status, body }),
        }
    }
}
