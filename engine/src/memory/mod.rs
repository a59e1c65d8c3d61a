//! What a memory is, and the rules that hold for it: limits, score, zones, narrative. Pure: no I/O, and the time
//! comes in as a parameter wherever a rule depends on it.

mod draft;
mod evaluate;
mod last_write;
mod metadata;
mod moment;
mod narrative;
mod patch;
mod score;
mod zone;

use time::OffsetDateTime;
use uuid::Uuid;

pub use draft::{Draft, Invalid, MAX_CONTENT_CHARS, MAX_LABEL_CHARS, NewMemory, identity, storable};
pub use evaluate::estimate_importance;
pub use last_write::{LastWrite, whole_microseconds};
pub use metadata::{Metadata, without_place};
pub use moment::{Edge, day_or_instant, instant};
pub use narrative::{in_order, narrative};
pub use patch::{Patch, PatchDraft};
pub use score::{AnchoredScore, Score, Standing, forgotten_below};
pub use zone::{Move, Placed, Zone, reorbit};

/// One memory, as Postgres holds it.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Its identity within its tenant (UUIDv7: in the order of storing).
    pub id: Uuid,
    /// The text, 1 to 10,000 characters.
    pub content: String,
    /// What the client attached.
    pub metadata: Metadata,
    /// The conversation that it belongs to.
    pub session: Option<String>,
    /// Who said it.
    pub speaker: Option<String>,
    /// When it happened, by the client's word; else when it was stored.
    pub occurred_at: OffsetDateTime,
    /// Where it comes from, by the client's word.
    pub source: Option<String>,
    /// The agent that stored it.
    pub agent: Option<String>,
    /// When it was stored.
    pub created_at: OffsetDateTime,
    /// When a recall returned it last.
    pub last_recalled_at: Option<OffsetDateTime>,
    /// How many recalls returned it.
    pub recall_count: i32,
    /// 0 to 1, as given or estimated.
    pub importance: f32,
    /// The client's word for its feeling.
    pub emotion: Option<String>,
    /// The zone at the last reorbit; [`Memory::zone_at`] is what a client reads.
    pub zone: Zone,
    /// The score, free of time.
    pub score: AnchoredScore,
    /// Its last write, by which the next one wins or not.
    pub last_write: LastWrite,
}

impl Memory {
    /// The zone now: where the last reorbit put it, or further out when its score has fallen since. Time alone never
    /// moves a memory inward, so the outer of the two is right.
    pub fn zone_at(&self, now: OffsetDateTime) -> Zone {
        self.zone.max(Zone::by_score(self.score.at(now)))
    }
}

/// A memory for tests.
#[cfg(test)]
pub(crate) fn sample(n: u128, content: &str) -> Memory {
    Memory {
        id: Uuid::from_u128(n),
        content: content.to_owned(),
        metadata: Metadata::default(),
        session: None,
        speaker: None,
        occurred_at: OffsetDateTime::UNIX_EPOCH,
        source: None,
        agent: None,
        created_at: OffsetDateTime::UNIX_EPOCH,
        last_recalled_at: None,
        recall_count: 0,
        importance: 0.5,
        emotion: None,
        zone: Zone::Outer,
        score: AnchoredScore::from_stored(0.0),
        last_write: LastWrite { at: OffsetDateTime::UNIX_EPOCH, by: None },
    }
}
