//! The tenant's change log.

use sqlx::{Row as _, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{StoreError, TenantTx, sql};

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Its number: 1, 2, 3, … without a gap.
    pub seq: i64,
    /// What happened.
    pub op: ChangeOp,
    /// To which memory.
    pub memory: Uuid,
    /// By which agent.
    pub agent: Option<String>,
    /// When.
    pub at: OffsetDateTime,
}

/// What happened to a memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeOp {
    /// It was stored.
    Store,
    /// Its content, metadata or importance was written.
    Update,
    /// Its zone changed, and nothing else.
    Move,
    /// It is gone.
    Remove,
}

impl ChangeOp {
    /// The word for clients.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Update => "update",
            Self::Move => "move",
            Self::Remove => "remove",
        }
    }

    fn read(word: &str) -> Result<Self, sqlx::Error> {
        match word {
            "store" => Ok(Self::Store),
            "update" => Ok(Self::Update),
            "move" => Ok(Self::Move),
            "forget" => Ok(Self::Remove),
            _ => Err(sqlx::Error::Decode("unknown op in the change log".into())),
        }
    }
}

impl TenantTx {
    /// The entries from `from` on, in order, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn changes(&mut self, from: i64, limit: i64) -> Result<Vec<Change>, StoreError> {
        sql("SELECT c.seq, c.op, c.memory_id, c.agent, c.at FROM stellar.changes c
             WHERE c.user_id = $1 AND c.seq >= $2 ORDER BY c.seq LIMIT $3")
        .bind(self.tenant)
        .bind(from)
        .bind(limit)
        .try_map(|row: PgRow| {
            Ok(Change {
                seq: row.try_get(0)?,
                op: ChangeOp::read(row.try_get(1)?)?,
                memory: row.try_get(2)?,
                agent: row.try_get(3)?,
                at: row.try_get(4)?,
            })
        })
        .fetch_all(&mut *self.tx)
        .await
        .map_err(StoreError::while_("read the change log"))
    }
}
