//! What moves memories between zones: notes of recalls, and the moves themselves.

use sqlx::{Row as _, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{StoreError, TenantTx, sql};
use crate::memory::{AnchoredScore, Move, Placed, Standing, Zone};

/// Notes of recalls that returned one memory.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Recalled {
    /// Which.
    pub id: Uuid,
    /// How many recalls.
    pub times: i32,
    /// The last of them.
    pub at: OffsetDateTime,
    /// Its relevance to that one's query, 0 to 1.
    pub relevance: f32,
}

fn placed(row: &PgRow) -> Result<Placed, sqlx::Error> {
    let zone: i16 = row.try_get(1)?;
    Ok(Placed {
        id: row.try_get(0)?,
        zone: Zone::from_number(zone.into()).ok_or_else(|| sqlx::Error::Decode("unknown zone".into()))?,
        score: AnchoredScore::from_stored(row.try_get(2)?),
    })
}

impl TenantTx {
    /// Counts recalls and renews the scores that follow from them. Returns the memories that are (still) there, with their
    /// new scores. Changes nothing that the log records.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn note_recalls(&mut self, recalls: &[Recalled]) -> Result<Vec<Placed>, StoreError> {
        let ids: Vec<Uuid> = recalls.iter().map(|recall| recall.id).collect();
        let rows: Vec<(Placed, i32, f32)> =
            sql("SELECT m.id, m.zone, m.total_score, m.recall_count, m.importance FROM stellar.memories m
                 WHERE m.user_id = $1 AND m.id = ANY ($2::uuid[])")
            .bind(self.tenant)
            .bind(&ids)
            .try_map(|row: PgRow| Ok((placed(&row)?, row.try_get(3)?, row.try_get(4)?)))
            .fetch_all(&mut *self.tx)
            .await
            .map_err(StoreError::while_("read what was recalled"))?;
        let mut noted = Vec::with_capacity(rows.len());
        let (mut ids, mut counts, mut times, mut scores) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (mut memory, count, importance) in rows {
            let Some(recall) = recalls.iter().find(|recall| recall.id == memory.id) else { continue };
            let count = count.saturating_add(recall.times);
            let standing = Standing { recalls: count, importance, context: recall.relevance, touched: recall.at };
            memory.score = standing.anchored();
            ids.push(memory.id);
            counts.push(count);
            times.push(recall.at);
            scores.push(memory.score.to_stored());
            noted.push(memory);
        }
        sql("UPDATE stellar.memories m
             SET recall_count = n.recall_count, last_recalled_at = greatest(m.last_recalled_at, n.at), total_score = n.score
             FROM unnest($2::uuid[], $3::integer[], $4::timestamptz[], $5::real[]) AS n (id, recall_count, at, score)
             WHERE m.user_id = $1 AND m.id = n.id")
        .bind(self.tenant)
        .bind(ids)
        .bind(counts)
        .bind(times)
        .bind(scores)
        .execute(&mut *self.tx)
        .await
        .map_err(StoreError::while_("note recalls"))?;
        Ok(noted)
    }

    /// The candidates for a bounded zone, by falling score: the first `Zone::BOUNDED_PLACES`, and whichever others are in
    /// such a zone now.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn orbit_candidates(&mut self) -> Result<Vec<Placed>, StoreError> {
        let mut ranked = sql("SELECT m.id, m.zone, m.total_score FROM stellar.memories m WHERE m.user_id = $1
                              ORDER BY m.total_score DESC, m.id DESC LIMIT $2")
        .bind(self.tenant)
        .bind(Zone::BOUNDED_PLACES as i64)
        .try_map(|row: PgRow| placed(&row))
        .fetch_all(&mut *self.tx)
        .await
        .map_err(StoreError::while_("rank memories"))?;
        if let Some(last) = ranked.last().copied().filter(|_| ranked.len() == Zone::BOUNDED_PLACES) {
            let others = sql("SELECT m.id, m.zone, m.total_score FROM stellar.memories m
                              WHERE m.user_id = $1 AND m.zone IN (0, 1, 2) AND (m.total_score, m.id) < ($2::real, $3::uuid)
                              ORDER BY m.total_score DESC, m.id DESC LIMIT $4")
            .bind(self.tenant)
            .bind(last.score.to_stored())
            .bind(last.id)
            .bind(MOVES_AT_ONCE)
            .try_map(|row: PgRow| placed(&row))
            .fetch_all(&mut *self.tx)
            .await
            .map_err(StoreError::while_("find memories that lost their place"))?;
            ranked.extend(others);
        }
        Ok(ranked)
    }

    /// Memories of the belt whose score is below `below`, but not below `from`. Few at once: whether that was all of them
    /// is the second value.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn forgotten(
        &mut self,
        from: Option<AnchoredScore>,
        below: AnchoredScore,
    ) -> Result<(Vec<Move>, bool), StoreError> {
        let moves = sql("SELECT m.id FROM stellar.memories m
                         WHERE m.user_id = $1 AND m.zone = 3 AND m.total_score < $2 AND m.total_score >= $3 LIMIT $4")
        .bind(self.tenant)
        .bind(below.to_stored())
        .bind(from.map_or(f32::NEG_INFINITY, AnchoredScore::to_stored))
        .bind(MOVES_AT_ONCE)
        .try_map(|row: PgRow| Ok(Move { id: row.try_get(0)?, to: Zone::Cloud }))
        .fetch_all(&mut *self.tx)
        .await
        .map_err(StoreError::while_("find forgotten memories"))?;
        let all = (moves.len() as i64) < MOVES_AT_ONCE;
        Ok((moves, all))
    }

    /// Puts memories into other zones, which the change log records.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn move_to_zones(&mut self, moves: &[Move]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = moves.iter().map(|one| one.id).collect();
        let zones: Vec<i16> = moves.iter().map(|one| one.to.number().into()).collect();
        let moved = sql("UPDATE stellar.memories m SET zone = n.zone
             FROM unnest($2::uuid[], $3::smallint[]) AS n (id, zone)
             WHERE m.user_id = $1 AND m.id = n.id AND m.zone <> n.zone")
        .bind(self.tenant)
        .bind(ids)
        .bind(zones)
        .execute(&mut *self.tx)
        .await
        .map_err(StoreError::while_("move memories between zones"))?;
        self.seq += moved.rows_affected() as i64;
        Ok(())
    }
}

/// Bounds the time of one transaction; what is left follows with the next one.
const MOVES_AT_ONCE: i64 = 2000;
