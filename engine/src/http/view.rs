//! A memory as clients read it.

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::memory::{LastWrite, Memory, Metadata};

/// A memory as it is now.
#[derive(Serialize, ToSchema)]
#[schema(as = Memory)]
pub(super) struct MemoryView {
    id: Uuid,
    #[schema(example = "Ada prefers night flights to Lisbon")]
    content: String,
    /// From 0 (core) to 4 (cloud).
    #[schema(minimum = 0, maximum = 4, example = 2)]
    zone: u8,
    /// Falls with time, rises with recalls and importance.
    #[schema(example = 0.42)]
    score: f64,
    #[schema(minimum = 0.0, maximum = 1.0)]
    importance: f32,
    #[schema(minimum = 0)]
    recall_count: i32,
    /// How well it answers, from 0 to 1, rounded to 4 places as the score is, so that equal answers look equal. Only in
    /// answers of a recall.
    #[schema(value_type = f32, required = false, minimum = 0.0, maximum = 1.0)]
    #[serde(skip_serializing_if = "Option::is_none")]
    relevance: Option<f32>,
    #[schema(value_type = Object)]
    metadata: Metadata,
    #[schema(required = true)]
    session: Option<String>,
    #[schema(required = true)]
    speaker: Option<String>,
    #[schema(required = true)]
    source: Option<String>,
    #[schema(required = true)]
    emotion: Option<String>,
    /// Who stored it.
    #[schema(required = true)]
    agent: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    occurred_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required = true)]
    last_recalled_at: Option<OffsetDateTime>,
    /// The time of its last write, by which the next one wins or not.
    #[serde(with = "time::serde::rfc3339")]
    written_at: OffsetDateTime,
    /// The agent of its last write.
    #[schema(required = true)]
    written_by: Option<String>,
}

impl MemoryView {
    /// As it is now.
    pub(super) fn new(memory: Memory, relevance: Option<f32>, now: OffsetDateTime) -> Self {
        let (zone, score) = (memory.zone_at(now).number(), memory.score.at(now).value());
        // What reorbit works with is told by `zone` and `score`.
        let Memory {
            id,
            content,
            metadata,
            session,
            speaker,
            occurred_at,
            source,
            agent,
            created_at,
            last_recalled_at,
            recall_count,
            importance,
            emotion,
            zone: _,
            score: _,
            last_write: LastWrite { at: written_at, by: written_by },
        } = memory;
        Self {
            id,
            content,
            zone,
            score,
            importance,
            recall_count,
            relevance: relevance.map(rounded),
            metadata,
            session,
            speaker,
            source,
            emotion,
            agent,
            occurred_at,
            created_at,
            last_recalled_at,
            written_at,
            written_by,
        }
    }
}

/// To 4 places.
pub(super) fn rounded(value: f32) -> f32 {
    ((f64::from(value) * 10_000.0).round() / 10_000.0) as f32
}

/// A page of memories.
#[derive(Serialize, ToSchema)]
#[schema(as = MemoryPage)]
pub(super) struct Page {
    /// How many there are in the whole list, where that is known.
    #[schema(value_type = i64, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) total: Option<i64>,
    pub(super) items: Vec<MemoryView>,
    /// Where the next page begins; null at the end.
    #[schema(required = true)]
    pub(super) next_cursor: Option<String>,
}
