//! A client of the gateway, as an agent developer would write one.

use anyhow::{Context, Result};
use reqwest::{Method, Response, header::HeaderMap};
use serde_json::{Value, json};

use crate::eventually;

/// A client with one API key. Follows no redirects and retries nothing.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
}

/// What came back: status, headers and body (`Null` when it is not JSON).
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The response's headers.
    pub headers: HeaderMap,
    /// The body as JSON.
    pub body: Value,
    /// The body as text.
    pub text: String,
}

impl Answer {
    /// Reads a whole response.
    ///
    /// # Errors
    /// When the body breaks off.
    pub async fn read(response: Response) -> Result<Self> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.context("read the body")?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Self { status, headers, body, text })
    }

    /// The last part of a problem's type, or nothing if this is no problem.
    pub fn problem(&self) -> Option<&str> {
        self.body["type"].as_str().and_then(|uri| uri.strip_prefix("https://stellar-memory.dev/problems/"))
    }

    /// A header's text, or nothing.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Client {
    /// A client of the server at `base` (as `http://127.0.0.1:8080`).
    pub fn new(base: &str, key: &str) -> Self {
        Self { http: reqwest::Client::new(), base: base.to_owned(), key: key.to_owned() }
    }

    /// Starts a request to a path under the API's prefix, key included.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}/api/v1{path}", self.base)).header("x-api-key", &self.key)
    }

    /// Waits until the key opens: a gateway learns of a new one by notice.
    ///
    /// # Panics
    /// When no answer comes, or the key opens never.
    pub async fn opens(&self) {
        eventually("the key opens", || async {
            (self.get("/stats").await.expect("an answer").status == 200).then_some(())
        })
        .await;
    }

    /// Sends a GET.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        Answer::read(self.request(Method::GET, path).send().await?).await
    }

    /// Sends a POST with a JSON body.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        Answer::read(self.request(Method::POST, path).json(body).send().await?).await
    }

    /// Sends a DELETE.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        Answer::read(self.request(Method::DELETE, path).send().await?).await
    }

    /// Stores one memory.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn store(&self, content: &str) -> Result<Answer> {
        self.post("/store", &json!({ "content": content })).await
    }

    /// Recalls; spaces in `q` are encoded.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn recall(&self, q: &str) -> Result<Answer> {
        Answer::read(self.request(Method::GET, "/recall").query(&[("q", q)]).send().await?).await
    }
}
