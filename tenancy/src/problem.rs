//! The errors that a client reads: RFC 9457 problem details.
//!
//! One list for gateway and engine, so that a `type` means the same whoever answers. A detail is written for the
//! client: it says what to do, and never repeats a secret, another tenant's name or an error of Postgres.

use serde::Serialize;
use serde_json::{Map, Value};

/// The media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";
const TYPE_BASE: &str = "https://stellar-memory.dev/problems/";

/// The kinds of error that a client can meet. The URI of each is stable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProblemType {
    /// 400: the request cannot be understood or a value is out of range.
    InvalidRequest,
    /// 401: no key was sent.
    MissingApiKey,
    /// 401: the key is unknown, revoked or expired.
    InvalidApiKey,
    /// 403: the tenant is suspended.
    TenantSuspended,
    /// 403: the tier's number of memories is reached.
    MemoryQuotaReached,
    /// 403: the tenant's memories need more memory for their index than one tenant may have.
    IndexLimitReached,
    /// 403: the tier's number of agents or API keys is reached.
    KeyQuotaReached,
    /// 403: a web page of this origin may not open a socket.
    OriginNotAllowed,
    /// 404: no such memory, key or route.
    NotFound,
    /// 405: the route exists, the method does not.
    MethodNotAllowed,
    /// 408: the client was too slow to send its request.
    RequestTimeout,
    /// 409: the same Idempotency-Key or op_id was used with another body.
    Conflict,
    /// 413: the body is larger than the route takes.
    PayloadTooLarge,
    /// 415: the body is not JSON, or compressed in a way that is not known.
    UnsupportedMediaType,
    /// 421: this engine does not serve this tenant now. The gateway handles it; a client should not meet it.
    NotServedHere,
    /// 426: the path is a WebSocket.
    UpgradeRequired,
    /// 429: the tier's request rate is reached.
    RateLimited,
    /// 429: the tier's number of open sockets and event streams is reached.
    TooManySockets,
    /// 500: a fault of ours.
    Internal,
    /// 502: the engine gave no usable answer.
    BadGateway,
    /// 503: the engine or Postgres cannot be reached just now; retry.
    Unavailable,
    /// 504: the engine did not answer in time.
    GatewayTimeout,
}

impl ProblemType {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::InvalidRequest,
        Self::MissingApiKey,
        Self::InvalidApiKey,
        Self::TenantSuspended,
        Self::MemoryQuotaReached,
        Self::IndexLimitReached,
        Self::KeyQuotaReached,
        Self::OriginNotAllowed,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::Conflict,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::NotServedHere,
        Self::UpgradeRequired,
        Self::RateLimited,
        Self::TooManySockets,
        Self::Internal,
        Self::BadGateway,
        Self::Unavailable,
        Self::GatewayTimeout,
    ];

    /// The kind of this slug.
    pub fn of_slug(slug: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.slug() == slug)
    }

    /// The URI that names it.
    pub fn uri(self) -> String {
        format!("{TYPE_BASE}{}", self.slug())
    }

    /// The last part of the type's URI, also the `kind` on a metric.
    pub fn slug(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid-request",
            Self::MissingApiKey => "missing-api-key",
            Self::InvalidApiKey => "invalid-api-key",
            Self::TenantSuspended => "tenant-suspended",
            Self::MemoryQuotaReached => "memory-quota-reached",
            Self::IndexLimitReached => "index-limit-reached",
            Self::KeyQuotaReached => "key-quota-reached",
            Self::OriginNotAllowed => "origin-not-allowed",
            Self::NotFound => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::RequestTimeout => "request-timeout",
            Self::Conflict => "conflict",
            Self::PayloadTooLarge => "payload-too-large",
            Self::UnsupportedMediaType => "unsupported-media-type",
            Self::NotServedHere => "not-served-here",
            Self::UpgradeRequired => "upgrade-required",
            Self::RateLimited => "rate-limited",
            Self::TooManySockets => "too-many-sockets",
            Self::Internal => "internal",
            Self::BadGateway => "bad-gateway",
            Self::Unavailable => "unavailable",
            Self::GatewayTimeout => "gateway-timeout",
        }
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::MissingApiKey | Self::InvalidApiKey => 401,
            Self::TenantSuspended
            | Self::MemoryQuotaReached
            | Self::IndexLimitReached
            | Self::KeyQuotaReached
            | Self::OriginNotAllowed => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict => 409,
            Self::PayloadTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::NotServedHere => 421,
            Self::UpgradeRequired => 426,
            Self::RateLimited | Self::TooManySockets => 429,
            Self::Internal => 500,
            Self::BadGateway => 502,
            Self::Unavailable => 503,
            Self::GatewayTimeout => 504,
        }
    }

    /// The short summary, the same for every occurrence.
    pub fn title(self) -> &'static str {
        match self {
            Self::InvalidRequest => "The request is not valid",
            Self::MissingApiKey => "An API key is required",
            Self::InvalidApiKey => "The API key is not valid",
            Self::TenantSuspended => "The tenant is suspended",
            Self::MemoryQuotaReached => "The memory quota is reached",
            Self::IndexLimitReached => "The index of the tenant is too large",
            Self::KeyQuotaReached => "The quota of agents or API keys is reached",
            Self::OriginNotAllowed => "Pages of this origin may not do this",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "The method is not allowed here",
            Self::RequestTimeout => "The request was not sent in time",
            Self::Conflict => "The request conflicts with an earlier one",
            Self::PayloadTooLarge => "The body is too large",
            Self::UnsupportedMediaType => "The body is of a type or coding that is not taken",
            Self::NotServedHere => "The tenant is not served here",
            Self::UpgradeRequired => "This path is a WebSocket",
            Self::RateLimited => "The request rate is reached",
            Self::TooManySockets => "Too many sockets and event streams are open",
            Self::Internal => "Something went wrong on our side",
            Self::BadGateway => "The memory engine gave no usable answer",
            Self::Unavailable => "The service is not available just now",
            Self::GatewayTimeout => "The memory engine did not answer in time",
        }
    }
}

/// A problem details object, RFC 9457 §3.1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    /// A URI that names the kind.
    #[serde(rename = "type")]
    pub uri: String,
    /// The short summary of the kind.
    pub title: &'static str,
    /// The HTTP status, as a number.
    pub status: u16,
    /// What happened this time and what to do about it.
    pub detail: String,
    /// Extension members, such as `used` and `limit`.
    #[serde(flatten)]
    pub extensions: Map<String, Value>,
    /// The kind, for metrics and for choosing the status.
    #[serde(skip)]
    pub kind: ProblemType,
}

impl Problem {
    /// A problem of a kind, with a detail for the client.
    pub fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self {
            uri: kind.uri(),
            title: kind.title(),
            status: kind.status(),
            detail: detail.into(),
            extensions: Map::new(),
            kind,
        }
    }

    /// Adds an extension member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extensions.insert(name.to_owned(), value.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_says_what_to_do_about_every_type() {
        let readme = include_str!("../../README.md");
        let said = |kind: &&ProblemType| readme.contains(&format!("`{}`", kind.slug()));
        assert_eq!(ProblemType::ALL.iter().find(|kind| !said(kind)), None);
    }

    #[test]
    fn serialises_as_rfc_9457_says() {
        let problem =
            Problem::new(ProblemType::MemoryQuotaReached, "1000 of 1000 memories are used").with("limit", 1000);
        let json = serde_json::to_value(&problem).expect("a problem is JSON");
        assert_eq!(
            json,
            serde_json::json!({
                "type": "https://stellar-memory.dev/problems/memory-quota-reached",
                "title": "The memory quota is reached",
                "status": 403,
                "detail": "1000 of 1000 memories are used",
                "limit": 1000,
            })
        );
    }
}
