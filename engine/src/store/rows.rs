//! The statements that write memories. Each moves the tenant's log, which the triggers of the schema keep, and
//! [`TenantTx::seq`] with it: under the lock of the usage row nobody else does.

use std::collections::HashMap;

use sqlx::{Row as _, postgres::PgRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Caller, StoreError, TenantTx, sql};
use crate::memory::{AnchoredScore, LastWrite, NewMemory, Patch, Zone};

/// A memory that is about to be stored.
pub(super) struct Insert<'a> {
    pub(super) id: Uuid,
    pub(super) memory: &'a NewMemory,
    pub(super) agent: Option<&'a str>,
    pub(super) key: Option<Uuid>,
    pub(super) zone: Zone,
    pub(super) score: AnchoredScore,
    /// The client's time for it, in whole microseconds. Where it is later than the clock, the clock's counts.
    pub(super) at: Option<OffsetDateTime>,
}

/// What decides about a write of a memory that is there.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) importance: f32,
    pub(super) zone: Zone,
    pub(super) score: AnchoredScore,
    pub(super) last_write: LastWrite,
}

/// What is there before writes are decided.
pub(super) struct Before {
    /// The database's clock.
    pub(super) clock: OffsetDateTime,
    /// The memories that are there.
    pub(super) known: HashMap<Uuid, Known>,
    /// When memories were removed last, as far as the log reaches back.
    pub(super) removed: HashMap<Uuid, OffsetDateTime>,
}

fn known(row: &PgRow) -> Result<Known, sqlx::Error> {
    let zone: i16 = row.try_get("zone")?;
    Ok(Known {
        importance: row.try_get("importance")?,
        zone: Zone::from_number(zone.into()).ok_or_else(|| sqlx::Error::Decode("unknown zone".into()))?,
        score: AnchoredScore::from_stored(row.try_get("total_score")?),
        last_write: LastWrite { at: row.try_get("written_at")?, by: row.try_get("written_by")? },
    })
}

impl TenantTx {
    /// The number of the last change, those of this transaction included.
    pub(super) fn seq(&self) -> i64 {
        self.seq
    }

    /// Whose the updates and removals are that follow.
    pub(super) async fn attribute(&mut self, caller: &Caller) -> Result<(), StoreError> {
        sql("SELECT set_config('app.agent', coalesce($1, ''), true),
                 set_config('app.key_id', coalesce($2::uuid::text, ''), true)")
        .bind(caller.agent.as_deref())
        .bind(caller.key)
        .execute(&mut *self.tx)
        .await
        .map_err(StoreError::while_("name the agent"))?;
        Ok(())
    }

    /// Reads what decides about writes of the memories `ids`, and about storing `new` ones of them.
    pub(super) async fn before(&mut self, ids: &[Uuid], new: &[Uuid]) -> Result<Before, StoreError> {
        let read = StoreError::while_("look at what is to be written");
        let rows = sql("SELECT c.now AS at, m.id, m.importance, m.zone, m.total_score, m.written_at, m.written_by,
                            false AS is_removal
                        FROM (SELECT clock_timestamp() AS now) c
                        LEFT JOIN stellar.memories m ON m.user_id = $1 AND m.id = ANY ($2::uuid[])
                        UNION ALL
                        SELECT max(f.at), f.memory_id, NULL, NULL, NULL, NULL, NULL, true
                        FROM stellar.changes f
                        WHERE f.user_id = $1 AND f.memory_id = ANY ($3::uuid[]) AND f.op = 'forget'
                        GROUP BY f.memory_id")
        .bind(self.tenant)
        .bind(ids)
        .bind(new)
        .fetch_all(&mut *self.tx)
        .await;
        rows.and_then(|rows| {
            let (mut clock, mut known_ones, mut removed) = (None, HashMap::new(), HashMap::new());
            for row in &rows {
                let (id, at) = (row.try_get::<Option<Uuid>, _>("id")?, row.try_get("at")?);
                match (row.try_get("is_removal")?, id) {
                    (true, Some(id)) => drop(removed.insert(id, at)),
                    (true, None) => {}
                    (false, id) => {
                        clock = Some(at);
                        if let Some(id) = id {
                            known_ones.insert(id, known(row)?);
                        }
                    }
                }
            }
            Ok(Before { clock: clock.ok_or(sqlx::Error::RowNotFound)?, known: known_ones, removed })
        })
        .map_err(read)
    }

    /// Stores them all or none; the log has them in this order. `clock`: the database's, where it was read already.
    ///
    /// The trigger numbers the rows of one statement by `created_at`, so each is a microsecond later than the one before.
    pub(super) async fn insert(
        &mut self,
        inserts: &[Insert<'_>],
        clock: Option<OffsetDateTime>,
    ) -> Result<(), StoreError> {
        fn column<'a, T>(inserts: &[Insert<'a>], value: impl Fn(&Insert<'a>) -> T) -> Vec<T> {
            inserts.iter().map(value).collect()
        }
        sql("INSERT INTO stellar.memories
                 (user_id, id, content, metadata, session, speaker, occurred_at, source, agent, key_id, importance, emotion, zone,
                  total_score, created_at, written_at, written_by)
             SELECT $1, n.id, n.content, n.metadata, n.session, n.speaker, coalesce(n.occurred_at, now()), n.source, n.agent,
                 n.key_id, n.importance, n.emotion, n.zone, n.total_score, c.now + n.place * interval '1 microsecond',
                 least(n.at, c.now), n.agent
             FROM unnest($2::uuid[], $3::text[], $4::jsonb[], $5::text[], $6::text[], $7::timestamptz[], $8::text[], $9::text[],
                 $10::uuid[], $11::real[], $12::text[], $13::smallint[], $14::real[], $15::timestamptz[]) WITH ORDINALITY
                 AS n (id, content, metadata, session, speaker, occurred_at, source, agent, key_id, importance, emotion, zone,
                     total_score, at, place),
                 (SELECT coalesce($16::timestamptz, clock_timestamp()) AS now) c")
        .bind(self.tenant)
        .bind(column(inserts, |i| i.id))
        .bind(column(inserts, |i| i.memory.content.as_str()))
        .bind(column(inserts, |i| Json(&i.memory.metadata)))
        .bind(column(inserts, |i| i.memory.session.as_deref()))
        .bind(column(inserts, |i| i.memory.speaker.as_deref()))
        .bind(column(inserts, |i| i.memory.occurred_at))
        .bind(column(inserts, |i| i.memory.source.as_deref()))
        .bind(column(inserts, |i| i.agent))
        .bind(column(inserts, |i| i.key))
        .bind(column(inserts, |i| i.memory.importance))
        .bind(column(inserts, |i| i.memory.emotion.as_deref()))
        .bind(column(inserts, |i| i16::from(i.zone.number())))
        .bind(column(inserts, |i| i.score.to_stored()))
        .bind(column(inserts, |i| i.at))
        .bind(clock)
        .execute(&mut *self.tx)
        .await
        .map_err(StoreError::while_("store memories"))?;
        self.seq += inserts.len() as i64;
        Ok(())
    }

    /// Writes a memory that is there. A write that changes nothing at all, not even the time of the last write, leaves
    /// no trace in the log.
    pub(super) async fn update(&mut self, id: Uuid, patch: &Patch, after: &Known) -> Result<(), StoreError> {
        let Known { importance: _, zone, score, last_write } = after;
        let done = sql("UPDATE stellar.memories m
             SET content = coalesce($3::text, m.content), metadata = coalesce($4::jsonb, m.metadata),
                 importance = coalesce($5::real, m.importance), zone = $6, total_score = $7, written_at = $8, written_by = $9
             WHERE m.user_id = $1 AND m.id = $2
                 AND (m.content, m.metadata, m.importance, m.written_at, m.written_by) IS DISTINCT FROM
                     (coalesce($3, m.content), coalesce($4, m.metadata), coalesce($5, m.importance), $8::timestamptz, $9::text)")
        .bind(self.tenant)
        .bind(id)
        .bind(patch.content.as_deref())
        .bind(patch.metadata.as_ref().map(Json))
        .bind(patch.importance)
        .bind(i16::from(zone.number()))
        .bind(score.to_stored())
        .bind(last_write.at)
        .bind(last_write.by.as_deref())
        .execute(&mut *self.tx)
        .await
        .map_err(StoreError::while_("update a memory"))?;
        self.seq += done.rows_affected() as i64;
        Ok(())
    }

    /// Removes a memory for good. False: there is none of that id.
    pub(super) async fn remove(&mut self, id: Uuid) -> Result<bool, StoreError> {
        let removed: bool = sql("SELECT stellar.forget($1)")
            .bind(id)
            .fetch_one(&mut *self.tx)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(StoreError::while_("forget a memory"))?;
        self.seq += i64::from(removed);
        Ok(removed)
    }

    /// The smallest tier that allows more than `limit` memories.
    pub(super) async fn next_tier(&mut self, limit: i64) -> Result<Option<String>, StoreError> {
        let row = sql("SELECT t.name FROM stellar.tiers t WHERE t.max_memories = -1 OR t.max_memories > $1
                       ORDER BY t.max_memories = -1, t.max_memories, t.name LIMIT 1")
        .bind(limit)
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(StoreError::while_("look for a larger tier"))?;
        row.map(|row| row.try_get(0)).transpose().map_err(StoreError::while_("look for a larger tier"))
    }
}
