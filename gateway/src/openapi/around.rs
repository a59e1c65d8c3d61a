//! What holds for every operation by its route: keys, rates, bounds, the problems that can be met, headers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use tenancy::{PROBLEM_JSON, Problem, ProblemType};

use http::Method;

use crate::router::{Answer, Handler, ROUTES, Repeat, Route};

const OWN_PROBLEMS: &str = "x-problems";
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// The document with all of that.
pub(super) fn complete(document: utoipa::openapi::OpenApi) -> Value {
    // The types of a document always serialise.
    let mut document = serde_json::to_value(document).unwrap_or_default();
    let mut problems = BTreeMap::new();
    for (path, item) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            if METHODS.contains(&method.as_str()) {
                let route = ROUTES
                    .iter()
                    .find(|route| route.template == path && route.method.as_str().eq_ignore_ascii_case(method));
                finish(operation, route, &mut problems);
            }
        }
    }
    let components = &mut document["components"];
    problems.insert("NotModified".to_owned(), not_modified());
    components["responses"] = Value::Object(problems.into_iter().collect());
    components["schemas"]["Problem"] = problem_schema();
    components["headers"] = headers();
    components["securitySchemes"] = json!({
        "ApiKey": { "type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key: `sk-stellar-…`" },
        "Bearer": { "type": "http", "scheme": "bearer", "description": "The same key as a bearer token" },
    });
    document["security"] = json!([{ "ApiKey": [] }, { "Bearer": [] }]);
    document
}

fn finish(operation: &mut Value, route: Option<&Route>, problems: &mut BTreeMap<String, Value>) {
    let own = operation.as_object_mut().and_then(|operation| operation.remove(OWN_PROBLEMS));
    let own = own.iter().flat_map(|own| own.as_array().into_iter().flatten()).filter_map(Value::as_str);
    let own = own.map(|slug| ProblemType::of_slug(slug).unwrap_or_else(|| panic!("there is no problem {slug}")));
    let with_key = route.is_some_and(|route| is_for_callers(route.handler));
    let common = common_headers(with_key);
    for response in operation["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        for name in &common {
            response["headers"][*name] = header(name);
        }
        if route.is_some_and(|route| route.repeat == Repeat::WithKey) {
            response["headers"]["Idempotency-Replayed"] = header("Idempotency-Replayed");
        }
    }
    if route.is_some_and(has_tag) {
        operation["responses"]["200"]["headers"]["ETag"] = header("ETag");
        operation["responses"]["304"] = json!({ "$ref": "#/components/responses/NotModified" });
    }
    let kinds: BTreeSet<(u16, &str)> =
        of_route(route).into_iter().chain(own).map(|kind| (kind.status(), kind.slug())).collect();
    let mut by_status: BTreeMap<u16, Vec<ProblemType>> = BTreeMap::new();
    for (status, slug) in kinds {
        by_status.entry(status).or_default().extend(ProblemType::of_slug(slug));
    }
    for (status, kinds) in by_status {
        let name = kinds.iter().map(|kind| kind.slug()).collect::<Vec<_>>().join(".");
        let name = if with_key { name } else { format!("{name}.open") };
        operation["responses"][status.to_string()] = json!({ "$ref": format!("#/components/responses/{name}") });
        problems.entry(name).or_insert_with(|| refusal(&kinds, with_key && status != 401));
    }
    if let Some(route) = route {
        if route.repeat == Repeat::WithKey {
            header_parameter(
                operation,
                "Idempotency-Key",
                "What was done under it is done once: a repetition within 24 hours gets the first answer",
                &json!({ "type": "string", "minLength": 1, "maxLength": 255 }),
            );
        }
        if has_tag(route) {
            header_parameter(
                operation,
                "If-None-Match",
                "The `ETag` of an earlier answer: 304 when it would be the same",
                &json!({ "type": "string" }),
            );
        }
        header_parameter(
            operation,
            "X-Request-Id",
            "An id of the client's own for logs and the answer; one is made up unless it is 1 to 128 visible ASCII characters",
            &json!({ "type": "string" }),
        );
        if route.body_limit > 0 && operation["requestBody"].is_object() {
            let limit = format!("At most {} bytes, counted plain.", route.body_limit);
            let said = operation["requestBody"]["description"].as_str().map(|said| format!("{said}. {limit}"));
            operation["requestBody"]["description"] = said.unwrap_or(limit).into();
        }
    }
}

/// A header that the client may leave out.
fn header_parameter(operation: &mut Value, name: &str, description: &str, schema: &Value) {
    let parameter =
        json!({ "name": name, "in": "header", "required": false, "description": description, "schema": schema });
    match operation["parameters"].as_array_mut() {
        Some(parameters) => parameters.push(parameter),
        None => operation["parameters"] = json!([parameter]),
    }
}

fn is_for_callers(handler: Handler) -> bool {
    !matches!(handler, Handler::Health | Handler::Document | Handler::Page | Handler::PageFile | Handler::Sync)
}

/// What is read of an engine as a whole can be asked for again by its tag.
fn has_tag(route: &Route) -> bool {
    route.handler == Handler::Engine && route.method == Method::GET && route.answer == Answer::Whole
}

fn not_modified() -> Value {
    let names = [vec!["ETag"], common_headers(true)].concat();
    json!({ "description": "The answer would be the one of If-None-Match", "headers": referring(names) })
}

/// The problems that every request of a route may meet.
fn of_route(route: Option<&Route>) -> Vec<ProblemType> {
    use ProblemType::{
        BadGateway, GatewayTimeout, Internal, InvalidApiKey, InvalidRequest, MissingApiKey, PayloadTooLarge,
        RateLimited, RequestTimeout, TenantSuspended, Unavailable, UnsupportedMediaType,
    };
    let mut kinds = vec![InvalidRequest];
    let Some(route) = route else { return kinds };
    if is_for_callers(route.handler) {
        kinds.extend([MissingApiKey, InvalidApiKey, TenantSuspended, RateLimited, Internal, Unavailable]);
    }
    if route.body_limit > 0 {
        kinds.extend([RequestTimeout, PayloadTooLarge, UnsupportedMediaType]);
    }
    if route.handler == Handler::Engine {
        kinds.extend([BadGateway, GatewayTimeout]);
    }
    kinds
}

/// One response for the problems of one status.
fn refusal(kinds: &[ProblemType], with_rate: bool) -> Value {
    let titles: Vec<&str> = kinds.iter().map(|kind| kind.title()).collect();
    let uris: Vec<String> = kinds.iter().map(|kind| kind.uri()).collect();
    let examples: Map<String, Value> = kinds
        .iter()
        .map(|kind| {
            let problem = members(*kind)
                .into_iter()
                .fold(Problem::new(*kind, detail(*kind)), |problem, (name, value)| problem.with(name, value));
            (kind.slug().to_owned(), json!({ "value": problem }))
        })
        .collect();
    let mut names = common_headers(with_rate);
    match kinds[0] {
        ProblemType::RateLimited | ProblemType::BadGateway | ProblemType::Unavailable | ProblemType::GatewayTimeout => {
            names.push("Retry-After");
        }
        ProblemType::InvalidApiKey | ProblemType::MissingApiKey => names.push("WWW-Authenticate"),
        ProblemType::UnsupportedMediaType => names.push("Accept-Encoding"),
        ProblemType::UpgradeRequired => names.push("Upgrade"),
        _ => {}
    }
    json!({
        "description": format!("{}.", titles.join(". Or: ")),
        "headers": referring(names),
        "content": { PROBLEM_JSON: {
            "schema": { "allOf": [
                { "$ref": "#/components/schemas/Problem" },
                { "type": "object", "properties": { "type": { "enum": uris } } },
            ] },
            "examples": examples,
        } },
    })
}

/// What a problem of a kind may say. The programs say it more exactly.
fn detail(kind: ProblemType) -> &'static str {
    match kind {
        ProblemType::InvalidRequest => "`limit` must be a number from 1 to 50",
        ProblemType::MissingApiKey => "Send an API key in the header X-API-Key or as Authorization: Bearer.",
        ProblemType::InvalidApiKey => "The API key is malformed, unknown, revoked or expired.",
        ProblemType::TenantSuspended => "The tenant is suspended; its memories are kept.",
        ProblemType::MemoryQuotaReached => "1000 of 1000 memories are used: forget some, or change to the tier pro",
        ProblemType::IndexLimitReached => {
            "the memories of this tenant need an index of more than 128 MiB, so they cannot be recalled here"
        }
        ProblemType::KeyQuotaReached => "5 of 5 API keys are used. Revoke one, or move to a larger tier.",
        ProblemType::OriginNotAllowed => "Pages of this origin may not open a socket.",
        ProblemType::NotFound => "There is no such thing.",
        ProblemType::MethodNotAllowed => "This path takes GET, HEAD.",
        ProblemType::RequestTimeout => "The request's body did not arrive in time. Send it again.",
        ProblemType::Conflict => {
            "this Idempotency-Key was used with another body: send a new key, or the first body again"
        }
        ProblemType::PayloadTooLarge => "The body may have at most 262144 bytes.",
        ProblemType::UnsupportedMediaType => "Send the body as JSON, with Content-Type: application/json.",
        ProblemType::UpgradeRequired => "Ask for it as a WebSocket.",
        ProblemType::NotServedHere => "this engine does not serve the tenant now",
        ProblemType::RateLimited => "The tier's requests a minute are used up. Wait as Retry-After says.",
        ProblemType::TooManySockets => {
            "the tenant has 5 sockets and event streams open here, as many as it may: close some, or take a larger tier."
        }
        ProblemType::Internal => "The fault is ours. Report it with the X-Request-Id of this answer.",
        ProblemType::BadGateway => "The memory engine broke off.",
        ProblemType::Unavailable => "The memory engine cannot be reached just now. Try again in a second.",
        ProblemType::GatewayTimeout => "The memory engine did not answer in time. Try again.",
    }
}

/// Its further members.
fn members(kind: ProblemType) -> Vec<(&'static str, Value)> {
    match kind {
        ProblemType::InvalidRequest => vec![("field", "limit".into())],
        ProblemType::MemoryQuotaReached => {
            vec![("used", 1000.into()), ("limit", 1000.into()), ("next_tier", "pro".into())]
        }
        ProblemType::KeyQuotaReached => vec![("what", "api_keys".into()), ("used", 5.into()), ("limit", 5.into())],
        ProblemType::PayloadTooLarge => vec![("limit", 262_144.into())],
        _ => vec![],
    }
}

fn problem_schema() -> Value {
    let types: Vec<String> =
        ProblemType::ALL.into_iter().filter(|kind| *kind != ProblemType::NotServedHere).map(ProblemType::uri).collect();
    json!({
        "type": "object",
        "description": "Why a request was refused (RFC 9457). Some kinds have further members.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": { "type": "string", "format": "uri", "enum": types, "description": "The kind; stable" },
            "title": { "type": "string", "description": "The kind in words" },
            "status": { "type": "integer", "description": "The HTTP status" },
            "detail": { "type": "string", "description": "What happened this time, and what to do about it" },
            "field": { "type": "string", "description": "The field or parameter that breaks a rule" },
            "what": { "type": "string", "enum": ["agents", "api_keys"], "description": "What is used up" },
            "used": { "type": "integer", "description": "How many there are" },
            "limit": { "type": "integer", "description": "How many there may be" },
            "next_tier": { "type": "string", "description": "The tier that would do" },
        },
        "additionalProperties": true,
    })
}

/// The headers of every answer; those of the rate where a key is asked for.
fn common_headers(with_rate: bool) -> Vec<&'static str> {
    let rate: &[_] = if with_rate { &["RateLimit", "RateLimit-Policy"] } else { &[] };
    [&["X-Request-Id"], rate].concat()
}

fn referring(names: Vec<&str>) -> Map<String, Value> {
    names.into_iter().map(|name| (name.to_owned(), header(name))).collect()
}

fn header(name: &str) -> Value {
    json!({ "$ref": format!("#/components/headers/{name}") })
}

fn headers() -> Value {
    let text =
        |what: &str, example: &str| json!({ "description": what, "schema": { "type": "string" }, "example": example });
    json!({
        "X-Request-Id": text("The request's id, also in the logs", "6f1d4b0e-8a52-4e0c-9d54-0b6a2f6f9f11"),
        "RateLimit": text("What is left of the rate, and seconds until there is more", "\"default\";r=299;t=1"),
        "RateLimit-Policy": text("The tier's requests a minute", "\"default\";q=300;w=60"),
        "ETag": text("Stands for this answer, whatever its compression", "W/\"5f3a\""),
        "Retry-After": text("Seconds to wait", "1"),
        "Upgrade": text("`websocket`", "websocket"),
        "WWW-Authenticate": text("How to authenticate", "Bearer realm=\"stellar-memory\""),
        "Accept-Encoding": text("The codings that a body may have", "gzip, deflate, br"),
        "Idempotency-Replayed": text("`true`: this is the first answer once more", "true"),
    })
}
