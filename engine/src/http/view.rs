//! A memory as clients read it.

use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::memory::Memory;

/// One memory in an answer.
#[derive(Serialize)]
pub(super) struct MemoryView {
    id: Uuid,
    content: String,
    zone: u8,
    score: f64,
    importance: f32,
    recall_count: i32,
    /// Only in answers of a recall.
    #[serde(skip_serializing_if = "Option::is_none")]
    relevance: Option<f32>,
    metadata: Map<String, Value>,
    session: Option<String>,
    speaker: Option<String>,
    source: Option<String>,
    emotion: Option<String>,
    agent: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    occurred_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    last_recalled_at: Option<OffsetDateTime>,
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
        } = memory;
        Self {
            id,
            content,
            zone,
            score,
            importance,
            recall_count,
            relevance,
            metadata,
            session,
            speaker,
            source,
            emotion,
            agent,
            occurred_at,
            created_at,
            last_recalled_at,
        }
    }
}

/// A page of a list.
#[derive(Serialize)]
pub(super) struct Page {
    /// How many there are in the whole list, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) total: Option<i64>,
    pub(super) items: Vec<MemoryView>,
    /// Where the next page begins; null at the end.
    pub(super) next_cursor: Option<String>,
}
