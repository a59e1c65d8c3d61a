//! `POST /batch`: many operations in one request and one transaction, each with an answer of its own.
//!
//! It is also where the operations of sync sockets go: see `docs/sync.md`.

mod operation;

use axum::{Json, extract::State, http::HeaderMap, response::Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use tenancy::{Problem, ProblemType};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Api, ApiError,
    body::JsonBody,
    error::problem,
    idempotency::{self, Key},
    openapi::{OperationView, OutcomeView},
    operations::counted,
    params::Params,
    tenant_request::TenantRequest,
};
use crate::{
    memory::Invalid,
    store::{Caller, MOST_AT_ONCE, Reason, What, Write, Written},
};
use operation::Item;

/// The body, its operations not yet looked at: what is wrong with one of them concerns it alone.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BatchRequest, description = "Operations, carried out in order.")]
pub(super) struct Batch {
    #[schema(value_type = Vec<OperationView>, min_items = 1, max_items = 1000)]
    operations: Vec<Box<RawValue>>,
}

/// One result for each operation, in order.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchResults)]
pub(super) struct Results {
    #[schema(value_type = Vec<OutcomeView>)]
    results: Vec<Outcome>,
}

impl Results {
    /// Each as its JSON.
    pub(super) fn into_outcomes(self) -> Vec<Value> {
        // Structs of texts and numbers always serialise.
        self.results.iter().map(|outcome| serde_json::to_value(outcome).unwrap_or_default()).collect()
    }
}

/// What became of one operation.
#[derive(Serialize)]
struct Outcome {
    /// As the client named it.
    op_id: Option<String>,
    /// As of a request with this operation alone; 200 also for what was decided against.
    status: u16,
    #[serde(flatten)]
    what: Became,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Became {
    Decided {
        id: Uuid,
        seq: Option<i64>,
        zone: Option<u8>,
        score: Option<f64>,
        applied: bool,
        replayed: bool,
        reason: Option<Reason>,
    },
    Refused {
        problem: Problem,
    },
}

/// Carries out many operations, in order
///
/// 200 also when some are refused; an error of it all is one that concerns them all. An operation with an `op_id`, or all of
/// them under an Idempotency-Key, are carried out once.
#[utoipa::path(post, path = "/api/v1/batch", tag = "memories", operation_id = "batch",
    request_body = Batch,
    responses((status = 200, description = "One result for each operation, in order", body = Results)),
)]
pub(super) async fn batch(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    headers: HeaderMap,
    params: Params,
    body: JsonBody,
) -> Result<Response, ApiError> {
    params.nothing_else()?;
    let Batch { operations } = body.read()?;
    let key = idempotency::key(&headers)?;
    let results = carry_out(&api, &caller, &operations, key.as_ref()).await?;
    Ok(counted(operations.len() as u64, Json(results)))
}

/// Carries out operations, of whatever look, in order.
pub(super) async fn carry_out(
    api: &Api,
    caller: &Caller,
    operations: &[Box<RawValue>],
    key: Option<&Key>,
) -> Result<Results, ApiError> {
    if !(1..=MOST_AT_ONCE).contains(&operations.len()) {
        let reason = format!("must be a list of 1 to {MOST_AT_ONCE}; it has {}", operations.len());
        return Err(Invalid::new("operations", reason).into());
    }
    let (mut writes, mut places) = (Vec::with_capacity(operations.len()), Vec::with_capacity(operations.len()));
    for (place, operation) in operations.iter().enumerate() {
        let Item { op_id, write } = operation::read(operation, place, key, caller);
        let stores = matches!(&write, Ok(Write { what: What::Store(_), .. }));
        places.push((op_id, stores, write.map(|write| writes.push(write))));
    }
    let written = if writes.is_empty() { Vec::new() } else { api.coalescer.write(caller.clone(), writes).await? };
    api.activity.seen(caller);
    let mut written = written.into_iter();
    let results = places.into_iter().map(|(op_id, stores, read)| {
        let result = read.and_then(|()| match written.next() {
            Some(result) => Ok(result?),
            None => Err(ApiError::new(ProblemType::Internal, "the operation has no answer; the fault is on our side")),
        });
        outcome(op_id, stores, result)
    });
    Ok(Results { results: results.collect() })
}

fn outcome(op_id: Option<String>, stores: bool, result: Result<Written, ApiError>) -> Outcome {
    match result {
        Ok(written) => {
            let Written { id, zone, score, seq, reason, replayed } = written;
            let applied = written.applied();
            let what = Became::Decided { id, seq, zone, score, applied, replayed, reason };
            Outcome { op_id, status: if stores && applied { 201 } else { 200 }, what }
        }
        Err(error) => {
            let problem = problem(error);
            Outcome { op_id, status: problem.status, what: Became::Refused { problem } }
        }
    }
}
