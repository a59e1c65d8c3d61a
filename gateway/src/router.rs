//! All routes on one page, and the way of a request: route, who, how often, where to.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header::CONTENT_TYPE};
use sqlx::PgPool;
use time::OffsetDateTime;

use crate::{
    auth::{self, Caller},
    client_address::FailureLimits,
    config::Times,
    directory::Directory,
    error::Error,
    key_use::KeyUses,
    keys,
    limit::{self, Verdict},
    metrics::Metrics,
    presence::Presence,
    proxy::{Passing, Proxy},
};

/// One method on one path.
pub struct Route {
    /// GET also answers HEAD.
    pub method: Method,
    /// The path, with `{id}` for one segment. Also the label on metrics and in the log.
    pub template: &'static str,
    /// Who answers.
    pub handler: Handler,
    /// Which timeout counts.
    pub time: RouteTime,
    /// Most bytes of a body. 0: a body means nothing here and is not passed on.
    pub body_limit: usize,
    /// Whether it may be sent again after it was sent.
    pub repeat: Repeat,
    /// What the answer is like.
    pub answer: Answer,
}

/// Who answers a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handler {
    /// The tenant's engine.
    Engine,
    /// This program, for anybody.
    Health,
    /// This program, from directory and Postgres.
    Usage,
    /// As `Usage`.
    ListKeys,
    /// As `Usage`.
    CreateKey,
    /// As `Usage`.
    RevokeKey,
}

/// Which of the configured times a route has.
#[derive(Clone, Copy)]
pub enum RouteTime {
    /// `store_timeout`
    Store,
    /// `recall_timeout`
    Recall,
    /// `narrate_timeout`
    Narrate,
    /// `request_timeout`
    Other,
}

/// Whether a request may be sent again after it was sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It reads, or its effect is the same twice (RFC 9110 §9.2.2).
    Always,
    /// With an Idempotency-Key, which the gateway adds if there is none.
    WithKey,
}

/// What an answer is like.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Comes at once.
    Whole,
    /// Comes as long as the client listens.
    Events,
}

const JSON_BODY: usize = 256 * 1024;
const KEY_BODY: usize = 16 * 1024;

const fn engine(method: Method, template: &'static str, time: RouteTime, body_limit: usize, repeat: Repeat) -> Route {
    Route { method, template, handler: Handler::Engine, time, body_limit, repeat, answer: Answer::Whole }
}

const fn local(method: Method, template: &'static str, handler: Handler, body_limit: usize) -> Route {
    let (time, repeat, answer) = (RouteTime::Other, Repeat::Always, Answer::Whole);
    Route { method, template, handler, time, body_limit, repeat, answer }
}

const fn events(template: &'static str) -> Route {
    let (method, time, body_limit, repeat) = (Method::GET, RouteTime::Other, 0, Repeat::Always);
    Route { method, template, handler: Handler::Engine, time, body_limit, repeat, answer: Answer::Events }
}

use Repeat::{Always, WithKey};
use RouteTime::{Narrate, Other, Recall, Store};

/// The API.
pub static ROUTES: [Route; 13] = [
    local(Method::GET, "/health", Handler::Health, 0),
    engine(Method::POST, "/api/v1/store", Store, JSON_BODY, WithKey),
    engine(Method::GET, "/api/v1/recall", Recall, 0, Always),
    // Forgetting twice forgets once. The key lets an engine answer a repeated one as it did the first.
    engine(Method::DELETE, "/api/v1/forget/{id}", Other, 0, WithKey),
    engine(Method::GET, "/api/v1/memories", Other, 0, Always),
    engine(Method::GET, "/api/v1/timeline", Other, 0, Always),
    // It tells of memories and writes none.
    engine(Method::POST, "/api/v1/narrate", Narrate, JSON_BODY, Always),
    engine(Method::GET, "/api/v1/stats", Other, 0, Always),
    events("/api/v1/events"),
    local(Method::GET, "/api/v1/auth/usage", Handler::Usage, 0),
    local(Method::GET, "/api/v1/auth/api-keys", Handler::ListKeys, 0),
    local(Method::POST, "/api/v1/auth/api-keys", Handler::CreateKey, KEY_BODY),
    local(Method::DELETE, "/api/v1/auth/api-keys/{id}", Handler::RevokeKey, 0),
];

impl RouteTime {
    /// The time, from a request's head to the head of its answer.
    pub fn of(self, times: &Times) -> Duration {
        match self {
            Store => times.store_timeout,
            Recall => times.recall_timeout,
            Narrate => times.narrate_timeout,
            Other => times.request_timeout,
        }
    }
}

/// The route of a method and path.
///
/// # Errors
/// [`Error::NoRoute`]; [`Error::MethodNotAllowed`] if the path takes others.
pub fn find(method: &Method, path: &str) -> Result<&'static Route, Error> {
    let wanted = if method == Method::HEAD { &Method::GET } else { method };
    let mut allowed: Vec<&str> = Vec::new();
    for route in ROUTES.iter().filter(|route| matches(route.template, path)) {
        if route.method == wanted {
            return Ok(route);
        }
        allowed.push(route.method.as_str());
        if route.method == Method::GET {
            allowed.push("HEAD");
        }
    }
    if allowed.is_empty() { Err(Error::NoRoute) } else { Err(Error::MethodNotAllowed(allowed.join(", "))) }
}

fn matches(template: &str, path: &str) -> bool {
    let mut wanted = template.split('/');
    let mut given = path.split('/');
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some("{id}"), Some(segment)) if !segment.is_empty() => {}
            (Some(word), Some(segment)) if word == segment => {}
            _ => return false,
        }
    }
}

/// What all requests share.
pub struct Gateway {
    /// Who is who.
    pub directory: Arc<Directory>,
    /// The way to the engines.
    pub proxy: Proxy,
    /// Postgres, for the routes under /auth.
    pub pool: PgPool,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// With how many gateways the rates are shared.
    pub presence: Arc<Presence>,
    /// Which keys were used.
    pub key_uses: Arc<KeyUses>,
    /// Who fails to authenticate too often.
    pub failures: FailureLimits,
    /// The start, from which limiters count.
    pub started: Instant,
    /// How long things may take.
    pub times: Times,
}

/// What the log and the metrics learn about a request on its way.
#[derive(Default)]
pub struct Trace {
    /// The route, once it is known.
    pub route: Option<&'static Route>,
    /// The caller, once it is known.
    pub caller: Option<Caller>,
}

impl Gateway {
    /// Answers a request of `client` (see `client_address`).
    pub async fn answer(
        &self,
        request: Request<Body>,
        client: IpAddr,
        request_id: &HeaderValue,
        trace: &mut Trace,
    ) -> Response<Body> {
        let route = match find(request.method(), request.uri().path()) {
            Ok(route) => route,
            Err(error) => return error.into_response(),
        };
        trace.route = Some(route);
        if route.handler == Handler::Health {
            return health();
        }
        let caller = match self.caller(request.headers(), client).await {
            Ok(caller) => caller,
            Err(error) => return error.into_response(),
        };
        trace.caller = Some(caller.clone());

        let per_minute = caller.tenant.requests_per_minute;
        let share = limit::share(per_minute, self.presence.live());
        let verdict = caller.tenant.limiter.decide(self.started.elapsed(), share);
        let mut response = match self.serve(caller, route, verdict, request, request_id).await {
            Ok(response) => response,
            Err(error) => error.into_response(),
        };
        limit::add_headers(response.headers_mut(), per_minute, &verdict);
        response
    }

    async fn serve(
        &self,
        caller: Caller,
        route: &'static Route,
        verdict: Verdict,
        request: Request<Body>,
        request_id: &HeaderValue,
    ) -> Result<Response<Body>, Error> {
        if !verdict.allowed {
            self.metrics.rate_limited(self.metrics.tier(&caller.tenant.tier));
            return Err(Error::RateLimited(verdict.reset));
        }
        if !self.key_uses.note(&caller, OffsetDateTime::now_utc()) {
            self.metrics.key_uses_dropped.inc();
        }
        if caller.tenant.suspended {
            return Err(Error::Suspended);
        }
        let (parts, body) = request.into_parts();
        match route.handler {
            Handler::Engine => self.proxy.pass(Passing { caller, route, parts, body, request_id }).await,
            Handler::Usage => keys::usage(self, &caller).await,
            Handler::ListKeys => keys::list(self, &caller, parts.uri.query()).await,
            Handler::CreateKey => keys::create(self, &caller, &parts.headers, body).await,
            Handler::RevokeKey => keys::revoke(self, &caller, parts.uri.path()).await,
            Handler::Health => Ok(health()),
        }
    }

    async fn caller(&self, headers: &HeaderMap, client: IpAddr) -> Result<Caller, Error> {
        let now = OffsetDateTime::now_utc();
        let error = match auth::authenticate(headers, &self.directory, now) {
            Ok(caller) => return Ok(caller),
            Err(error) => self.refuse(error, client),
        };
        if matches!(error, Error::InvalidKey) && auth::search(headers, &self.directory).await {
            return auth::authenticate(headers, &self.directory, now);
        }
        Err(error)
    }

    /// A failed authentication, or the notice that there were too many.
    fn refuse(&self, error: Error, client: IpAddr) -> Error {
        if !matches!(error, Error::InvalidKey | Error::MissingKey | Error::TwoKeys) {
            return error;
        }
        let verdict = self.failures.failed(client, self.started.elapsed());
        if verdict.allowed { error } else { Error::TooManyFailures(verdict.reset) }
    }
}

/// That the program runs, and which.
fn health() -> Response<Body> {
    json(http::StatusCode::OK, &serde_json::json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}

/// A JSON answer.
pub(crate) fn json(status: http::StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    // The values are structs and maps with string keys, which always serialise.
    let mut response = Response::new(Body::from(serde_json::to_vec(value).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Whether a Content-Type is JSON, parameters aside.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_finds_itself() {
        for route in &ROUTES {
            let path = route.template.replace("{id}", "6f1d4b0e-8a52-4e0c-9d54-0b6a2f6f9f11");
            let found = find(&route.method, &path).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(std::ptr::eq(found, route), "{path}");
        }
    }

    #[test]
    fn no_method_and_path_is_taken_twice() {
        for (i, a) in ROUTES.iter().enumerate() {
            assert!(
                ROUTES[i + 1..].iter().all(|b| (&a.method, a.template) != (&b.method, b.template)),
                "{}",
                a.template
            );
        }
    }

    #[test]
    fn unknown_paths_are_not_found() {
        for path in
            ["/", "", "/api/v1", "/api/v1/recall/", "/api/v1/forget/", "/api/v1/forget/a/b", "//health", "/api/v1/sync"]
        {
            assert!(matches!(find(&Method::GET, path), Err(Error::NoRoute)), "{path}");
        }
    }

    #[test]
    fn a_wrong_method_is_told_the_right_ones() {
        let allowed = |method, path| match find(&method, path) {
            Err(Error::MethodNotAllowed(allowed)) => allowed,
            _ => panic!("{method} {path} is not refused by its method"),
        };
        assert_eq!(allowed(Method::GET, "/api/v1/store"), "POST");
        assert_eq!(allowed(Method::PATCH, "/api/v1/auth/api-keys"), "GET, HEAD, POST");
        assert_eq!(allowed(Method::HEAD, "/api/v1/forget/x"), "DELETE");
    }

    #[test]
    fn head_is_answered_where_get_is() {
        assert!(find(&Method::HEAD, "/api/v1/recall").is_ok());
    }
}
