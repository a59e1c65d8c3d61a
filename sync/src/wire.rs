//! The frames, as `docs/sync.md` has them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};

use crate::Outcome;

/// Bytes of a frame, and of a message of several frames.
pub(crate) const FRAME_MOST: usize = 256 * 1024;
const OP_ID_MOST: usize = 128;

/// Codes that a socket is closed with.
pub(crate) mod code {
    pub(crate) const NORMAL: u16 = 1000;
    pub(crate) const PROTOCOL: u16 = 1002;
    pub(crate) const NO_TEXT: u16 = 1003;
    pub(crate) const NOT_UTF8: u16 = 1007;
    pub(crate) const POLICY: u16 = 1008;
    pub(crate) const TOO_BIG: u16 = 1009;
    pub(crate) const RESTART: u16 = 1012;
    pub(crate) const TRY_LATER: u16 = 1013;
    pub(crate) const KEY_ENDED: u16 = 4001;
    pub(crate) const SUSPENDED: u16 = 4002;
    pub(crate) const TOO_MANY_SOCKETS: u16 = 4003;
    pub(crate) const IDLE: u16 = 4008;
    pub(crate) const TOO_SLOW: u16 = 4009;
}

/// The first frame of a socket. It holds a key, so it has no `Debug`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The key's text.
    #[serde(default)]
    pub api_key: Option<String>,
    /// The number of the last change that the client has seen.
    #[serde(default)]
    pub since: Option<i64>,
    /// The agent that the client takes the key for.
    #[serde(default)]
    pub agent: Option<String>,
}

/// Why a first frame is none.
pub(crate) fn read_hello(text: &str) -> Result<Hello, &'static str> {
    const SHAPE: &str =
        "the first frame must be {\"api_key\": \"sk-stellar-…\"}, with \"since\" (a number) and \"agent\" if wanted";
    // Serde would take an array for a struct, and its own text could repeat what was sent, and with it a key.
    if !text.trim_start().starts_with('{') {
        return Err(SHAPE);
    }
    let hello: Hello = serde_json::from_str(text).map_err(|_| SHAPE)?;
    if hello.since.is_some_and(|since| since < 0) { Err("`since` must not be negative") } else { Ok(hello) }
}

/// An operation whose frame is in order. What it asks for is checked by whoever carries it out.
pub(crate) struct Operation {
    pub(crate) op_id: String,
    pub(crate) json: Box<RawValue>,
}

#[derive(Deserialize)]
struct Head {
    op: Option<Value>,
    op_id: Option<Value>,
}

/// Reads a frame of a client.
///
/// # Errors
/// The frame that answers it.
pub(crate) fn read_operation(text: &str) -> Result<Operation, String> {
    let refuse = |op_id: Option<&str>, detail: &str| error(op_id, "invalid-request", detail);
    let first = text.bytes().find(|byte| !byte.is_ascii_whitespace());
    if first != Some(b'{') {
        return Err(refuse(None, "a frame must be a JSON object with `op` and `op_id`"));
    }
    let head: Head = serde_json::from_str(text)
        .map_err(|error| refuse(None, &format!("the frame is not valid JSON: {}", place(&error))))?;
    let op_id = match &head.op_id {
        Some(Value::String(id))
            if (1..=OP_ID_MOST).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            id.clone()
        }
        Some(_) => return Err(refuse(None, "`op_id` must be a text of 1 to 128 visible ASCII characters")),
        None => return Err(refuse(None, "`op_id` is missing: give each operation its own")),
    };
    if !matches!(&head.op, Some(Value::String(op)) if ["store", "update", "remove"].contains(&op.as_str())) {
        return Err(refuse(Some(&op_id), "`op` must be store, update or remove"));
    }
    let json = RawValue::from_string(text.trim().to_owned())
        .map_err(|_| refuse(Some(&op_id), "the frame is not valid JSON"))?;
    Ok(Operation { op_id, json })
}

fn place(error: &serde_json::Error) -> String {
    format!("line {}, column {}", error.line(), error.column())
}

#[derive(Serialize)]
struct Refused<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    op_id: Option<&'a str>,
    error: &'a str,
    detail: &'a str,
}

/// An `error` frame.
pub(crate) fn error(op_id: Option<&str>, error: &str, detail: &str) -> String {
    // A struct of texts always serialises.
    serde_json::to_string(&Refused { r#type: "error", op_id, error, detail }).unwrap_or_default()
}

/// The frame that answers an operation.
pub(crate) fn answer(outcome: Outcome) -> String {
    let Outcome { op_id, refused, fields } = outcome;
    let mut frame = Map::new();
    frame.insert("type".to_owned(), Value::from(if refused { "error" } else { "ack" }));
    if let Some(op_id) = op_id {
        frame.insert("op_id".to_owned(), Value::from(op_id));
    }
    frame.extend(fields);
    Value::Object(frame).to_string()
}

pub(crate) fn authenticated(seq: i64, agent: &str) -> String {
    json!({ "authenticated": true, "seq": seq, "agent": agent }).to_string()
}

pub(crate) fn refused(error: &str, detail: &str) -> String {
    json!({ "authenticated": false, "error": error, "detail": detail }).to_string()
}

pub(crate) fn resync(seq: i64) -> String {
    json!({ "type": "resync", "seq": seq }).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_first_frame_is_strict_and_its_refusal_repeats_nothing() {
        assert!(read_hello(r#"{"api_key":"k","since":0}"#).is_ok());
        for text in ["", "[]", "{}x", r#"{"api_key":1}"#, r#"{"api_key":"hunter2","sinc":1}"#, r#"{"since":-1}"#] {
            let said = read_hello(text).err().expect(text);
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn an_operation_needs_its_name_and_its_id() {
        let refused = |text: &str| read_operation(text).err().expect(text);
        assert!(read_operation(r#" {"op":"store","op_id":"a","content":"x"} "#).is_ok());
        assert!(refused(r#"{"op":"store"}"#).contains("op_id"));
        assert!(refused(r#"{"op":"drop","op_id":"a"}"#).contains(r#""op_id":"a""#));
        for text in ["", "7", "[1]", "{", r#"{"op":"store","op_id":""}"#, r#"{"op":"store","op_id":"a b"}"#] {
            assert!(refused(text).contains("invalid-request"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_with_a_frame(text in "\\PC{0,80}") {
            if let Err(frame) = read_operation(&text) {
                let frame: Value = serde_json::from_str(&frame).expect("JSON");
                prop_assert_eq!(&frame["type"], "error");
            }
        }
    }
}
