//! Memories as files hold them: our own lines, and the items of the earlier stellar-memory's export (`"version": "0.3.0"`).

use serde::Deserialize;
use serde_json::value::RawValue;
use sha1::{Digest, Sha1};
use tenancy::TenantId;
use time::{Duration, OffsetDateTime};
use uuid::{Builder, Uuid};

use crate::{
    memory::{Draft, Invalid, MAX_LABEL_CHARS, instant},
    store::Arrival,
};

/// Clocks differ. What is later than now by less than this is now.
const CLOCKS_DIFFER: Duration = Duration::hours(24);

/// A line of ours: the first, the last, or a memory. Fields that only tell (`zone`, `score`, `agent`) are passed over.
#[derive(Deserialize)]
pub(super) struct Line {
    /// Of the first line.
    pub(super) format: Option<String>,
    /// Of the first line.
    pub(super) version: Option<i64>,
    /// Of the last line.
    pub(super) end: Option<bool>,
    /// Of the last line.
    pub(super) count: Option<u64>,
    pub(super) content: Option<String>,
    id: Option<String>,
    user_id: Option<String>,
    importance: Option<f64>,
    metadata: Option<Box<RawValue>>,
    session: Option<String>,
    speaker: Option<String>,
    source: Option<String>,
    emotion: Option<String>,
    occurred_at: Option<String>,
    created_at: Option<String>,
    last_recalled_at: Option<String>,
    written_at: Option<String>,
    recall_count: Option<i64>,
    context: Option<f64>,
}

/// An item of the earlier system: times are seconds since 1970, and what was never recalled has the time of its storing as
/// that of its last recall. Its scores and zones follow from other rules, its vectors from another model: both are passed over.
#[derive(Deserialize)]
pub(super) struct EarlierItem {
    id: Option<String>,
    user_id: Option<String>,
    content: String,
    created_at: Option<f64>,
    last_recalled_at: Option<f64>,
    recall_count: Option<i64>,
    arbitrary_importance: Option<f64>,
    metadata: Option<Box<RawValue>>,
}

impl Line {
    /// The memory, for this tenant.
    pub(super) fn check(self, tenant: TenantId, now: OffsetDateTime) -> Result<Arrival, Invalid> {
        owned(self.user_id.as_deref(), tenant)?;
        let content = self.content.ok_or_else(|| Invalid::new("content", "is missing"))?;
        let time = |field, text: Option<String>| text.map(|text| past(field, instant(field, &text)?, now)).transpose();
        let memory = Draft {
            content,
            importance: self.importance,
            metadata: self.metadata,
            auto_evaluate: None,
            session: self.session,
            speaker: self.speaker,
            source: self.source,
            emotion: self.emotion,
            occurred_at: self.occurred_at,
            id: None,
            at: None,
        };
        let context = self.context.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&context) {
            return Err(Invalid::new("context", "must be a number from 0 to 1"));
        }
        let created_at = time("created_at", self.created_at)?.unwrap_or(now);
        Ok(Arrival {
            id: identity(self.id.as_deref(), tenant)?,
            memory: memory.check()?,
            created_at,
            written_at: time("written_at", self.written_at)?.unwrap_or(created_at),
            last_recalled_at: time("last_recalled_at", self.last_recalled_at)?,
            recall_count: recalls(self.recall_count)?,
            context: context as f32,
        })
    }
}

impl EarlierItem {
    /// The memory, for this tenant.
    pub(super) fn check(self, tenant: TenantId, now: OffsetDateTime) -> Result<Arrival, Invalid> {
        owned(self.user_id.as_deref(), tenant)?;
        let id = identity(self.id.as_deref(), tenant)?;
        let recall_count = recalls(self.recall_count)?;
        let time = |field, seconds: Option<f64>| seconds.map(|at| past(field, since_1970(field, at)?, now)).transpose();
        let created_at = time("created_at", self.created_at)?.unwrap_or(now);
        let last_recalled_at = time("last_recalled_at", self.last_recalled_at)?.filter(|_| recall_count > 0);
        let importance = self.arbitrary_importance;
        if importance.is_some_and(|importance| !(0.0..=1.0).contains(&importance)) {
            return Err(Invalid::new("arbitrary_importance", "must be a number from 0 to 1"));
        }
        let draft = Draft { content: self.content, importance, metadata: self.metadata, ..Draft::default() };
        let memory = draft.check()?;
        Ok(Arrival { id, memory, created_at, written_at: created_at, last_recalled_at, recall_count, context: 0.0 })
    }
}

/// Nobody's memories become the importing tenant's; those of another one do not.
fn owned(owner: Option<&str>, tenant: TenantId) -> Result<(), Invalid> {
    match owner {
        None => Ok(()),
        Some(owner) if Uuid::try_parse(owner) == Ok(tenant.uuid()) => Ok(()),
        Some(_) => {
            Err(Invalid::new("user_id", "is another owner: only memories of this tenant, or of nobody, are imported"))
        }
    }
}

/// The id itself, or of what is no UUID one that follows from it: the same each time, and another one for each tenant. The
/// nil UUID stands before all ids and is none.
fn identity(id: Option<&str>, tenant: TenantId) -> Result<Uuid, Invalid> {
    let id = id.ok_or_else(|| Invalid::new("id", "is missing: by it a repeated import stores nothing twice"))?;
    if !(1..=MAX_LABEL_CHARS).contains(&id.chars().count()) {
        return Err(Invalid::new("id", format!("must have 1 to {MAX_LABEL_CHARS} characters")));
    }
    Ok(Uuid::try_parse(id).ok().filter(|id| !id.is_nil()).unwrap_or_else(|| derived(tenant, id)))
}

/// A UUID of version 5 (RFC 9562 §5.5) with the tenant as the name space.
fn derived(tenant: TenantId, id: &str) -> Uuid {
    let hash = Sha1::new().chain_update(tenant.uuid().as_bytes()).chain_update(id.as_bytes()).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    Builder::from_sha1_bytes(bytes).into_uuid()
}

fn recalls(count: Option<i64>) -> Result<i32, Invalid> {
    let count = i32::try_from(count.unwrap_or(0)).ok().filter(|count| *count >= 0);
    count.ok_or_else(|| Invalid::new("recall_count", format!("must be a number from 0 to {}", i32::MAX)))
}

/// A score rises with the time: what is dated ahead would stay in the core.
fn past(field: &'static str, at: OffsetDateTime, now: OffsetDateTime) -> Result<OffsetDateTime, Invalid> {
    if at > now + CLOCKS_DIFFER { Err(Invalid::new(field, "must not be in the future")) } else { Ok(at.min(now)) }
}

fn since_1970(field: &'static str, seconds: f64) -> Result<OffsetDateTime, Invalid> {
    // Postgres counts microseconds. The conversion saturates, so what is beyond every instant overflows here.
    let nanos = ((seconds * 1e6).round() as i128).checked_mul(1000);
    let at = nanos.and_then(|nanos| OffsetDateTime::from_unix_timestamp_nanos(nanos).ok());
    at.filter(|at| (1..=9998).contains(&at.year()))
        .ok_or_else(|| Invalid::new(field, "must be a number of seconds since 1970"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use tenancy::LOCAL_TENANT;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-06-01 12:00 UTC);

    fn line(mut value: Value) -> Result<Arrival, Invalid> {
        if value["id"].is_null() {
            value["id"] = json!("a");
        }
        serde_json::from_value::<Line>(value).expect("a line").check(LOCAL_TENANT, NOW)
    }

    fn refused(value: Value) -> &'static str {
        line(value).expect_err("refused").field
    }

    #[test]
    fn an_id_is_kept_or_derived_the_same_way_each_time() {
        let id = |id: &str, tenant| identity(Some(id), tenant).expect("an id");
        let other: TenantId = "6f1d4b0e-8a52-4e0c-9d54-0b6a2f6f9f11".parse().expect("a UUID");
        assert_eq!(
            id("0198A000-0000-7000-8000-000000000001", LOCAL_TENANT).as_u128(),
            0x0198_a000_0000_7000_8000_0000_0000_0001
        );
        assert_eq!(id("note-1", other), id("note-1", other));
        assert_ne!(id("note-1", other), id("note-1", LOCAL_TENANT));
        assert_eq!(id("note-1", other).get_version_num(), 5);
        assert_eq!(id("00000000-0000-0000-0000-000000000000", other).get_version_num(), 5);
        assert!(identity(Some(""), other).is_err() && identity(None, other).is_err());
        // The example of RFC 9562, appendix A.4.
        let dns: TenantId = "6ba7b810-9dad-11d1-80b4-00c04fd430c8".parse().expect("a UUID");
        assert_eq!(id("www.example.com", dns).to_string(), "2ed6657d-e927-568b-95e1-2665a8aea6a2");
    }

    #[test]
    fn what_another_owns_is_refused() {
        assert!(line(json!({ "content": "x", "user_id": null })).is_ok());
        assert!(line(json!({ "content": "x", "user_id": LOCAL_TENANT.to_string() })).is_ok());
        for owner in ["6f1d4b0e-8a52-4e0c-9d54-0b6a2f6f9f11", "", "me"] {
            assert_eq!(refused(json!({ "content": "x", "user_id": owner })), "user_id");
        }
    }

    #[test]
    fn every_bound_holds_for_what_comes_from_a_file() {
        for (field, value) in [
            ("content", json!("")),
            ("importance", json!(1.5)),
            ("context", json!(-0.1)),
            ("recall_count", json!(-1)),
            ("recall_count", json!(3_000_000_000_i64)),
            ("created_at", json!("2027-01-01T00:00:00Z")),
            ("last_recalled_at", json!("yesterday")),
            ("occurred_at", json!("2026-03-01")),
            ("emotion", json!("")),
            ("metadata", json!({ "a": "x".repeat(17_000) })),
        ] {
            let mut row = json!({ "content": "x" });
            row[field] = value;
            assert_eq!(refused(row), field);
        }
        let clocks = line(json!({ "content": "x", "created_at": "2026-06-01T12:30:00Z" })).expect("clocks differ");
        assert_eq!(clocks.created_at, NOW);
    }

    #[test]
    fn integer_beyond_64_bits_names_metadata() {
        let read = |metadata: &str| {
            let line = format!("{{\"id\":\"a\",\"content\":\"x\",\"metadata\":{metadata}}}");
            let ours = serde_json::from_str::<Line>(&line).expect("a line").check(LOCAL_TENANT, NOW);
            let earlier = serde_json::from_str::<EarlierItem>(&line).expect("an item").check(LOCAL_TENANT, NOW);
            [ours, earlier].map(|checked| checked.map(|_| ()).map_err(|invalid| invalid.field))
        };
        assert_eq!(read("{\"n\":12345678901234567890123}"), [Err("metadata"), Err("metadata")]);
        assert_eq!(read("{\"n\":1234567890123456789}"), [Ok(()), Ok(())]);
    }

    #[test]
    fn an_item_of_the_earlier_system_keeps_its_history() {
        let item = json!({
            "id": "7b1f7a7e-3d1c-4a57-9a54-111111111111", "content": "Ada likes tea", "created_at": 1_767_225_600.25,
            "last_recalled_at": 1_769_904_000.0, "recall_count": 3, "arbitrary_importance": 0.8, "zone": 1,
            "metadata": { "session": "s1", "speaker": "Ada" }, "total_score": 0.61, "embedding_b64": "AAAA",
        });
        let read = |item: &Value| {
            serde_json::from_value::<EarlierItem>(item.clone()).expect("an item").check(LOCAL_TENANT, NOW)
        };
        let memory = read(&item).expect("valid");
        assert_eq!(memory.created_at, datetime!(2026-01-01 00:00:00.25 UTC));
        assert_eq!((memory.last_recalled_at, memory.recall_count), (Some(datetime!(2026-02-01 00:00 UTC)), 3));
        assert_eq!((memory.memory.session.as_deref(), memory.memory.speaker.as_deref()), (Some("s1"), Some("Ada")));
        let with = |field: &str, value: Value| {
            let mut item = item.clone();
            item[field] = value;
            read(&item)
        };
        assert_eq!(with("recall_count", json!(0)).expect("valid").last_recalled_at, None);
        for (field, value) in
            [("created_at", json!(1e300)), ("arbitrary_importance", json!(2)), ("user_id", json!("u"))]
        {
            assert_eq!(with(field, value).expect_err("refused").field, field);
        }
    }

    proptest! {
        #[test]
        fn any_number_of_seconds_is_read_or_refused_without_a_panic(seconds in proptest::num::f64::ANY) {
            let _ = since_1970("created_at", seconds);
        }
    }
}
