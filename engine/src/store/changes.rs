//! The tenant's change log.

use std::collections::HashMap;

use sqlx::{Row as _, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{StoreError, TenantTx, memories::memory_bytes, sql};

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

    /// Tells about how many bytes those of the memories that are there take as JSON, without reading their contents.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn sizes(&mut self, ids: &[Uuid]) -> Result<HashMap<Uuid, usize>, StoreError> {
        let rows = sql(concat!(
            "SELECT m.id, ",
            memory_bytes!(),
            " FROM stellar.memories m WHERE m.user_id = $1 AND m.id = ANY ($2::uuid[])"
        ))
        .bind(self.tenant)
        .bind(ids)
        .try_map(|row: PgRow| Ok((row.try_get(0)?, row.try_get::<i32, _>(1)? as usize)))
        .fetch_all(&mut *self.tx)
        .await
        .map_err(StoreError::while_("measure memories"))?;
        Ok(rows.into_iter().collect())
    }
}
