//! The frames, as `docs/sync.md` has them.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer as _, Serialize,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value, json, value::RawValue};

use crate::Outcome;

/// Bytes of a frame, and of a message of several frames.
pub(crate) const FRAME_MOST: usize = 256 * 1024;
/// Bytes of the first message, which comes from anybody.
pub(crate) const HELLO_MOST: usize = 4 * 1024;
const OP_ID_MOST: usize = 128;
/// Levels of arrays and objects in an operation. `serde_json` reads 127, two of which are those of a batch.
const LEVELS_MOST: usize = 125;

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

/// Reads a frame of a client: refuses whatever an engine could not read either, for there it would be in the way of others.
///
/// # Errors
/// The frame that answers it.
pub(crate) fn read_operation(text: &str) -> Result<Operation, String> {
    let refuse = |op_id: Option<&str>, detail: &str| error(op_id, "invalid-request", detail);
    let first = text.bytes().find(|byte| !byte.is_ascii_whitespace());
    if first != Some(b'{') {
        return Err(refuse(None, "a frame must be a JSON object with `op` and `op_id`"));
    }
    if levels(text) > LEVELS_MOST {
        let detail = format!("the frame is nested too deeply: at most {LEVELS_MOST} levels of arrays and objects");
        return Err(refuse(readable_op_id(text).as_deref(), &detail));
    }
    let frame: Value = serde_json::from_str(text)
        .map_err(|error| refuse(readable_op_id(text).as_deref(), &format!("the frame is not valid JSON: {error}")))?;
    let op_id = match &frame["op_id"] {
        Value::String(id) if is_op_id(id) => id,
        Value::Null => return Err(refuse(None, "`op_id` is missing: give each operation its own")),
        _ => return Err(refuse(None, "`op_id` must be a text of 1 to 128 visible ASCII characters")),
    };
    if !matches!(&frame["op"], Value::String(op) if ["store", "update", "remove"].contains(&op.as_str())) {
        return Err(refuse(Some(op_id), "`op` must be store, update or remove"));
    }
    let json = RawValue::from_string(text.trim().to_owned())
        .map_err(|_| refuse(Some(op_id), "the frame is not valid JSON"))?;
    Ok(Operation { op_id: op_id.clone(), json })
}

fn is_op_id(text: &str) -> bool {
    (1..=OP_ID_MOST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The deepest level of arrays and objects in a text of JSON.
fn levels(text: &str) -> usize {
    let (mut level, mut deepest, mut within_text, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if within_text => escaped = true,
            b'"' => within_text = !within_text,
            b'{' | b'[' if !within_text => {
                level += 1;
                deepest = deepest.max(level);
            }
            b'}' | b']' if !within_text => level = level.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Reads the name of an operation from a frame that cannot be read whole, as far as it can be read: with it a client learns
/// which of its operations is refused.
fn readable_op_id(text: &str) -> Option<String> {
    struct Members<'a>(&'a mut Option<String>);

    impl<'de> Visitor<'de> for Members<'_> {
        type Value = ();

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
            while let Some(name) = members.next_key::<Cow<'_, str>>()? {
                if name == "op_id" {
                    *self.0 = Some(members.next_value()?);
                } else {
                    members.next_value::<IgnoredAny>()?;
                }
            }
            Ok(())
        }
    }

    let mut op_id = None;
    // It fails where the frame is broken, or after it was read: either way what came before is known.
    let _ = serde_json::Deserializer::from_str(text).deserialize_map(Members(&mut op_id));
    op_id.filter(|op_id| is_op_id(op_id))
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
pub(crate) fn answer(op_id: &str, outcome: Outcome) -> String {
    let Outcome { refused, fields } = outcome;
    let mut frame = Map::new();
    frame.insert("type".to_owned(), Value::from(if refused { "error" } else { "ack" }));
    frame.insert("op_id".to_owned(), Value::from(op_id));
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

    /// A batch as the engine reads it.
    #[derive(Deserialize)]
    struct Batch {
        #[expect(dead_code, reason = "it is only read")]
        operations: Vec<Value>,
    }

    fn engine_reads(operation: &str) -> bool {
        serde_json::from_str::<Batch>(&format!(r#"{{"operations":[{operation}]}}"#)).is_ok()
    }

    /// An operation of so many levels.
    fn nested(levels: usize) -> String {
        let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
        format!(r#"{{"op":"store","op_id":"a","metadata":{open}{close}}}"#)
    }

    #[test]
    fn operation_the_engine_cannot_read_is_refused_by_op_id() {
        let unreadable = [
            r#"{"op":"store","op_id":"a","content":"cut \ud83d"}"#.to_owned(),
            r#"{"op":"store","content":"cut \ud83d","op_id":"a"}"#.to_owned(),
            r#"{"op":"store","op_id":"a","content":"\udc00 and \ud83d\ud83d"}"#.to_owned(),
            r#"{"op":"store","op_id":"a","metadata":{"\ud83d":1}}"#.to_owned(),
            r#"{"op":"store","op_id":"a","metadata":{"n":1e999}}"#.to_owned(),
            r#"{"metadata":[-1e999],"op":"store","op_id":"a"}"#.to_owned(),
            nested(LEVELS_MOST + 1),
            nested(500),
            r#"{"op":"store","op_id":"a","metadata":{"n":NaN}}"#.to_owned(),
            r#"{"op":"store","op_id":"a","content":"broken off"#.to_owned(),
        ];
        for text in &unreadable {
            assert!(!engine_reads(text), "{text}");
            let frame = read_operation(text).err().expect(text);
            let frame: Value = serde_json::from_str(&frame).expect("JSON");
            assert_eq!((&frame["type"], &frame["error"]), (&json!("error"), &json!("invalid-request")), "{text}");
            assert_eq!(frame["op_id"], "a", "{text}: {frame}");
        }
    }

    #[test]
    fn operation_as_deep_as_the_engine_reads_is_taken() {
        let deepest = nested(LEVELS_MOST);
        assert!(engine_reads(&deepest) && read_operation(&deepest).is_ok());
        let flat = format!(r#"{{"op":"store","op_id":"a","content":"{}\"[[{{"}}"#, "[".repeat(500));
        assert!(engine_reads(&flat) && read_operation(&flat).is_ok(), "brackets of a text are none");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_with_a_frame(text in "\\PC{0,80}") {
            if let Err(frame) = read_operation(&text) {
                let frame: Value = serde_json::from_str(&frame).expect("JSON");
                prop_assert_eq!(&frame["type"], "error");
            }
        }

        #[test]
        fn what_is_passed_on_the_engine_can_read(content in "\\PC{0,8}", escape in "(\\\\u[0-9a-f]{4}){0,3}", number in "-?[0-9]{1,4}(e[0-9]{1,4})?") {
            let text = format!(r#"{{"op":"store","op_id":"a","content":"{content}{escape}","importance":{number}}}"#);
            prop_assert!(read_operation(&text).is_err() || engine_reads(&text), "{}", text);
        }
    }
}
