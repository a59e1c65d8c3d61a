//! The description of the whole API, OpenAPI 3.1: the engine's operations and the gateway's own, and around each of them
//! what the gateway does to every request of its route.
//!
//! `docs/openapi.json` is this, written down; [`crate::router::ROUTES`] is what holds.

mod around;

use serde::Serialize;
use serde_json::Value;
use utoipa::{OpenApi, ToSchema};

use crate::{docs, keys, router};

/// That the program runs, and which.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    #[schema(example = "ok")]
    pub(crate) status: &'static str,
    /// The release.
    #[schema(example = "0.1.0")]
    pub(crate) version: &'static str,
}

/// One event of a stream
#[derive(Serialize, ToSchema)]
pub(crate) struct ServerSentEvent {
    /// The number of the change.
    #[schema(example = "42")]
    id: Option<String>,
    /// `change` or `resync`.
    #[schema(example = "change")]
    event: String,
    /// The frame, as JSON.
    data: String,
}

/// Tells changes as server-sent events, from `since` (or `Last-Event-ID`, or now) on
///
/// Each event `change` has its number as `id` and as `data` the frame `change` of `docs/sync.md`: `seq`, `op`, `id` of the
/// memory, `agent`, `at` and the memory itself. One event `resync` says that the log does not reach back that far: read
/// everything anew. A stream counts as one of the tenant's sockets.
#[utoipa::path(get, path = "/api/v1/events", tag = "changes", operation_id = "events", params(
    ("since" = Option<i64>, Query, minimum = 0, description = "The number of the last change that is known"),
    ("Last-Event-ID" = Option<i64>, Header, minimum = 0, description = "The same, as browsers send it when they reconnect"),
), responses(
    (status = 200, description = "Events, as long as the client listens: the schema is of each", body = ServerSentEvent, content_type = "text/event-stream",
        example = json!("id: 42\nevent: change\ndata: {\"type\":\"change\",\"seq\":42,\"op\":\"remove\",\"id\":\"0198a3c4-7b1e-7c11-8f00-2d6c2f1e9a01\",\"agent\":\"planner\",\"at\":\"2026-03-01T09:30:00Z\"}\n\n")),
), extensions(("x-problems" = json!(["too-many-sockets"]))))]
#[allow(dead_code)]
fn events() {}

/// Follows the tenant's changes and makes some, over a WebSocket
///
/// The first frame, within 5 seconds, holds the key: `{"api_key": "…", "since": 41}`. Then the tenant's changes come as
/// frames, in order and without a gap, and operations may be sent, each of which is acknowledged. All frames, limits and
/// close codes are in `docs/sync.md`. A browser's page must be of a configured origin.
#[utoipa::path(get, path = "/api/v1/sync", tag = "changes", operation_id = "sync", security(()), params(
    ("Connection" = String, Header, description = "`Upgrade`"),
    ("Upgrade" = String, Header, description = "`websocket`"),
    ("Sec-WebSocket-Version" = i64, Header, minimum = 13, maximum = 13, description = "13"),
    ("Sec-WebSocket-Key" = String, Header, description = "Drawn anew for each socket"),
), responses(
    (status = 101, description = "The socket is open", headers(
        ("Upgrade" = String, description = "`websocket`"),
        ("Sec-WebSocket-Accept" = String, description = "The proof that the key was read"),
    )),
), extensions(("x-problems" = json!(["origin-not-allowed", "upgrade-required"]))))]
#[allow(dead_code)]
fn sync() {}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "stellar-memory",
        description = "A memory service for AI agents: store what an agent should remember, recall what fits.\n\n\
            Send an API key as `X-API-Key` or as `Authorization: Bearer`. Whatever is refused is a problem (RFC 9457) with a \
            stable `type`. Every GET also answers HEAD. Answers are compressed as `Accept-Encoding` asks for; bodies may come \
            with `Content-Encoding` gzip, deflate or br, and their bounds count plain bytes.",
        license(name = "Apache-2.0"),
    ),
    servers((url = "/", description = "The gateway that this document comes from")),
    paths(
        router::health,
        docs::document,
        docs::page,
        docs::file,
        keys::usage::usage,
        keys::usage::agents,
        keys::list,
        keys::create,
        keys::rotate,
        keys::revoke,
        events,
        sync,
    ),
    tags(
        (name = "memories", description = "Storing, recalling, forgetting"),
        (name = "changes", description = "What was done, and by whom"),
        (name = "keys", description = "A tenant's use, agents and API keys"),
        (name = "service", description = "For everybody, without a key"),
    ),
)]
struct Description;

/// The whole description, from that of the engine.
///
/// # Panics
/// When an operation names a problem that there is not. A test writes the document, so no program meets this.
pub fn description(engine: utoipa::openapi::OpenApi) -> Value {
    around::complete(Description::openapi().merge_from(engine))
}
