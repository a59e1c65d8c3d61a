//! What was done: the change log and the audit as one list, newest first. The log tells of memories, the audit of the tenant
//! itself (keys, tier, placement). Each is read by its own index and both are merged, so a page costs the same however long
//! they are.

use std::iter::Peekable;

use sqlx::{Row as _, postgres::PgRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{StoreError, TenantTx, sql};

/// One thing that was done.
#[derive(Clone, PartialEq, Debug)]
pub struct AuditEntry {
    /// When.
    pub at: OffsetDateTime,
    /// What, in kebab-case: `store`, `update`, `forget`, `api-key-created`, `tier-changed`…
    pub what: String,
    /// By which agent; nothing where the platform did it.
    pub agent: Option<String>,
    /// With which API key, by its id.
    pub key: Option<Uuid>,
    /// To which memory.
    pub memory: Option<Uuid>,
    /// What else is to be known.
    pub detail: Option<serde_json::Value>,
    /// Where it was written.
    pub place: AuditPlace,
}

/// Where an entry was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuditPlace {
    /// In the change log, under this number.
    Log(i64),
    /// In the audit, under this id.
    Audit(Uuid),
}

/// How far both lists are read: everything that comes next is older.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuditAfter {
    /// The number of the last change read.
    pub seq: i64,
    /// Instant and id of the last entry of the audit read.
    pub audit: (OffsetDateTime, Uuid),
}

impl AuditAfter {
    /// Before the newest.
    pub fn start() -> Self {
        // The year 9999: later than anything, and within what Postgres and a cursor hold.
        Self { seq: i64::MAX, audit: (OffsetDateTime::new_utc(time::Date::MAX, time::Time::MIDNIGHT), Uuid::max()) }
    }

    fn past(self, entry: &AuditEntry) -> Self {
        match entry.place {
            AuditPlace::Log(seq) => Self { seq, ..self },
            AuditPlace::Audit(id) => Self { audit: (entry.at, id), ..self },
        }
    }
}

/// The newest `limit` entries of both lists, each of which is in its own order, and how far that is. No place: that is all.
fn merge(
    after: AuditAfter,
    log: Vec<AuditEntry>,
    audit: Vec<AuditEntry>,
    limit: usize,
) -> (Vec<AuditEntry>, Option<AuditAfter>) {
    let (mut log, mut audit) = (log.into_iter().peekable(), audit.into_iter().peekable());
    let newest = |list: &mut Peekable<_>| list.peek().map(|entry: &AuditEntry| entry.at);
    let (mut merged, mut reached) = (Vec::new(), after);
    while merged.len() < limit {
        let list = if newest(&mut log) >= newest(&mut audit) { &mut log } else { &mut audit };
        let Some(entry) = list.next() else { break };
        reached = reached.past(&entry);
        merged.push(entry);
    }
    let more = log.peek().is_some() || audit.peek().is_some();
    (merged, more.then_some(reached))
}

impl TenantTx {
    /// What was done, newest first, at most `limit` entries after `after`, and where to go on if there is more.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn audit(
        &mut self,
        after: AuditAfter,
        limit: usize,
    ) -> Result<(Vec<AuditEntry>, Option<AuditAfter>), StoreError> {
        self.prefer_index_order().await?;
        let one_more = limit as i64 + 1;
        let log = sql("SELECT c.seq, c.at, c.op, c.agent, c.key_id, c.memory_id FROM stellar.changes c
                       WHERE c.user_id = $1 AND c.seq < $2 ORDER BY c.seq DESC LIMIT $3")
        .bind(self.tenant)
        .bind(after.seq)
        .bind(one_more)
        .try_map(|row: PgRow| {
            Ok(AuditEntry {
                place: AuditPlace::Log(row.try_get(0)?),
                at: row.try_get(1)?,
                what: row.try_get(2)?,
                agent: row.try_get(3)?,
                key: row.try_get(4)?,
                memory: Some(row.try_get(5)?),
                detail: None,
            })
        })
        .fetch_all(&mut *self.tx)
        .await
        .map_err(StoreError::while_("read the change log"))?;
        let audit = sql("SELECT a.id, a.at, a.what, a.agent, a.key_id, a.detail FROM stellar.audit a
                         WHERE a.user_id = $1 AND (a.at, a.id) < ($2, $3) ORDER BY a.at DESC, a.id DESC LIMIT $4")
        .bind(self.tenant)
        .bind(after.audit.0)
        .bind(after.audit.1)
        .bind(one_more)
        .try_map(|row: PgRow| {
            let Json(detail) = row.try_get::<Json<serde_json::Value>, _>(5)?;
            Ok(AuditEntry {
                place: AuditPlace::Audit(row.try_get(0)?),
                at: row.try_get(1)?,
                what: row.try_get(2)?,
                agent: row.try_get(3)?,
                key: row.try_get(4)?,
                memory: None,
                detail: Some(detail),
            })
        })
        .fetch_all(&mut *self.tx)
        .await
        .map_err(StoreError::while_("read the audit"))?;
        Ok(merge(after, log, audit, limit))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(second: i64, place: AuditPlace) -> AuditEntry {
        let at = OffsetDateTime::from_unix_timestamp(second).expect("in range");
        AuditEntry { at, what: "store".to_owned(), agent: None, key: None, memory: None, detail: None, place }
    }

    /// What the database answers after a place.
    fn read(log: &[AuditEntry], audit: &[AuditEntry], after: AuditAfter, most: usize) -> [Vec<AuditEntry>; 2] {
        let older = |entry: &&AuditEntry| match entry.place {
            AuditPlace::Log(seq) => seq < after.seq,
            AuditPlace::Audit(id) => (entry.at, id) < after.audit,
        };
        [log, audit].map(|list| list.iter().filter(older).take(most).cloned().collect())
    }

    proptest! {
        #[test]
        fn pages_together_are_all_entries_once(
            log in prop::collection::vec(0i64..50, 0..30),
            audit in prop::collection::vec(0i64..50, 0..30),
            limit in 1usize..7,
        ) {
            // The log's instants may be out of order by a little: its numbers count.
            let log: Vec<_> = log.iter().enumerate().rev().map(|(n, at)| entry(*at, AuditPlace::Log(n as i64))).collect();
            let mut audit: Vec<_> =
                audit.iter().enumerate().map(|(n, at)| entry(*at, AuditPlace::Audit(Uuid::from_u128(n as u128)))).collect();
            audit.sort_by_key(|entry| std::cmp::Reverse((entry.at, match entry.place {
                AuditPlace::Audit(id) => id,
                AuditPlace::Log(_) => Uuid::nil(),
            })));
            let (mut after, mut all) = (Some(AuditAfter::start()), Vec::new());
            while let Some(place) = after {
                let [first, second] = read(&log, &audit, place, limit + 1);
                let (page, next) = merge(place, first, second, limit);
                prop_assert!(page.len() <= limit && (next.is_none() || page.len() == limit));
                all.extend(page);
                after = next;
            }
            prop_assert_eq!(all.len(), log.len() + audit.len());
            for entry in log.iter().chain(&audit) {
                prop_assert_eq!(all.iter().filter(|found| found.place == entry.place).count(), 1);
            }
        }
    }
}
