//! The one place where a failure becomes an answer. Three things, kept apart: what the client reads
//! ([`Error::into_response`]), what the log says (`Display` with its sources), the metric's kind ([`Error::kind`]).

use std::{fmt::Write, time::Duration};

use axum::body::Body;
use http::{
    HeaderValue, Response, StatusCode,
    header::{ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use tenancy::{PROBLEM_JSON, Problem, ProblemType};

use crate::{
    encoding,
    limit::{self, retry_after},
};

/// Why a request was not answered by an engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// HTTP/1.1 wants exactly one well-formed Host.
    #[error("the Host header is {0}")]
    Host(&'static str),
    /// X-API-Key and Authorization disagree.
    #[error("two different API keys were sent")]
    TwoKeys,
    /// No key in either header.
    #[error("no API key was sent")]
    MissingKey,
    /// Malformed, unknown, revoked, expired, or of a tenant that is gone: one answer for all.
    #[error("the API key is not valid")]
    InvalidKey,
    /// This address fails to authenticate too often.
    #[error("too many failed authentications from one address")]
    TooManyFailures(Duration),
    /// The platform team suspended the tenant.
    #[error("the tenant is suspended")]
    Suspended,
    /// The tenant's rate is used up; when to come back.
    #[error("the tenant's request rate is reached")]
    RateLimited(Duration),
    /// No such path.
    #[error("no such route")]
    NoRoute,
    /// The path exists; the methods that it takes.
    #[error("the method is not allowed here")]
    MethodNotAllowed(String),
    /// More bytes than the route takes.
    #[error("the body is larger than {0} bytes")]
    BodyTooLarge(usize),
    /// The body did not arrive in time.
    #[error("the body did not arrive in time")]
    BodyTooSlow,
    /// The client's body broke off or is malformed.
    #[error("the client's body could not be read")]
    BodyBroken(#[source] axum::Error),
    /// The body is not JSON by its Content-Type.
    #[error("the body is not declared as JSON")]
    NotJson,
    /// The body has a coding that is not known, or several.
    #[error("the body's content coding is not taken")]
    Encoding,
    /// All places for decoders of large bodies are taken.
    #[error("no decoder is free")]
    NoDecoder,
    /// A value in body or query is wrong; a sentence for the client. It may repeat what the client sent, so the log goes
    /// without it.
    #[error("the request is not valid")]
    Invalid(String),
    /// The tenant's operations are used up: how many it may have a minute, and when to come back.
    #[error("the tenant's rate of operations is reached")]
    OperationsLimited {
        /// Operations a minute.
        per_minute: u32,
        /// When something is left again.
        wait: Duration,
    },
    /// Postgres has not been heard of for too long.
    #[error("the directory is too old to know which keys count")]
    DirectoryTooOld,
    /// The directory has not been loaded yet.
    #[error("the directory is not loaded yet")]
    NotLoaded,
    /// No address of the engine took a connection within the retry budget.
    #[error("no engine could be reached at {0}")]
    Unreachable(String),
    /// The engine broke off after the request was sent, and repeating it was not safe or did not help.
    #[error("the engine broke off")]
    Lost(#[source] hyper_util::client::legacy::Error),
    /// The engine says that it does not serve the tenant, also after a fresh look into Postgres.
    #[error("the engine does not serve the tenant")]
    NotServed,
    /// No answer within the route's time.
    #[error("the engine did not answer in time")]
    Timeout,
    /// A request could not be built for the engine.
    #[error("the request could not be passed on")]
    Unforwardable(#[source] http::Error),
    /// Postgres failed or is away: what was tried.
    #[error("Postgres failed: {what}")]
    Database {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: sqlx::Error,
    },
    /// Postgres did not answer in time: what was tried.
    #[error("Postgres did not answer in time: {0}")]
    DatabaseTimeout(&'static str),
    /// All agents or API keys of the tier are used.
    #[error("the quota of {what} is reached")]
    KeyQuota {
        /// `agents` or `api_keys`.
        what: String,
        /// How many are used.
        used: i64,
        /// How many there may be.
        limit: i64,
    },
    /// The operator manages this key.
    #[error("the operator manages the API key")]
    KeyManaged,
    /// The tenant has no live key of that id.
    #[error("no such API key")]
    NoSuchKey,
    /// `/sync` was asked for in another way than a WebSocket's.
    #[error(transparent)]
    NoUpgrade(sync::NoUpgrade),
    /// A web page asks for a socket whose origin is not configured.
    #[error("the origin of a web page is not configured")]
    ForeignOrigin,
    /// The tenant has as many sockets and event streams as it may.
    #[error("the tenant's sockets and event streams are used up")]
    TooManySockets(sync::Full),
    /// A room's log cannot be reached.
    #[error("the log of a room cannot be reached")]
    NoLog,
    /// A handler panicked.
    #[error("a handler panicked")]
    Panicked,
}

/// Left in a response's extensions, for the access log and the metrics.
#[derive(Clone)]
pub struct Failure {
    /// The metric's kind.
    pub kind: &'static str,
    /// What the log says, with all sources.
    pub log: String,
}

impl Error {
    /// The kind on a metric: the slug of the problem that the client sees.
    pub fn kind(&self) -> &'static str {
        self.problem_type().slug()
    }

    fn problem_type(&self) -> ProblemType {
        match self {
            Self::Host(_)
            | Self::TwoKeys
            | Self::BodyBroken(_)
            | Self::Invalid(_)
            | Self::NoUpgrade(sync::NoUpgrade::Key) => ProblemType::InvalidRequest,
            Self::NoUpgrade(_) => ProblemType::UpgradeRequired,
            Self::ForeignOrigin => ProblemType::OriginNotAllowed,
            Self::MissingKey => ProblemType::MissingApiKey,
            Self::InvalidKey => ProblemType::InvalidApiKey,
            Self::Suspended => ProblemType::TenantSuspended,
            Self::TooManyFailures(_) | Self::RateLimited(_) | Self::OperationsLimited { .. } => {
                ProblemType::RateLimited
            }
            Self::TooManySockets(_) => ProblemType::TooManySockets,
            Self::NoRoute | Self::NoSuchKey => ProblemType::NotFound,
            Self::MethodNotAllowed(_) => ProblemType::MethodNotAllowed,
            Self::BodyTooLarge(_) => ProblemType::PayloadTooLarge,
            Self::BodyTooSlow => ProblemType::RequestTimeout,
            Self::NotJson | Self::Encoding => ProblemType::UnsupportedMediaType,
            Self::NotLoaded
            | Self::DirectoryTooOld
            | Self::NoDecoder
            | Self::Unreachable(_)
            | Self::NotServed
            | Self::NoLog
            | Self::Database { .. }
            | Self::DatabaseTimeout(_) => ProblemType::Unavailable,
            Self::Lost(_) => ProblemType::BadGateway,
            Self::Timeout => ProblemType::GatewayTimeout,
            Self::KeyQuota { .. } => ProblemType::KeyQuotaReached,
            Self::KeyManaged => ProblemType::Conflict,
            Self::Unforwardable(_) | Self::Panicked => ProblemType::Internal,
        }
    }

    pub(crate) fn detail(&self) -> String {
        match self {
            Self::Host(fault) => format!("The Host header is {fault}. Send exactly one."),
            Self::TwoKeys => "X-API-Key and Authorization hold different keys. Send one of them.".to_owned(),
            Self::NoUpgrade(why) => format!("{why}."),
            Self::ForeignOrigin => {
                "Pages of this origin may not open a socket. Whoever runs this service can let them (--cors-origin).".to_owned()
            }
            Self::TooManySockets(full) => format!("{full}."),
            Self::NoLog => "The memory store cannot be reached just now; reconnect.".to_owned(),
            Self::MissingKey => "Send an API key in the header X-API-Key or as Authorization: Bearer.".to_owned(),
            Self::InvalidKey => {
                "The API key is malformed, unknown, revoked or expired. Use another one, or ask whoever runs this service."
                    .to_owned()
            }
            Self::TooManyFailures(_) => {
                "Too many requests without a valid API key came from this address. Wait as Retry-After says.".to_owned()
            }
            Self::Suspended => "The tenant is suspended; its memories are kept. Ask whoever runs this service.".to_owned(),
            Self::RateLimited(_) => {
                "The tier's requests a minute are used up. Wait as Retry-After says, or move to a larger tier.".to_owned()
            }
            Self::OperationsLimited { per_minute, .. } => format!(
                "The tenant's {per_minute} operations a minute in batches and imports are used up; {} KiB of them count as one at \
                 least. Wait as Retry-After says, or move to a larger tier.",
                limit::OPERATION_BYTES / 1024
            ),
            Self::DirectoryTooOld => {
                "This gateway has not heard of its database for too long to know which keys still count. Try again in some seconds."
                    .to_owned()
            }
            Self::NoRoute => "There is nothing at this path. The API starts with /api/v1/.".to_owned(),
            Self::MethodNotAllowed(allow) => format!("This path takes {allow}."),
            Self::BodyTooLarge(limit) => format!("The body may have at most {limit} bytes."),
            Self::BodyTooSlow => "The request's body did not arrive in time. Send it again.".to_owned(),
            Self::BodyBroken(_) => "The request's body is malformed or broke off.".to_owned(),
            Self::NotJson => "Send the body as JSON, with Content-Type: application/json.".to_owned(),
            Self::Encoding => {
                format!("The body may have one Content-Encoding: {}. Or send it as it is.", encoding::ACCEPTED)
            }
            Self::NoDecoder => {
                "Too many large bodies in br are being read just now. Try again in a second, or send gzip.".to_owned()
            }
            Self::Invalid(sentence) => sentence.clone(),
            Self::NotLoaded => "This gateway has just started. Try again in a second.".to_owned(),
            Self::Unreachable(_) => "The memory engine cannot be reached just now. Try again in a second.".to_owned(),
            Self::Lost(_) => {
                "The memory engine broke off. Whether the request took effect is not known; with an Idempotency-Key it can be repeated safely."
                    .to_owned()
            }
            Self::NotServed => "The tenant is being moved. Try again in a second.".to_owned(),
            Self::Timeout => "The memory engine did not answer in time. Try again.".to_owned(),
            Self::Database { .. } | Self::DatabaseTimeout(_) => {
                "API keys and usage cannot be reached just now; memories may still be. Try again in some seconds.".to_owned()
            }
            Self::KeyQuota { what, used, limit } => {
                let what = if what == "agents" { "agents" } else { "API keys" };
                format!("{used} of {limit} {what} are used. Revoke one, or move to a larger tier.")
            }
            Self::KeyManaged => {
                "The operator manages this key. It is replaced by deleting the Secret that holds it.".to_owned()
            }
            Self::NoSuchKey => "There is no such API key.".to_owned(),
            Self::Unforwardable(_) | Self::Panicked => {
                "The fault is ours. Report it with the X-Request-Id of this answer.".to_owned()
            }
        }
    }

    /// The answer, with its [`Failure`] in the extensions.
    pub fn into_response(self) -> Response<Body> {
        let problem = Problem::new(self.problem_type(), self.detail());
        let problem = match &self {
            Self::KeyQuota { what, used, limit } => {
                problem.with("what", what.as_str()).with("used", *used).with("limit", *limit)
            }
            Self::BodyTooLarge(limit) => problem.with("limit", *limit),
            _ => problem,
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match &self {
            Self::MissingKey => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"stellar-memory\""));
            }
            Self::InvalidKey => {
                let challenge = HeaderValue::from_static("Bearer realm=\"stellar-memory\", error=\"invalid_token\"");
                headers.insert(WWW_AUTHENTICATE, challenge);
            }
            Self::MethodNotAllowed(allow) => {
                if let Ok(allow) = HeaderValue::from_str(allow) {
                    headers.insert(ALLOW, allow);
                }
            }
            Self::RateLimited(wait) | Self::TooManyFailures(wait) | Self::OperationsLimited { wait, .. } => {
                headers.insert(RETRY_AFTER, HeaderValue::from(retry_after(*wait)));
            }
            Self::NoUpgrade(why) => {
                for (name, value) in why.headers() {
                    headers.insert(name, value);
                }
            }
            Self::Encoding => {
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(encoding::ACCEPTED));
            }
            Self::NotLoaded
            | Self::NoDecoder
            | Self::Unreachable(_)
            | Self::Lost(_)
            | Self::NotServed
            | Self::Timeout
            | Self::NoLog => {
                headers.insert(RETRY_AFTER, HeaderValue::from(1));
            }
            Self::Database { .. } | Self::DatabaseTimeout(_) | Self::DirectoryTooOld | Self::TooManySockets(_) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(5));
            }
            _ => {}
        }
        response.extensions_mut().insert(Failure { kind: self.kind(), log: chain(&self) });
        response
    }
}

/// An error and all its sources, as one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing into a String cannot fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_method_names_those_that_are_taken() {
        let response = Error::MethodNotAllowed("GET, HEAD".to_owned()).into_response();
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()[ALLOW], "GET, HEAD");
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
    }

    #[test]
    fn the_log_never_repeats_what_a_client_sent() {
        let error = Error::Invalid("invalid type: string \"sk-stellar-…\", expected i64".to_owned());
        assert!(error.detail().contains("sk-stellar"), "the client reads what is wrong");
        assert_eq!(chain(&error), "the request is not valid");
    }

    #[test]
    fn the_client_never_reads_what_postgres_said() {
        let error =
            Error::Database { what: "creating an API key", source: sqlx::Error::Protocol("secret text".to_owned()) };
        assert!(!error.detail().contains("secret"));
        assert!(chain(&error).contains("secret text"));
        assert_eq!(error.kind(), "unavailable");
    }
}
