//! A memory as a client sends it, and the check that makes it one that can be stored.

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Metadata, estimate_importance, instant};

/// The longest content, in characters.
pub const MAX_CONTENT_CHARS: usize = 10_000;
/// The longest session, speaker, source or emotion, in characters.
pub const MAX_LABEL_CHARS: usize = 200;
const DEFAULT_IMPORTANCE: f32 = 0.5;

/// The body of `POST /store`, not yet checked.
#[derive(Deserialize, Debug, Default, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StoreRequest, description = "A memory to store.", example = json!({
    "content": "Ada prefers night flights to Lisbon", "importance": 0.8, "session": "trip-7", "metadata": {"via": "chat"}
}))]
pub struct Draft {
    /// The text to remember.
    #[schema(min_length = 1, max_length = 10_000)]
    pub content: String,
    /// 0 to 1; 0.5 by default.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub importance: Option<f64>,
    /// Anything of the client's own, as an object: at most 16 KiB, 16 levels deep. A whole number of more than 64 bits is sent
    /// as a text.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Box<RawValue>>,
    /// Whether the engine shall estimate the importance when none is given.
    pub auto_evaluate: Option<bool>,
    /// The conversation that it belongs to.
    #[schema(min_length = 1, max_length = 200)]
    pub session: Option<String>,
    /// Who said it.
    #[schema(min_length = 1, max_length = 200)]
    pub speaker: Option<String>,
    /// Where it comes from.
    #[schema(min_length = 1, max_length = 200)]
    pub source: Option<String>,
    /// A word for its feeling.
    #[schema(min_length = 1, max_length = 200)]
    pub emotion: Option<String>,
    /// When it happened, RFC 3339; now by default.
    #[schema(format = DateTime)]
    pub occurred_at: Option<String>,
    /// An identity of the client's own, a UUID; one that the tenant does not have yet.
    #[schema(format = Uuid)]
    pub id: Option<String>,
    /// When it was written, RFC 3339: what was written offline says so. Never taken for later than now.
    #[schema(format = DateTime)]
    pub at: Option<String>,
}

/// A memory that may be stored: every bound holds.
#[derive(Clone, PartialEq, Debug)]
pub struct NewMemory {
    /// 1 to 10,000 characters, no NUL.
    pub content: String,
    /// 0 to 1.
    pub importance: f32,
    /// At most 16 KiB as JSON and 16 levels deep.
    pub metadata: Metadata,
    /// At most 200 characters; taken from `metadata.session` when not given by itself.
    pub session: Option<String>,
    /// At most 200 characters; taken from `metadata.speaker` when not given by itself.
    pub speaker: Option<String>,
    /// At most 200 characters.
    pub source: Option<String>,
    /// At most 200 characters.
    pub emotion: Option<String>,
    /// In UTC. `None`: now.
    pub occurred_at: Option<OffsetDateTime>,
    /// Not nil. `None`: a new one.
    pub id: Option<Uuid>,
    /// When it was written, by the client's word; see [`super::LastWrite`].
    pub at: Option<OffsetDateTime>,
}

/// A value that breaks a rule. Its text is for the client.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{field}` {reason}")]
pub struct Invalid {
    /// The field or parameter.
    pub field: &'static str,
    /// What is wrong with it: "must be …".
    pub reason: String,
}

impl Invalid {
    /// A value that breaks a rule.
    pub fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self { field, reason: reason.into() }
    }
}

impl Draft {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`Invalid`] names the first field that breaks one.
    pub fn check(self) -> Result<NewMemory, Invalid> {
        let Self {
            content,
            importance,
            metadata,
            auto_evaluate,
            session,
            speaker,
            source,
            emotion,
            occurred_at,
            id,
            at,
        } = self;
        check_content(&content)?;
        let importance = match importance {
            Some(given) => check_importance(given)?,
            None if auto_evaluate == Some(true) => estimate_importance(&content),
            None => DEFAULT_IMPORTANCE,
        };
        let (metadata, members) = match metadata {
            Some(given) => Metadata::check(&given)?,
            None => (Metadata::default(), Map::new()),
        };
        Ok(NewMemory {
            importance,
            session: label("session", session)?.or_else(|| own_label(&members, "session")),
            speaker: label("speaker", speaker)?.or_else(|| own_label(&members, "speaker")),
            source: label("source", source)?,
            emotion: label("emotion", emotion)?,
            occurred_at: occurred_at.map(|text| instant("occurred_at", &text)).transpose()?,
            id: id.map(|text| identity("id", &text)).transpose()?,
            at: at.map(|text| instant("at", &text)).transpose()?,
            content,
            metadata,
        })
    }
}

/// Reads the identity of a memory: a UUID in any of its spellings, but not the nil one.
///
/// # Errors
/// [`Invalid`] for that field.
pub fn identity(field: &'static str, text: &str) -> Result<Uuid, Invalid> {
    let id = Uuid::try_parse(text).ok().filter(|id| !id.is_nil());
    id.ok_or_else(|| Invalid::new(field, "must be a UUID such as 01980e4c-7a5e-7cc3-98c4-dc0c0c07398f, and not nil"))
}

pub(super) fn check_content(content: &str) -> Result<(), Invalid> {
    let length = content.chars().count();
    if !(1..=MAX_CONTENT_CHARS).contains(&length) {
        return Err(Invalid::new("content", format!("must have 1 to 10,000 characters; it has {length}")));
    }
    storable("content", content)?;
    if content.trim().is_empty() {
        return Err(Invalid::new("content", "must hold more than white space"));
    }
    Ok(())
}

pub(super) fn check_importance(given: f64) -> Result<f32, Invalid> {
    if (0.0..=1.0).contains(&given) {
        Ok(given as f32)
    } else {
        Err(Invalid::new("importance", "must be a number from 0 to 1"))
    }
}

/// Whether Postgres can hold the text: anything but NUL.
///
/// # Errors
/// [`Invalid`] for that field.
pub fn storable(field: &'static str, text: &str) -> Result<(), Invalid> {
    if text.contains('\0') { Err(Invalid::new(field, "must not contain the NUL character (U+0000)")) } else { Ok(()) }
}

fn label(field: &'static str, given: Option<String>) -> Result<Option<String>, Invalid> {
    let Some(text) = given else { return Ok(None) };
    storable(field, &text)?;
    match text.chars().count() {
        1..=MAX_LABEL_CHARS => Ok(Some(text)),
        length => Err(Invalid::new(field, format!("must have 1 to {MAX_LABEL_CHARS} characters; it has {length}"))),
    }
}

/// What clients of the earlier system put into metadata.
fn own_label(members: &Map<String, Value>, name: &str) -> Option<String> {
    members.get(name)?.as_str().filter(|text| (1..=MAX_LABEL_CHARS).contains(&text.chars().count())).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(body: Value) -> Result<NewMemory, Invalid> {
        serde_json::from_value::<Draft>(body).expect("a draft").check()
    }

    fn refused(body: Value) -> &'static str {
        check(body).expect_err("refused").field
    }

    #[test]
    fn content_is_counted_in_characters() {
        assert!(check(json!({ "content": "é".repeat(10_000) })).is_ok());
        for content in ["", "   \n", &"é".repeat(10_001), "a\0b"] {
            assert_eq!(refused(json!({ "content": content })), "content");
        }
    }

    #[test]
    fn importance_is_given_or_estimated_or_a_half() {
        let importance = |body| check(body).expect("valid").importance;
        assert!((importance(json!({ "content": "x" })) - 0.5).abs() < f32::EPSILON);
        assert!(
            (importance(json!({ "content": "x", "importance": 0.25, "auto_evaluate": true })) - 0.25).abs()
                < f32::EPSILON
        );
        assert!(importance(json!({ "content": "never forget the deadline", "auto_evaluate": true })) > 0.5);
        for importance in [-0.01, 1.01, 1e300] {
            assert_eq!(refused(json!({ "content": "x", "importance": importance })), "importance");
        }
    }

    #[test]
    fn metadata_is_bounded_in_size_and_depth_and_holds_no_nul() {
        let deep = (0..20).fold(json!(1), |inner, _| json!({ "a": inner }));
        for metadata in [json!({ "a": "x".repeat(17_000) }), deep, json!({ "a": ["b", "\0"] }), json!({ "\0": 1 })] {
            assert_eq!(refused(json!({ "content": "x", "metadata": metadata })), "metadata");
        }
        let ok = (0..15).fold(json!(1), |inner, _| json!({ "a": inner }));
        assert!(check(json!({ "content": "x", "metadata": ok })).is_ok());
    }

    #[test]
    fn session_and_speaker_come_from_metadata_when_not_given() {
        let memory =
            check(json!({ "content": "x", "speaker": "Ada", "metadata": { "session": "s1", "speaker": "Eve" } }));
        let memory = memory.expect("valid");
        assert_eq!((memory.session.as_deref(), memory.speaker.as_deref()), (Some("s1"), Some("Ada")));
    }

    #[test]
    fn an_identity_is_any_uuid_but_nil() {
        let id = json!("0198-not-a-uuid");
        for id in [id, json!(""), json!("00000000-0000-0000-0000-000000000000")] {
            assert_eq!(refused(json!({ "content": "x", "id": id })), "id");
        }
        let memory = check(json!({ "content": "x", "id": "01980e4c-7a5e-7cc3-98c4-dc0c0c07398f" })).expect("valid");
        assert_eq!(memory.id.map(|id| id.get_version_num()), Some(7));
        assert_eq!(refused(json!({ "content": "x", "at": "yesterday" })), "at");
    }

    proptest! {
        #[test]
        fn any_draft_is_taken_or_refused_without_a_panic(
            content in ".{0,40}", importance in proptest::option::of(proptest::num::f64::ANY), at in proptest::option::of(".{0,30}"),
        ) {
            let draft = Draft { content, importance, occurred_at: at, ..Draft::default() };
            if let Ok(memory) = draft.check() {
                prop_assert!((0.0..=1.0).contains(&memory.importance));
                prop_assert!(!memory.content.contains('\0'));
            }
        }
    }
}
