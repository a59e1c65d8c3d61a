//! Memories on their way out and in: whole tenants, a page or a batch a transaction.

use std::collections::HashSet;

use sqlx::{Row as _, postgres::PgRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Access, Caller, Store, StoreError, TenantTx,
    memories::{memory, memory_bytes, memory_columns},
    sql,
};
use crate::memory::{Memory, NewMemory, Standing, Zone};

/// A memory from elsewhere, with what happened to it there. Every bound holds.
#[derive(Clone, PartialEq, Debug)]
pub struct Arrival {
    /// Its identity; never nil.
    pub id: Uuid,
    /// What it is.
    pub memory: NewMemory,
    /// When it was stored; not later than now.
    pub created_at: OffsetDateTime,
    /// When it was written last; not later than now.
    pub written_at: OffsetDateTime,
    /// When a recall returned it last.
    pub last_recalled_at: Option<OffsetDateTime>,
    /// How many recalls returned it.
    pub recall_count: i32,
    /// Its relevance to the last one's query, 0 to 1.
    pub context: f32,
}

/// What became of an arrival.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrived {
    /// It is stored.
    Now,
    /// The tenant has a memory of that id, and keeps it as it is.
    Before,
}

impl Arrival {
    fn standing(&self) -> Standing {
        Standing {
            recalls: self.recall_count,
            importance: self.memory.importance,
            context: self.context,
            touched: self.last_recalled_at.unwrap_or(self.created_at),
        }
    }
}

impl Store {
    /// Stores what the tenant does not have yet and what fits into its quota, in one transaction; one result for each.
    ///
    /// # Errors
    /// [`StoreError`]: nothing was stored. Of a single one: [`StoreError::QuotaReached`].
    pub(super) async fn import(
        &self,
        caller: &Caller,
        arrivals: &[Arrival],
    ) -> Result<Vec<Result<Arrived, StoreError>>, StoreError> {
        let mut tx = self.begin(caller, Access::Write).await?;
        let usage = tx.usage();
        let mut room = match usage.memory_limit {
            ..0 => usize::MAX,
            limit => usize::try_from(limit - usage.memory_count).unwrap_or(0),
        };
        let mut there = tx.those_there(arrivals).await?;
        let (mut results, mut new, mut next_tier) = (Vec::with_capacity(arrivals.len()), Vec::new(), None);
        for arrival in arrivals {
            if there.contains(&arrival.id) {
                results.push(Ok(Arrived::Before));
            } else if room == 0 {
                let limit = i64::from(usage.memory_limit);
                if next_tier.is_none() {
                    next_tier = Some(tx.next_tier(limit).await?);
                }
                let used = i64::from(usage.memory_count) + new.len() as i64;
                results.push(Err(StoreError::QuotaReached { used, limit, next_tier: next_tier.clone().flatten() }));
            } else {
                room -= 1;
                there.insert(arrival.id);
                new.push(arrival);
                results.push(Ok(Arrived::Now));
            }
        }
        if !new.is_empty() {
            tx.take_in(&new, caller, OffsetDateTime::now_utc()).await?;
            tx.note_history(&new).await?;
        }
        tx.commit().await?;
        Ok(results)
    }
}

impl TenantTx {
    /// Reads a page of all memories, by rising id, of what comes after `after`: at most `limit`, and none after those that fill
    /// `bytes`. At the end, an empty one.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn export_page(&mut self, after: Uuid, limit: i64, bytes: usize) -> Result<Vec<Memory>, StoreError> {
        sql(concat!(
            "SELECT ",
            memory_columns!(),
            " FROM (
                 SELECT s.*, sum(s.size) OVER (ORDER BY s.id ROWS UNBOUNDED PRECEDING) AS filled
                 FROM (
                     SELECT ",
            memory_columns!(),
            ", ",
            memory_bytes!(),
            " AS size FROM stellar.memories m WHERE m.user_id = $1 AND m.id > $2 ORDER BY m.id LIMIT $3
                 ) s
             ) m
             WHERE m.filled - m.size < $4 ORDER BY m.id"
        ))
        .bind(self.tenant)
        .bind(after)
        .bind(limit)
        .bind(bytes as i64)
        .try_map(|row: PgRow| memory(&row))
        .fetch_all(&mut *self.tx)
        .await
        .map_err(StoreError::while_("export memories"))
    }

    async fn those_there(&mut self, arrivals: &[Arrival]) -> Result<HashSet<Uuid>, StoreError> {
        let ids: Vec<Uuid> = arrivals.iter().map(|arrival| arrival.id).collect();
        let rows = sql("SELECT m.id FROM stellar.memories m WHERE m.user_id = $1 AND m.id = ANY ($2::uuid[])")
            .bind(self.tenant)
            .bind(ids)
            .try_map(|row: PgRow| row.try_get(0))
            .fetch_all(&mut *self.tx)
            .await
            .map_err(StoreError::while_("look for memories that are there"))?;
        Ok(rows.into_iter().collect())
    }

    /// Who imports is who stores and wrote last: the log names this agent and key.
    async fn take_in(&mut self, new: &[&Arrival], caller: &Caller, now: OffsetDateTime) -> Result<(), StoreError> {
        let scores: Vec<_> = new.iter().map(|arrival| arrival.standing().anchored()).collect();
        let zones: Vec<i16> = scores.iter().map(|score| Zone::by_score(score.at(now)).number().into()).collect();
        sql("INSERT INTO stellar.memories
                 (user_id, id, content, metadata, session, speaker, occurred_at, source, agent, key_id, created_at, importance,
                  emotion, zone, total_score, written_at, written_by)
             SELECT $1, n.id, n.content, n.metadata, n.session, n.speaker, n.occurred_at, n.source, $2, $3, n.created_at,
                 n.importance, n.emotion, n.zone, n.total_score, least(n.written_at, now()), $2
             FROM unnest($4::uuid[], $5::text[], $6::jsonb[], $7::text[], $8::text[], $9::timestamptz[], $10::text[],
                 $11::timestamptz[], $12::real[], $13::text[], $14::smallint[], $15::real[],
                 $16::timestamptz[])
                 AS n (id, content, metadata, session, speaker, occurred_at, source, created_at, importance, emotion, zone,
                     total_score, written_at)")
        .bind(self.tenant)
        .bind(caller.agent.as_deref())
        .bind(caller.key)
        .bind(column(new, |a| a.id))
        .bind(column(new, |a| a.memory.content.as_str()))
        .bind(column(new, |a| Json(&a.memory.metadata)))
        .bind(column(new, |a| a.memory.session.as_deref()))
        .bind(column(new, |a| a.memory.speaker.as_deref()))
        .bind(column(new, |a| a.memory.occurred_at.unwrap_or(a.created_at)))
        .bind(column(new, |a| a.memory.source.as_deref()))
        .bind(column(new, |a| a.created_at))
        .bind(column(new, |a| a.memory.importance))
        .bind(column(new, |a| a.memory.emotion.as_deref()))
        .bind(zones)
        .bind(scores.iter().map(|score| score.to_stored()).collect::<Vec<f32>>())
        .bind(column(new, |a| a.written_at))
        .execute(&mut *self.tx)
        .await
        .map_err(StoreError::while_("import memories"))?;
        self.seq += new.len() as i64;
        Ok(())
    }

    /// Recalls cannot be inserted with a row, and are no change that the log tells.
    async fn note_history(&mut self, new: &[&Arrival]) -> Result<(), StoreError> {
        let recalled: Vec<&Arrival> =
            new.iter().copied().filter(|a| a.recall_count > 0 || a.last_recalled_at.is_some()).collect();
        if recalled.is_empty() {
            return Ok(());
        }
        sql("UPDATE stellar.memories m SET recall_count = n.recall_count, last_recalled_at = n.at
             FROM unnest($2::uuid[], $3::integer[], $4::timestamptz[]) AS n (id, recall_count, at)
             WHERE m.user_id = $1 AND m.id = n.id")
        .bind(self.tenant)
        .bind(column(&recalled, |a| a.id))
        .bind(column(&recalled, |a| a.recall_count))
        .bind(column(&recalled, |a| a.last_recalled_at))
        .execute(&mut *self.tx)
        .await
        .map_err(StoreError::while_("import recalls"))?;
        Ok(())
    }
}

fn column<'a, T>(arrivals: &[&'a Arrival], value: impl Fn(&'a Arrival) -> T) -> Vec<T> {
    arrivals.iter().map(|arrival| value(arrival)).collect()
}
