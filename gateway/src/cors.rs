//! Which web pages may use the API from a browser: those of the configured origins.
//!
//! CORS (the Fetch standard) keeps a page from reading what another site answers. Nothing of it authenticates: the key
//! does, and there are no cookies, so `Access-Control-Allow-Credentials` is never sent.

use std::{fmt, str::FromStr};

use axum::body::Body;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
};
use url::Url;

/// What a page may send beyond what every page may.
const REQUEST_HEADERS: &str = "X-API-Key, Authorization, Content-Type, Content-Encoding, Idempotency-Key, If-None-Match, \
     Last-Event-ID, X-Request-Id, traceparent";
/// What a page may read beyond what every page may.
const RESPONSE_HEADERS: &str = "RateLimit, RateLimit-Policy, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, \
     Retry-After, ETag, Location, X-Request-Id, Idempotency-Replayed";
/// Seconds that a browser remembers a preflight; the longest that any of them does.
const MAX_AGE: &str = "7200";

/// One configured origin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AllowedOrigin {
    /// Every page there is.
    Any,
    /// The pages of one site, as its browser names it: `https://app.example.org`.
    Exactly(String),
}

/// The text is no origin.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "an origin is `*`, or as https://app.example.org or http://localhost:3000: a scheme, a host and perhaps a port"
)]
pub struct OriginError;

impl FromStr for AllowedOrigin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Ok(Self::Any);
        }
        // What a browser would send: lower case, no default port, no path. Anything else would never match.
        let origin = Url::parse(text).map_err(|_| OriginError)?.origin();
        // A pattern would be taken for a host.
        if !text.contains('*') && origin.is_tuple() && origin.ascii_serialization() == text {
            Ok(Self::Exactly(text.to_owned()))
        } else {
            Err(OriginError)
        }
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exactly(origin) => f.write_str(origin),
        }
    }
}

/// The configured origins; none by default.
#[derive(Clone, Default)]
pub struct Cors {
    origins: Vec<AllowedOrigin>,
}

impl Cors {
    /// Lets the pages of these origins in.
    pub fn new(origins: Vec<AllowedOrigin>) -> Self {
        Self { origins }
    }

    /// Whether a WebSocket upgrade may go on. Browsers do not apply CORS to WebSockets: they tell the page's origin and
    /// leave the decision to the server.
    ///
    /// Without `Origin` it is no browser that asks, and passes. A browser's origin must be among the configured ones,
    /// and with none configured no page passes, as none can use REST then. A key in the first frame already keeps a
    /// foreign page from acting for its visitor: no browser sends that by itself, as it would a cookie. What the check adds
    /// is that a page cannot make its visitors' browsers try keys, from their addresses and inside of their networks, or
    /// hold sockets open; and that where no key is asked for, no page is let in unless somebody configured it.
    pub fn admits_upgrade(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => true,
            (Some(origin), None) => self.allowed(origin).is_some(),
            (Some(_), Some(_)) => false,
        }
    }

    /// The answer to a preflight, if this is one: before any key, and at no cost of the rate. `methods`: those that the
    /// path takes.
    pub(crate) fn preflight<B>(&self, request: &Request<B>, methods: &str) -> Option<Response<Body>> {
        let headers = request.headers();
        let asks = request.method() == Method::OPTIONS
            && headers.contains_key(ORIGIN)
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !asks || self.origins.is_empty() {
            return None;
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        if headers.get(ORIGIN).is_some_and(|origin| self.allowed(origin).is_some()) {
            let fields = response.headers_mut();
            if let Ok(methods) = HeaderValue::from_str(methods) {
                fields.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
            }
            fields.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS));
            fields.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
        }
        Some(response)
    }

    /// Lets the page that asked (`origin`) read an answer, if it may.
    pub(crate) fn open(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if self.origins.is_empty() {
            return;
        }
        if !self.origins.contains(&AllowedOrigin::Any) {
            // Also where there was no Origin: a cache must not give that answer to a page.
            headers.append(VARY, HeaderValue::from(ORIGIN));
        }
        if let Some(allowed) = origin.and_then(|origin| self.allowed(origin)) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE_HEADERS));
        }
    }

    /// What an allowed origin is told.
    fn allowed(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        if self.origins.contains(&AllowedOrigin::Any) {
            return Some(HeaderValue::from_static("*"));
        }
        let known = |known: &AllowedOrigin| matches!(known, AllowedOrigin::Exactly(text) if text.as_bytes() == origin);
        self.origins.iter().any(known).then(|| origin.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: &str = "https://app.example.org";

    fn cors(origins: &[&str]) -> Cors {
        Cors::new(origins.iter().map(|origin| origin.parse().expect("an origin")).collect())
    }

    fn from(origins: &[&'static str]) -> HeaderMap {
        origins.iter().map(|origin| (ORIGIN, HeaderValue::from_static(origin))).collect()
    }

    #[test]
    fn an_origin_is_written_as_browsers_send_it() {
        for text in [
            "*",
            APP,
            "http://localhost:3000",
            "http://127.0.0.1",
            "http://[::1]:8080",
            "https://xn--bcher-kva.example",
        ] {
            assert_eq!(text.parse::<AllowedOrigin>().map(|origin| origin.to_string()), Ok(text.to_owned()));
        }
        for text in [
            "",
            "null",
            "app.example.org",
            "https://app.example.org/",
            "https://App.example.org",
            "https://app.example.org:443",
            "https://*.example.org",
            "file:///tmp",
            "https://user@app.example.org",
        ] {
            assert!(text.parse::<AllowedOrigin>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_configured_pages_read_answers() {
        let told = |cors: &Cors, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            cors.open(origin.map(HeaderValue::from_static).as_ref(), &mut headers);
            let text = |name| headers.get(name).map(|value| value.to_str().expect("text").to_owned());
            assert!(!headers.contains_key("access-control-allow-credentials"));
            (text(ACCESS_CONTROL_ALLOW_ORIGIN), text(VARY))
        };
        let vary = Some("origin".to_owned());
        assert_eq!(told(&cors(&[]), Some(APP)), (None, None));
        assert_eq!(told(&cors(&[APP]), Some(APP)), (Some(APP.to_owned()), vary.clone()));
        for other in [None, Some("https://evil.example"), Some("null"), Some("https://app.example.org.evil.example")] {
            assert_eq!(told(&cors(&[APP]), other), (None, vary.clone()), "{other:?}");
        }
        assert_eq!(told(&cors(&["*"]), Some("https://any.example")), (Some("*".to_owned()), None));
    }

    #[test]
    fn an_upgrade_passes_without_an_origin_and_with_a_configured_one() {
        for (configured, sent, passes) in [
            (&[][..], &[][..], true),
            (&[], &[APP], false),
            (&[APP], &[], true),
            (&[APP], &[APP], true),
            (&[APP], &["null"], false),
            (&[APP], &["https://evil.example"], false),
            (&[APP], &[APP, "https://evil.example"], false),
            (&["*"], &["https://evil.example"], true),
        ] {
            assert_eq!(cors(configured).admits_upgrade(&from(sent)), passes, "{configured:?} {sent:?}");
        }
    }
}
