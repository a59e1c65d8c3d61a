//! `POST /batch`: many operations in one request and one transaction, each with an answer of its own.
//!
//! It is also where the operations of sync sockets go: see `docs/sync.md`.

use axum::{Json, extract::State, http::HeaderMap};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tenancy::{Problem, ProblemType};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Api, ApiError,
    body::JsonBody,
    error::problem,
    idempotency::{self, Key},
    openapi::{OperationView, OutcomeView},
    params::Params,
    tenant_request::TenantRequest,
};
use crate::{
    memory::{Draft, Invalid, PatchDraft, identity, instant},
    store::{Caller, MOST_AT_ONCE, Once, Reason, What, Write, Written},
};

/// The body, its operations not yet looked at: what is wrong with one of them concerns it alone.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BatchRequest, description = "Operations, carried out in order.")]
pub(super) struct Batch {
    #[schema(value_type = Vec<OperationView>, min_items = 1, max_items = 1000)]
    operations: Vec<Value>,
}

/// What is left of a removal without its id.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Removal {
    at: Option<String>,
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

/// An operation of a batch: carried out, or refused by how it looks.
struct Item {
    op_id: Option<String>,
    write: Result<Write, ApiError>,
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
) -> Result<Json<Results>, ApiError> {
    params.nothing_else()?;
    let Batch { operations } = body.read()?;
    let key = idempotency::key(&headers)?;
    carry_out(&api, &caller, operations, key.as_ref()).await.map(Json)
}

/// Carries out operations, of whatever look, in order.
pub(super) async fn carry_out(
    api: &Api,
    caller: &Caller,
    operations: Vec<Value>,
    key: Option<&Key>,
) -> Result<Results, ApiError> {
    if !(1..=MOST_AT_ONCE).contains(&operations.len()) {
        let reason = format!("must be a list of 1 to {MOST_AT_ONCE}; it has {}", operations.len());
        return Err(Invalid::new("operations", reason).into());
    }
    let (mut writes, mut places) = (Vec::with_capacity(operations.len()), Vec::with_capacity(operations.len()));
    for (place, operation) in operations.into_iter().enumerate() {
        let Item { op_id, write } = read(operation, place, key, caller);
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
            let what = Became::Decided { id, seq, zone, score, applied: written.applied(), replayed, reason };
            Outcome { op_id, status: if stores { 201 } else { 200 }, what }
        }
        Err(error) => {
            let problem = problem(error);
            Outcome { op_id, status: problem.status, what: Became::Refused { problem } }
        }
    }
}

fn read(operation: Value, place: usize, key: Option<&Key>, caller: &Caller) -> Item {
    let Value::Object(mut operation) = operation else {
        let error = ApiError::new(ProblemType::InvalidRequest, "an operation must be a JSON object");
        return Item { op_id: None, write: Err(error) };
    };
    let op_id = match operation.remove("op_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(op_id)) => Some(op_id),
        Some(_) => {
            return Item { op_id: None, write: Err(Invalid::new("op_id", "must be a text").into()) };
        }
    };
    let once = once(&operation, op_id.as_deref(), place, key, caller);
    let write = once.and_then(|once| Ok(Write { what: what(operation)?, once }));
    Item { op_id, write }
}

fn once(
    operation: &Map<String, Value>,
    op_id: Option<&str>,
    place: usize,
    key: Option<&Key>,
    caller: &Caller,
) -> Result<Option<Once>, ApiError> {
    // By content, not by letter: the members of a map that was read are in an order of their own.
    let asked = || serde_json::to_vec(operation).unwrap_or_default();
    match (op_id, key) {
        (Some(op_id), _) => Ok(Some(idempotency::once_of_op(op_id, caller.agent.as_deref(), &asked())?)),
        (None, Some(key)) => Ok(Some(key.once_of_item(place, &asked()))),
        (None, None) => Ok(None),
    }
}

fn what(mut operation: Map<String, Value>) -> Result<What, ApiError> {
    let op = operation.remove("op");
    match op.as_ref().and_then(Value::as_str) {
        Some("store") => Ok(What::Store(Box::new(parse::<Draft>(operation)?.check()?))),
        Some("update") => {
            let id = take_id(&mut operation)?;
            Ok(What::Update { id, patch: parse::<PatchDraft>(operation)?.check()? })
        }
        Some("remove") => {
            let id = take_id(&mut operation)?;
            let Removal { at } = parse(operation)?;
            Ok(What::Remove { id, at: at.map(|text| instant("at", &text)).transpose()? })
        }
        _ => Err(Invalid::new("op", "must be store, update or remove").into()),
    }
}

fn take_id(operation: &mut Map<String, Value>) -> Result<Uuid, Invalid> {
    match operation.remove("id") {
        Some(Value::String(id)) => identity("id", &id),
        _ => Err(Invalid::new("id", "is needed: which memory")),
    }
}

fn parse<T: DeserializeOwned>(operation: Map<String, Value>) -> Result<T, ApiError> {
    // The message speaks of the client's own field names.
    serde_json::from_value(Value::Object(operation))
        .map_err(|error| ApiError::new(ProblemType::InvalidRequest, format!("the operation is not valid: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tenancy::{Capability, LOCAL_TENANT};

    use super::*;

    fn item(operation: Value) -> Item {
        let capability = Capability::parse(&"ab".repeat(32)).expect("64 hex digits");
        let caller = Caller { tenant: LOCAL_TENANT, capability, agent: Some("main".to_owned()), key: None };
        read(operation, 0, None, &caller)
    }

    #[test]
    fn a_refusal_names_what_is_wrong_and_which_operation_it_was() {
        let id = "01980e4c-7a5e-7cc3-98c4-dc0c0c07398f";
        for (operation, named) in [
            (json!({ "op_id": "o", "op": "erase" }), "`op`"),
            (json!({ "op_id": "o" }), "`op`"),
            (json!({ "op_id": "o", "op": "store" }), "content"),
            (json!({ "op_id": "o", "op": "store", "content": "x", "tenant": "y" }), "tenant"),
            (json!({ "op_id": "o", "op": "update", "content": "x" }), "`id`"),
            (json!({ "op_id": "o", "op": "update", "id": id }), "`content`"),
            (json!({ "op_id": "o", "op": "update", "id": id, "content": "x", "session": "s" }), "session"),
            (json!({ "op_id": "o", "op": "remove", "id": "no uuid" }), "`id`"),
            (json!({ "op_id": "o", "op": "remove", "id": id, "at": "yesterday" }), "`at`"),
            (json!({ "op_id": "o", "op": "remove", "id": id, "content": "x" }), "content"),
        ] {
            let Item { op_id, write } = item(operation.clone());
            assert_eq!(op_id.as_deref(), Some("o"));
            let error = write.expect_err("refused").to_string();
            assert!(error.contains(named), "{operation}: {error}");
        }
        assert!(item(json!("store")).write.is_err() && item(json!({ "op_id": 7, "op": "store" })).write.is_err());
    }

    #[test]
    fn an_operation_is_the_same_whatever_it_is_called_and_in_whichever_order_its_members_come() {
        let of =
            |text: &str| item(serde_json::from_str(text).expect("JSON")).write.expect("valid").once.expect("named");
        let one = of(r#"{"op":"store","op_id":"a","content":"x","importance":0.5}"#);
        let same = of(r#"{"importance":0.5,"content":"x","op":"store","op_id":"b"}"#);
        assert_eq!(one.request_hash, same.request_hash);
        assert_eq!((one.id.as_str(), same.id.as_str()), ("sync/main/a", "sync/main/b"));
        let other = of(r#"{"op":"store","op_id":"a","content":"x","importance":0.6}"#);
        assert_ne!(one.request_hash, other.request_hash);
    }
}
