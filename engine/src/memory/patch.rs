//! A change of a memory as a client sends it, and the check that makes it one that can be carried out.

use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    Invalid, Metadata,
    draft::{check_content, check_importance},
    instant,
};

/// The body of `PATCH /memories/{id}`, not yet checked.
#[derive(Deserialize, Debug, Default, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UpdateRequest, description = "What is to be changed of a memory: at least one of `content`, `importance`, `metadata`.")]
pub struct PatchDraft {
    /// Another text.
    #[schema(min_length = 1, max_length = 10_000)]
    pub content: Option<String>,
    /// 0 to 1.
    #[schema(minimum = 0.0, maximum = 1.0, example = 0.9)]
    pub importance: Option<f64>,
    /// What stands in the place of all metadata there was.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Box<RawValue>>,
    /// When it was written, RFC 3339; now by default, and never taken for later.
    #[schema(format = DateTime)]
    pub at: Option<String>,
}

/// A change that may be carried out: every bound of [`super::NewMemory`] holds. What it does not name stays.
#[derive(Clone, PartialEq, Debug)]
pub struct Patch {
    /// Another text.
    pub content: Option<String>,
    /// 0 to 1.
    pub importance: Option<f32>,
    /// What stands in the place of all metadata there was.
    pub metadata: Option<Metadata>,
    /// When it was written, by the client's word; see [`super::LastWrite`].
    pub at: Option<OffsetDateTime>,
}

impl PatchDraft {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`Invalid`] names the first field that breaks one.
    pub fn check(self) -> Result<Patch, Invalid> {
        let Self { content, importance, metadata, at } = self;
        if content.is_none() && importance.is_none() && metadata.is_none() {
            return Err(Invalid::new(
                "content",
                "or `importance` or `metadata` is needed: nothing else can be changed",
            ));
        }
        if let Some(content) = &content {
            check_content(content)?;
        }
        let metadata = metadata.map(|given| Metadata::check(&given)).transpose()?;
        Ok(Patch {
            importance: importance.map(check_importance).transpose()?,
            at: at.map(|text| instant("at", &text)).transpose()?,
            content,
            metadata: metadata.map(|(metadata, _)| metadata),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(body: Value) -> Result<Patch, Invalid> {
        serde_json::from_value::<PatchDraft>(body).expect("a patch").check()
    }

    #[test]
    fn at_least_one_field_is_needed_and_a_null_names_none() {
        for body in [json!({}), json!({ "at": "2026-03-01T09:30:00Z" }), json!({ "content": null })] {
            assert_eq!(check(body).expect_err("refused").field, "content");
        }
        let patch = check(json!({ "metadata": {} })).expect("valid");
        assert_eq!((patch.metadata, patch.content, patch.importance), (Some(Metadata::default()), None, None));
    }

    #[test]
    fn every_bound_of_a_store_holds() {
        for (field, body) in [
            ("content", json!({ "content": "  " })),
            ("importance", json!({ "importance": 1.01 })),
            ("metadata", json!({ "metadata": { "a": "x".repeat(17_000) } })),
            ("at", json!({ "content": "x", "at": "yesterday" })),
        ] {
            assert_eq!(check(body).expect_err("refused").field, field);
        }
        assert!(serde_json::from_value::<PatchDraft>(json!({ "session": "x" })).is_err(), "it cannot be changed");
    }
}
