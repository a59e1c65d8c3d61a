//! One operation of a batch, read by itself: one that cannot be read keeps its name, and takes nothing from the others.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use tenancy::ProblemType;
use uuid::Uuid;

use super::super::{
    ApiError,
    idempotency::{self, Key},
    members::{Members, fault},
};
use crate::{
    memory::{Draft, Invalid, PatchDraft, identity, instant},
    store::{Caller, Once, What, Write},
};

/// What is left of a removal without its id.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Removal {
    at: Option<String>,
}

/// An operation: to be carried out, or refused by how it looks.
pub(super) struct Item {
    pub(super) op_id: Option<String>,
    pub(super) write: Result<Write, ApiError>,
}

/// Reads the operation at this place of a batch.
pub(super) fn read(operation: &RawValue, place: usize, key: Option<&Key>, caller: &Caller) -> Item {
    let Some(mut members) = Members::of(operation.get()) else {
        let error = ApiError::new(ProblemType::InvalidRequest, "an operation must be a JSON object");
        return Item { op_id: None, write: Err(error) };
    };
    let op_id = members.take("op_id").map(|op_id| serde_json::from_str::<Option<String>>(op_id.get()));
    let Ok(op_id) = op_id.transpose().map(Option::flatten) else {
        return Item { op_id: None, write: Err(Invalid::new("op_id", "must be a text").into()) };
    };
    let asked = members.to_json();
    let write =
        what(members).and_then(|what| Ok(Write { what, once: once(&asked, op_id.as_deref(), place, key, caller)? }));
    Item { op_id, write }
}

fn once(
    asked: &str,
    op_id: Option<&str>,
    place: usize,
    key: Option<&Key>,
    caller: &Caller,
) -> Result<Option<Once>, ApiError> {
    if op_id.is_none() && key.is_none() {
        return Ok(None);
    }
    // By content, not by letter: the members of a map that was read are in an order of their own.
    let content: Value = serde_json::from_str(asked).map_err(|error| invalid(asked, &error))?;
    let content = serde_json::to_vec(&content).unwrap_or_default();
    match (op_id, key) {
        (Some(op_id), _) => Ok(Some(idempotency::once_of_op(op_id, caller.agent.as_deref(), &content)?)),
        (None, key) => Ok(key.map(|key| key.once_of_item(place, &content))),
    }
}

fn what(mut operation: Members<'_>) -> Result<What, ApiError> {
    let op = operation.take("op").and_then(|op| serde_json::from_str::<String>(op.get()).ok());
    match op.as_deref() {
        Some("store") => Ok(What::Store(Box::new(parse::<Draft>(&operation)?.check()?))),
        Some("update") => {
            let id = take_id(&mut operation)?;
            Ok(What::Update { id, patch: parse::<PatchDraft>(&operation)?.check()? })
        }
        Some("remove") => {
            let id = take_id(&mut operation)?;
            let Removal { at } = parse(&operation)?;
            Ok(What::Remove { id, at: at.map(|text| instant("at", &text)).transpose()? })
        }
        _ => Err(Invalid::new("op", "must be store, update or remove").into()),
    }
}

fn take_id(operation: &mut Members<'_>) -> Result<Uuid, Invalid> {
    match operation.take("id").map(|id| serde_json::from_str::<String>(id.get())) {
        Some(Ok(id)) => identity("id", &id),
        _ => Err(Invalid::new("id", "is needed: which memory")),
    }
}

fn parse<T: DeserializeOwned>(operation: &Members<'_>) -> Result<T, ApiError> {
    let text = operation.to_json();
    serde_json::from_str(&text).map_err(|error| invalid(&text, &error))
}

fn invalid(operation: &str, error: &serde_json::Error) -> ApiError {
    ApiError::new(ProblemType::InvalidRequest, format!("the operation is not valid: {}", fault(operation, error)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tenancy::{Capability, LOCAL_TENANT};

    use super::*;

    fn raw(operation: &str) -> Item {
        let capability = Capability::parse(&"ab".repeat(32)).expect("64 hex digits");
        let caller = Caller { tenant: LOCAL_TENANT, capability, agent: Some("main".to_owned()), key: None };
        read(&RawValue::from_string(operation.to_owned()).expect("JSON"), 0, None, &caller)
    }

    fn item(operation: &Value) -> Item {
        raw(&operation.to_string())
    }

    #[test]
    fn a_refusal_names_what_is_wrong_and_which_operation_it_was() {
        let id = "01980e4c-7a5e-7cc3-98c4-dc0c0c07398f";
        for (operation, named) in [
            (json!({ "op_id": "o", "op": "erase" }), "`op`"),
            (json!({ "op_id": "o" }), "`op`"),
            (json!({ "op_id": "o", "op": "store" }), "content"),
            (json!({ "op_id": "o", "op": "store", "content": "x", "tenant": "y" }), "unknown field `tenant`"),
            (json!({ "op_id": "o", "op": "store", "content": 7 }), "`content`: invalid type"),
            (json!({ "op_id": "o", "op": "update", "content": "x" }), "`id`"),
            (json!({ "op_id": "o", "op": "update", "id": id }), "`content`"),
            (json!({ "op_id": "o", "op": "update", "id": id, "content": "x", "session": "s" }), "session"),
            (json!({ "op_id": "o", "op": "remove", "id": "no uuid" }), "`id`"),
            (json!({ "op_id": "o", "op": "remove", "id": id, "at": "yesterday" }), "`at`"),
            (json!({ "op_id": "o", "op": "remove", "id": id, "content": "x" }), "content"),
        ] {
            let Item { op_id, write } = item(&operation);
            assert_eq!(op_id.as_deref(), Some("o"));
            let error = write.expect_err("refused").to_string();
            assert!(error.contains(named), "{operation}: {error}");
        }
        assert!(item(&json!("store")).write.is_err() && item(&json!({ "op_id": 7, "op": "store" })).write.is_err());
    }

    #[test]
    fn unreadable_operation_is_refused_under_its_name() {
        let deep = format!(
            r#"{{"op":"store","op_id":"o","content":"x","metadata":{{"a":{}{}}}}}"#,
            "[".repeat(130),
            "]".repeat(130)
        );
        for (operation, named) in [
            (r#"{"op":"store","op_id":"o","content":"cut \ud83d"}"#, "`content`"),
            (r#"{"op":"store","op_id":"o","content":"x","metadata":{"n":1e999}}"#, "`metadata`"),
            (r#"{"op":"store","op_id":"o","content":"x","metadata":{"n":12345678901234567890123}}"#, "`metadata`"),
            (r#"{"op":"store","op_id":"o","content":"x","content":"y"}"#, "duplicate field `content`"),
            (r#"{"\ud83d":1,"op":"store","op_id":"o","content":"x"}"#, "not valid"),
            (r#"{"op":"\ud83d","op_id":"o","content":"x"}"#, "`op`"),
            (r#"{"op":"update","op_id":"o","id":"\ud83d","content":"x"}"#, "`id`"),
            (r#"{"op":"store","op_id":"o","op_id":"p","content":"x"}"#, "unknown field `op_id`"),
            (&deep, "`metadata`"),
        ] {
            let Item { op_id, write } = raw(operation);
            assert_eq!(op_id.as_deref(), Some("o"), "{operation}");
            let error = write.expect_err(operation).to_string();
            assert!(error.contains(named) && !error.contains("at line"), "{operation}: {error}");
        }
        for operation in [r#"{"op":"store","op_id":"\ud83d","content":"x"}"#, "[]", "null", "1e999", r#""\ud83d""#] {
            let Item { op_id, write } = raw(operation);
            assert!(op_id.is_none() && write.is_err(), "{operation}");
        }
    }

    #[test]
    fn an_operation_is_the_same_whatever_it_is_called_and_in_whichever_order_its_members_come() {
        let of = |text: &str| raw(text).write.expect("valid").once.expect("named");
        let one = of(r#"{"op":"store","op_id":"a","content":"x","importance":0.5,"metadata":{"b":1,"a":2}}"#);
        let same = of(r#"{"metadata": {"a":2, "b":1},"importance":0.50,"content":"\u0078","op":"store","op_id":"b"}"#);
        assert_eq!(one.request_hash, same.request_hash);
        assert_eq!((one.id.as_str(), same.id.as_str()), ("sync/main/a", "sync/main/b"));
        let other = of(r#"{"op":"store","op_id":"a","content":"x","importance":0.6,"metadata":{"b":1,"a":2}}"#);
        assert_ne!(one.request_hash, other.request_hash);
    }
}
