//! All routes on one page, and the way of a request: route, who, how often, where to.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE},
    request::Parts,
};
use login_pool::LoginPool;
use sync::{EventsRefused, Rooms, WebSocketUpgrade};
use time::OffsetDateTime;

use crate::{
    auth::{self, Caller},
    client_address::FailureLimits,
    config::Times,
    cors::Cors,
    directory::{Directory, Tenant},
    docs,
    error::Error,
    key_use::KeyUses,
    keys,
    limit::{self, Limiter, Verdict},
    metrics::Metrics,
    openapi::Health,
    presence::Presence,
    proxy::{Carried, Passing, Proxy},
    rooms::Engines,
    server::Held,
};

/// One method on one path.
pub struct Route {
    /// GET also answers HEAD.
    pub method: Method,
    /// The path, with `{id}` or another name in braces for one segment. Also the label on metrics and in the log.
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
    /// What a request counts as.
    pub weight: Weight,
}

/// Weight of a request in its tenant's rates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A request like any other.
    Request,
    /// As many operations as it carries.
    Operations,
}

/// Who answers a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handler {
    /// The tenant's engine.
    Engine,
    /// This program, for anybody.
    Health,
    /// As `Health`: the description of the API.
    Document,
    /// As `Health`: the page that shows it.
    Page,
    /// As `Health`: a file of that page.
    PageFile,
    /// This program, from directory and Postgres.
    Usage,
    /// As `Usage`.
    ListAgents,
    /// As `Usage`.
    ListKeys,
    /// As `Usage`.
    CreateKey,
    /// As `Usage`.
    RotateKey,
    /// As `Usage`.
    RevokeKey,
    /// This program: a room of the tenant, as a socket that authenticates by its first frame.
    Sync,
    /// This program: a room of the tenant, as server-sent events.
    Events,
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
    /// `import_timeout`
    Import,
    /// `request_timeout`
    Other,
    /// A minute, in which the engine waits for news, and some more.
    Follow,
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
    /// Comes at once, and as slowly as the client reads it, as long as its key counts.
    Download,
    /// Comes when there is news, over a connection that many share.
    Followed,
}

/// Longer than an engine lets anybody wait for news.
const FOLLOW: Duration = Duration::from_secs(70);
const JSON_BODY: usize = 256 * 1024;
const BATCH_BODY: usize = 4 * 1024 * 1024;
const IMPORT_BODY: usize = 64 * 1024 * 1024;
const KEY_BODY: usize = 16 * 1024;

const fn engine(method: Method, template: &'static str, time: RouteTime, body_limit: usize, repeat: Repeat) -> Route {
    let (handler, answer, weight) = (Handler::Engine, Answer::Whole, Weight::Request);
    Route { method, template, handler, time, body_limit, repeat, answer, weight }
}

const fn operations(template: &'static str, time: RouteTime, body_limit: usize, repeat: Repeat) -> Route {
    let (method, handler, answer, weight) = (Method::POST, Handler::Engine, Answer::Whole, Weight::Operations);
    Route { method, template, handler, time, body_limit, repeat, answer, weight }
}

const fn local(method: Method, template: &'static str, handler: Handler, body_limit: usize) -> Route {
    let (time, repeat, answer, weight) = (RouteTime::Other, Repeat::Always, Answer::Whole, Weight::Request);
    Route { method, template, handler, time, body_limit, repeat, answer, weight }
}

const fn download(template: &'static str) -> Route {
    let (method, time, body_limit, repeat) = (Method::GET, RouteTime::Other, 0, Repeat::Always);
    let (handler, answer, weight) = (Handler::Engine, Answer::Download, Weight::Request);
    Route { method, template, handler, time, body_limit, repeat, answer, weight }
}

use Repeat::{Always, WithKey};
use RouteTime::{Follow, Import, Narrate, Other, Recall, Store};

/// The API.
pub static ROUTES: [Route; 25] = [
    local(Method::GET, "/health", Handler::Health, 0),
    local(Method::GET, "/openapi.json", Handler::Document, 0),
    local(Method::GET, "/docs", Handler::Page, 0),
    local(Method::GET, "/docs/{file}", Handler::PageFile, 0),
    engine(Method::POST, "/api/v1/store", Store, JSON_BODY, WithKey),
    operations("/api/v1/batch", Store, BATCH_BODY, WithKey),
    engine(Method::GET, "/api/v1/recall", Recall, 0, Always),
    // Forgetting twice forgets once. The key lets an engine answer a repeated one as it did the first.
    engine(Method::DELETE, "/api/v1/forget/{id}", Other, 0, WithKey),
    engine(Method::GET, "/api/v1/memories", Other, 0, Always),
    engine(Method::GET, "/api/v1/memories/{id}", Other, 0, Always),
    // Written twice it would win over what was written in between.
    engine(Method::PATCH, "/api/v1/memories/{id}", Store, JSON_BODY, WithKey),
    engine(Method::GET, "/api/v1/timeline", Other, 0, Always),
    // It tells of memories and writes none.
    engine(Method::POST, "/api/v1/narrate", Narrate, JSON_BODY, Always),
    engine(Method::GET, "/api/v1/stats", Other, 0, Always),
    engine(Method::GET, "/api/v1/audit", Other, 0, Always),
    download("/api/v1/export"),
    // What is there already is not imported again.
    operations("/api/v1/import", Import, IMPORT_BODY, Always),
    local(Method::GET, "/api/v1/events", Handler::Events, 0),
    local(Method::GET, "/api/v1/sync", Handler::Sync, 0),
    local(Method::GET, "/api/v1/auth/usage", Handler::Usage, 0),
    local(Method::GET, "/api/v1/auth/agents", Handler::ListAgents, 0),
    local(Method::GET, "/api/v1/auth/api-keys", Handler::ListKeys, 0),
    local(Method::POST, "/api/v1/auth/api-keys", Handler::CreateKey, KEY_BODY),
    local(Method::POST, "/api/v1/auth/api-keys/{id}/rotate", Handler::RotateKey, KEY_BODY),
    local(Method::DELETE, "/api/v1/auth/api-keys/{id}", Handler::RevokeKey, 0),
];

impl RouteTime {
    /// The time, from a request's head to the head of its answer.
    pub fn of(self, times: &Times) -> Duration {
        match self {
            Store => times.store_timeout,
            Recall => times.recall_timeout,
            Narrate => times.narrate_timeout,
            Import => times.import_timeout,
            Other => times.request_timeout,
            Follow => FOLLOW,
        }
    }
}

/// The route of a method and path.
///
/// # Errors
/// [`Error::NoRoute`]; [`Error::MethodNotAllowed`] if the path takes others.
pub fn find(method: &Method, path: &str) -> Result<&'static Route, Error> {
    let wanted = if method == Method::HEAD { &Method::GET } else { method };
    match at(path).find(|route| route.method == wanted) {
        Some(route) => Ok(route),
        None => Err(allowed(path).map_or(Error::NoRoute, Error::MethodNotAllowed)),
    }
}

/// The routes of a path: one for each method.
pub(crate) fn at(path: &str) -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(move |route| matches(route.template, path))
}

/// The methods that a path takes, as a header lists them. `None`: there is no such path.
pub(crate) fn allowed(path: &str) -> Option<String> {
    let mut methods: Vec<&str> = Vec::new();
    for route in at(path) {
        methods.push(route.method.as_str());
        if route.method == Method::GET {
            methods.push("HEAD");
        }
    }
    (!methods.is_empty()).then(|| methods.join(", "))
}

fn matches(template: &str, path: &str) -> bool {
    let mut wanted = template.split('/');
    let mut given = path.split('/');
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(word), Some(segment)) if word.starts_with('{') && !segment.is_empty() => {}
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
    pub proxy: Arc<Proxy>,
    /// The rooms of those who follow their tenant's log.
    pub rooms: Rooms<Engines>,
    /// Postgres, for the routes under /auth.
    pub pool: LoginPool,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// With how many gateways the rates are shared.
    pub presence: Arc<Presence>,
    /// Which keys were used.
    pub key_uses: Arc<KeyUses>,
    /// Which web pages may ask.
    pub cors: Cors,
    /// Who fails to authenticate too often.
    pub failures: Arc<FailureLimits>,
    /// The start, from which limiters count.
    pub started: Instant,
    /// Operations of batches and imports for each request of a tenant's rate.
    pub operations_per_request: u32,
    /// How long things may take.
    pub times: Times,
}

/// Charges for what a request carried in the place of what it announced, when it ends.
struct Settlement<'a> {
    rate: &'a Limiter,
    started: Instant,
    share: u32,
    announced: u64,
    carried: Arc<Carried>,
}

impl Drop for Settlement<'_> {
    fn drop(&mut self) {
        let carried = limit::weight(self.carried.operations(), self.carried.bytes());
        match carried.checked_sub(self.announced) {
            Some(more) => self.rate.charge(self.started.elapsed(), self.share, more),
            None => self.rate.give_back(self.share, self.announced - carried),
        }
    }
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
    /// Answers a request of `client` (see `client_address`). `route`: what [`find`] says of it.
    pub async fn answer(
        &self,
        route: Result<&'static Route, Error>,
        request: Request<Body>,
        client: IpAddr,
        request_id: &HeaderValue,
        trace: &mut Trace,
    ) -> Response<Body> {
        let route = match route {
            Ok(route) => route,
            Err(error) => return error.into_response(),
        };
        trace.route = Some(route);
        if let Some(response) = open(route.handler, &request) {
            return response;
        }
        if route.handler == Handler::Sync {
            return self.open_socket(request, client).unwrap_or_else(Error::into_response);
        }
        let caller = match self.caller(request.headers(), client).await {
            Ok(caller) => caller,
            Err(error) => return error.into_response(),
        };
        trace.caller = Some(caller.clone());

        let per_minute = caller.tenant.requests_per_minute;
        let share = limit::share(per_minute, self.presence.live());
        let verdict = caller.tenant.rates.requests.decide(self.started.elapsed(), share);
        let tenant = caller.tenant.clone();
        let mut response = match self.serve(caller, route, verdict, request, request_id).await {
            Ok(response) => response,
            Err(error) => error.into_response(),
        };
        limit::add_headers(response.headers_mut(), per_minute, &verdict);
        if route.weight == Weight::Operations {
            let (per_minute, share) = self.operations_per_minute(&tenant);
            let left = tenant.rates.operations.admit(self.started.elapsed(), share);
            limit::add_operations_headers(response.headers_mut(), per_minute, &left);
        }
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
            Handler::Engine if route.weight == Weight::Operations => {
                self.weighed(Passing { caller, route, parts, body, request_id, carried: None }).await
            }
            Handler::Engine => self.proxy.pass(Passing { caller, route, parts, body, request_id, carried: None }).await,
            Handler::Usage => keys::usage(self, &caller).await,
            Handler::ListAgents => keys::agents(self, &caller, parts.uri.query()).await,
            Handler::ListKeys => keys::list(self, &caller, parts.uri.query()).await,
            Handler::CreateKey => keys::create(self, &caller, &parts.headers, body).await,
            Handler::RotateKey => keys::rotate(self, &caller, parts.uri.path(), &parts.headers, body).await,
            Handler::RevokeKey => keys::revoke(self, &caller, parts.uri.path()).await,
            Handler::Events => self.open_stream(caller, &parts).await,
            // Answered before anybody was asked who they are.
            Handler::Health | Handler::Document | Handler::Page | Handler::PageFile | Handler::Sync => {
                Err(Error::NoRoute)
            }
        }
    }

    /// Passes a request on that carries many operations, and counts as many. The bytes that it announces count before; what it
    /// turned out to carry counts in their place afterwards, however it ends.
    async fn weighed(&self, passing: Passing<'_>) -> Result<Response<Body>, Error> {
        let tenant = passing.caller.tenant.clone();
        let (rate, (per_minute, share)) = (&tenant.rates.operations, self.operations_per_minute(&tenant));
        let verdict = rate.admit(self.started.elapsed(), share);
        if !verdict.allowed {
            self.metrics.rate_limited(self.metrics.tier(&tenant.tier));
            return Err(Error::OperationsLimited { per_minute, wait: verdict.reset });
        }
        let bytes = number(&passing.parts.headers, &CONTENT_LENGTH);
        if bytes > passing.route.body_limit as u64 {
            return Err(Error::BodyTooLarge(passing.route.body_limit));
        }
        let announced = limit::weight(0, bytes);
        rate.charge(self.started.elapsed(), share, announced);
        let carried = Arc::new(Carried::default());
        let _settled = Settlement { rate, started: self.started, share, announced, carried: carried.clone() };
        self.proxy.pass(Passing { carried: Some(carried), ..passing }).await
    }

    /// The tenant's operations a minute, over all gateways and at this one.
    fn operations_per_minute(&self, tenant: &Tenant) -> (u32, u32) {
        let per_minute = tenant.requests_per_minute.saturating_mul(self.operations_per_request);
        (per_minute, limit::share(per_minute, self.presence.live()))
    }

    async fn caller(&self, headers: &HeaderMap, client: IpAddr) -> Result<Caller, Error> {
        let shown = auth::sent_key(headers);
        auth::caller(shown, client, &self.directory, &self.failures, self.started.elapsed()).await
    }

    fn open_socket(&self, mut request: Request<Body>, client: IpAddr) -> Result<Response<Body>, Error> {
        if !self.cors.admits_upgrade(request.headers()) {
            return Err(Error::ForeignOrigin);
        }
        let upgrade = WebSocketUpgrade::of(&mut request).map_err(Error::NoUpgrade)?;
        let response = upgrade.response();
        // The socket counts among the connections of its client for as long as it lives.
        self.rooms.serve(upgrade, client, request.extensions_mut().remove::<Held>());
        Ok(response)
    }

    async fn open_stream(&self, caller: Caller, parts: &Parts) -> Result<Response<Body>, Error> {
        let resumed = sync::resumed_from(&parts.headers).map_err(|said| Error::Invalid(said.to_owned()))?;
        let since = since(parts.uri.query())?;
        let tenant = caller.tenant.id;
        self.rooms.events(tenant, caller, resumed.or(since)).await.map_err(|refused| match refused {
            EventsRefused::NoLog => Error::NoLog,
            EventsRefused::Full(full) => Error::TooManySockets(full),
        })
    }
}

/// The number that a header has, 0 without.
pub(crate) fn number(headers: &HeaderMap, name: &HeaderName) -> u64 {
    headers.get(name).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// The one parameter of an event stream.
fn since(query: Option<&str>) -> Result<Option<i64>, Error> {
    let mut since = None;
    for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if name != "since" || since.is_some() {
            return Err(Error::Invalid("only `since` may be given here, once".to_owned()));
        }
        let number = value.parse::<i64>().ok().filter(|number| *number >= 0);
        since = Some(number.ok_or_else(|| Error::Invalid("`since` must be the number of a change".to_owned()))?);
    }
    Ok(since)
}

/// The answer of a route that asks for no key.
fn open(handler: Handler, request: &Request<Body>) -> Option<Response<Body>> {
    match handler {
        Handler::Health => Some(health()),
        Handler::Document => Some(docs::document(request.headers())),
        Handler::Page => Some(docs::page()),
        Handler::PageFile => Some(docs::file(request.uri().path(), request.headers())),
        _ => None,
    }
}

/// That the program runs, and which.
#[utoipa::path(get, path = "/health", tag = "service", operation_id = "health", security(()), responses(
    (status = 200, description = "It runs", body = Health),
))]
pub(crate) fn health() -> Response<Body> {
    json(http::StatusCode::OK, &Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// A JSON answer.
pub(crate) fn json(status: http::StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    // The values are structs and maps with string keys, which always serialise.
    let mut response = Response::new(Body::from(serde_json::to_vec(value).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // For whoever asked alone: a cache that knows no X-API-Key would give it to others.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
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
            let path =
                route.template.replace("{id}", "6f1d4b0e-8a52-4e0c-9d54-0b6a2f6f9f11").replace("{file}", "start.js");
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
        for path in [
            "/",
            "",
            "/api/v1",
            "/api/v1/recall/",
            "/api/v1/forget/",
            "/api/v1/forget/a/b",
            "//health",
            "/api/v1/sync/",
        ] {
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
        assert_eq!(allowed(Method::DELETE, "/api/v1/memories/x"), "GET, HEAD, PATCH");
    }

    #[test]
    fn head_is_answered_where_get_is() {
        assert!(find(&Method::HEAD, "/api/v1/recall").is_ok());
    }
}
