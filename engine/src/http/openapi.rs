//! The engine's part of the API's description. The gateway adds what it does to every request: keys, rates, bounds.
//!
//! An operation names in `x-problems` the problems that are its own.

use utoipa::{
    OpenApi, ToSchema,
    openapi::{Ref, RefOr, Schema},
};

use uuid::Uuid;

use super::{audit, batch, export, forget, import, memories, memory, narrate, recall, stats, store, timeline};
use crate::store::Reason;

#[derive(OpenApi)]
#[openapi(paths(
    store::store,
    recall::recall,
    forget::forget,
    batch::batch,
    memories::memories,
    memory::memory,
    memory::update,
    timeline::timeline,
    narrate::narrate,
    stats::stats,
    audit::audit,
    export::export,
    import::import,
))]
struct Description;

/// A problem within an answer. The gateway's part describes it.
pub(super) fn problem() -> RefOr<Schema> {
    Ref::from_schema_name("Problem").into()
}

/// Every operation of [`super::router`] that the gateway passes on, and its types.
pub fn description() -> utoipa::openapi::OpenApi {
    Description::openapi()
}

/// What an operation looks like, whichever it is. Only described: each is read by itself, as what it is.
#[derive(ToSchema)]
#[schema(as = BatchOperation, description = "`store` takes the members of a new memory; `update` needs `id` and takes `content`, \
    `importance`, `metadata`; `remove` needs `id`. All take `at`.", example = json!({
        "op": "store", "op_id": "c1-1", "content": "Ada prefers night flights to Lisbon", "importance": 0.8
}))]
#[allow(dead_code)]
pub(super) struct OperationView {
    #[schema(value_type = OperationName)]
    op: (),
    /// Sent again within 24 hours by the same agent it is answered as the first time.
    #[schema(min_length = 1, max_length = 128)]
    op_id: Option<String>,
    id: Option<Uuid>,
    #[schema(min_length = 1, max_length = 10_000)]
    content: Option<String>,
    #[schema(minimum = 0.0, maximum = 1.0)]
    importance: Option<f64>,
    #[schema(value_type = Option<Object>)]
    metadata: Option<()>,
    auto_evaluate: Option<bool>,
    #[schema(min_length = 1, max_length = 200)]
    session: Option<String>,
    #[schema(min_length = 1, max_length = 200)]
    speaker: Option<String>,
    #[schema(min_length = 1, max_length = 200)]
    source: Option<String>,
    #[schema(min_length = 1, max_length = 200)]
    emotion: Option<String>,
    #[schema(format = DateTime)]
    occurred_at: Option<String>,
    /// When it was written, RFC 3339; now by default, and never taken for later.
    #[schema(format = DateTime)]
    at: Option<String>,
}

/// What is to be done.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code)]
pub(super) enum OperationName {
    Store,
    Update,
    Remove,
}

/// What became of an operation: carried out or decided against, or else refused with a `problem`.
#[derive(ToSchema)]
#[schema(as = BatchResult)]
#[allow(dead_code)]
pub(super) struct OutcomeView {
    /// As the client named it.
    #[schema(required = true)]
    op_id: Option<String>,
    /// As of a request with this operation alone; 200 also for what was decided against.
    #[schema(example = 201)]
    status: u16,
    /// The memory.
    #[schema(value_type = Uuid, required = false)]
    id: Option<Uuid>,
    /// The number of the change. Null: nothing was changed.
    seq: Option<i64>,
    /// Its zone after this. Null: it is gone, or was left alone.
    zone: Option<u8>,
    /// Its score, likewise.
    score: Option<f64>,
    /// Whether it was done.
    #[schema(value_type = bool, required = false)]
    applied: Option<bool>,
    /// Whether this answers a repetition.
    #[schema(value_type = bool, required = false)]
    replayed: Option<bool>,
    /// Why it was not done.
    reason: Option<Reason>,
    /// Why it was refused.
    #[schema(schema_with = problem, required = false)]
    problem: Option<()>,
}
