//! What a client asks to be written, and what it is answered.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::memory::{NewMemory, Patch};

/// One operation.
#[derive(Clone, Debug)]
pub struct Write {
    /// What is to be done.
    pub what: What,
    /// Under which name it happens once; without one it happens each time that it is asked for.
    pub once: Option<Once>,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum What {
    /// A new memory.
    Store(Box<NewMemory>),
    /// Other contents for a memory.
    Update {
        /// Which.
        id: Uuid,
        /// What of it.
        patch: Patch,
    },
    /// A memory is to be gone for good.
    Remove {
        /// Which.
        id: Uuid,
        /// When that was decided, by the client's word; see [`crate::memory::LastWrite`].
        at: Option<OffsetDateTime>,
    },
}

/// The name of an operation that happens once: asked for again within a day it is answered as the first time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Once {
    /// 1 to 255 characters, of the tenant's own.
    pub id: String,
    /// SHA-256 of what is asked for: anything else under the same name is refused.
    pub request_hash: [u8; 32],
}

/// What became of an operation. Kept under the operation's name, as JSON.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Written {
    /// The memory.
    pub id: Uuid,
    /// Its zone after this; nothing if it is gone or was left alone.
    pub zone: Option<u8>,
    /// Its score after this, likewise.
    pub score: Option<f64>,
    /// The number of the change in the log; nothing if nothing was changed.
    pub seq: Option<i64>,
    /// Why nothing was changed; nothing if something was.
    pub reason: Option<Reason>,
    /// Whether this answers a repetition.
    #[serde(skip)]
    pub replayed: bool,
}

/// Why an operation was decided against.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// The memory's last write is later.
    Newer,
    /// The tenant has no memory of that id (any more); or what would be stored is not later than the removal of that id.
    Removed,
}

impl What {
    /// The memory that must be looked at before this is carried out.
    pub(super) fn concerns(&self) -> Option<Uuid> {
        match self {
            Self::Store(memory) => memory.id,
            Self::Update { id, .. } | Self::Remove { id, .. } => Some(*id),
        }
    }
}

impl Write {
    /// The identity that a client gave to a new memory.
    pub(super) fn stores(&self) -> Option<Uuid> {
        match &self.what {
            What::Store(memory) => memory.id,
            What::Update { .. } | What::Remove { .. } => None,
        }
    }
}

impl Written {
    /// Nothing was changed.
    pub(super) fn not(id: Uuid, reason: Reason) -> Self {
        Self { id, zone: None, score: None, seq: None, reason: Some(reason), replayed: false }
    }

    /// Whether it was done.
    pub fn applied(&self) -> bool {
        self.reason.is_none()
    }
}
