//! Memories: fetched, listed, counted.

use serde_json::value::RawValue;
use sqlx::{Row as _, postgres::PgRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{StoreError, TenantTx, sql};
use crate::memory::{AnchoredScore, LastWrite, Memory, Metadata, Zone};

macro_rules! memory_columns {
    () => {
        "m.id, m.content, m.metadata, m.session, m.speaker, m.occurred_at, m.source, m.agent, m.created_at, \
         m.last_recalled_at, m.recall_count, m.importance, m.emotion, m.zone, m.total_score, m.written_at, m.written_by"
    };
}
pub(super) use memory_columns;

/// About the bytes of a memory as JSON: its texts, and as much as names and numbers take. The length of a content is known
/// without reading it.
macro_rules! memory_bytes {
    () => {
        "(600 + octet_length(m.content) + octet_length(m.metadata::text) \
         + octet_length(concat(m.session, m.speaker, m.source, m.emotion)))"
    };
}
pub(super) use memory_bytes;

/// The zone that a client sees, as [`Memory::zone_at`] has it: `$2::real[]` are the lower bounds of core to belt now.
macro_rules! zone_now {
    () => {
        "greatest(m.zone, CASE WHEN m.total_score >= ($2::real[])[1] THEN 0 WHEN m.total_score >= ($2::real[])[2] THEN 1 \
         WHEN m.total_score >= ($2::real[])[3] THEN 2 WHEN m.total_score >= ($2::real[])[4] THEN 3 ELSE 4 END)"
    };
}

/// Memories whose contents, each of 10,000 characters at most, fit into a page of any size that is asked for.
const FEW_ROWS: usize = 8;

/// Rows for the index that fulfil a condition, as long as those before them do not fill `$3` bytes. The length of a text is
/// known without reading it.
macro_rules! index_rows {
    ($condition:literal) => {
        concat!(
            "SELECT r.id, r.content, r.session, r.speaker, r.occurred_at, r.emotion, r.total_score
             FROM (
                 SELECT p.*, sum(octet_length(p.content)) OVER (ORDER BY p.id ROWS UNBOUNDED PRECEDING) AS filled
                 FROM (
                     SELECT m.id, m.content, m.session, m.speaker, m.occurred_at, m.emotion, m.total_score
                     FROM stellar.memories m WHERE m.user_id = $1 AND ",
            $condition,
            "
                 ) p
             ) r
             WHERE r.filled - octet_length(r.content) < $3 ORDER BY r.id"
        )
    };
}

/// Where a page by falling score goes on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ListAfter {
    /// The score of the last item.
    pub score: AnchoredScore,
    /// Its identity.
    pub id: Uuid,
}

/// Where a page by time goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeAfter {
    /// The time of the last item.
    pub at: OffsetDateTime,
    /// Its identity.
    pub id: Uuid,
}

/// Which part of the list is wanted.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct MemoryPage {
    /// Only memories of this zone.
    pub zone: Option<Zone>,
    /// Only what comes after this.
    pub after: Option<ListAfter>,
    /// How many to pass over.
    pub offset: i64,
    /// How many at most.
    pub limit: i64,
}

/// A memory as the index needs it.
#[derive(Clone, Debug)]
pub struct IndexRow {
    /// Its identity.
    pub id: Uuid,
    /// The text.
    pub content: String,
    /// The conversation.
    pub session: Option<String>,
    /// Who said it.
    pub speaker: Option<String>,
    /// When it happened.
    pub occurred_at: OffsetDateTime,
    /// Its feeling.
    pub emotion: Option<String>,
    /// Its score.
    pub score: AnchoredScore,
}

/// A row of `memory_columns!`.
pub(super) fn memory(row: &PgRow) -> Result<Memory, sqlx::Error> {
    let Json(metadata) = row.try_get::<Json<Box<RawValue>>, _>("metadata")?;
    let zone: i16 = row.try_get("zone")?;
    Ok(Memory {
        id: row.try_get("id")?,
        content: row.try_get("content")?,
        metadata: Metadata::stored(metadata),
        session: row.try_get("session")?,
        speaker: row.try_get("speaker")?,
        occurred_at: row.try_get("occurred_at")?,
        source: row.try_get("source")?,
        agent: row.try_get("agent")?,
        created_at: row.try_get("created_at")?,
        last_recalled_at: row.try_get("last_recalled_at")?,
        recall_count: row.try_get("recall_count")?,
        importance: row.try_get("importance")?,
        emotion: row.try_get("emotion")?,
        zone: Zone::from_number(zone.into()).ok_or_else(|| sqlx::Error::Decode("unknown zone".into()))?,
        score: AnchoredScore::from_stored(row.try_get("total_score")?),
        last_write: LastWrite { at: row.try_get("written_at")?, by: row.try_get("written_by")? },
    })
}

fn index_row(row: &PgRow) -> Result<IndexRow, sqlx::Error> {
    Ok(IndexRow {
        id: row.try_get(0)?,
        content: row.try_get(1)?,
        session: row.try_get(2)?,
        speaker: row.try_get(3)?,
        occurred_at: row.try_get(4)?,
        emotion: row.try_get(5)?,
        score: AnchoredScore::from_stored(row.try_get(6)?),
    })
}

impl TenantTx {
    /// Those of the memories that are there, in no order.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn fetch(&mut self, ids: &[Uuid]) -> Result<Vec<Memory>, StoreError> {
        sql(concat!(
            "SELECT ",
            memory_columns!(),
            " FROM stellar.memories m WHERE m.user_id = $1 AND m.id = ANY ($2::uuid[])"
        ))
        .bind(self.tenant)
        .bind(ids)
        .try_map(|row: PgRow| memory(&row))
        .fetch_all(&mut *self.tx)
        .await
        .map_err(StoreError::while_("fetch memories"))
    }

    /// A page by falling score.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list(&mut self, page: MemoryPage, now: OffsetDateTime) -> Result<Vec<Memory>, StoreError> {
        let MemoryPage { zone, after, offset, limit } = page;
        sql(concat!(
            "SELECT ",
            memory_columns!(),
            " FROM stellar.memories m WHERE m.user_id = $1 AND ($3::integer IS NULL OR ",
            zone_now!(),
            " = $3) AND ($3 IS NULL OR m.total_score >= $4)
              AND ($5::real IS NULL OR (m.total_score, m.id) < ($5, $6::uuid))
              ORDER BY m.total_score DESC, m.id DESC LIMIT $7 OFFSET $8"
        ))
        .bind(self.tenant)
        .bind(zone_bounds(now))
        .bind(zone.map(|zone| i32::from(zone.number())))
        .bind(zone.map_or(f32::NEG_INFINITY, |zone| lower_bound(zone, now)))
        .bind(after.map(|after| after.score.to_stored()))
        .bind(after.map(|after| after.id))
        .bind(limit)
        .bind(offset)
        .try_map(|row: PgRow| memory(&row))
        .fetch_all(&mut *self.tx)
        .await
        .map_err(StoreError::while_("list memories"))
    }

    /// A page by rising time of what happened from `start` to `end`, both included.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn timeline(
        &mut self,
        start: Option<OffsetDateTime>,
        end: Option<OffsetDateTime>,
        after: Option<TimeAfter>,
        limit: i64,
    ) -> Result<Vec<Memory>, StoreError> {
        sql(concat!(
            "SELECT ",
            memory_columns!(),
            " FROM stellar.memories m WHERE m.user_id = $1
              AND ($2::timestamptz IS NULL OR m.occurred_at >= $2) AND ($3::timestamptz IS NULL OR m.occurred_at <= $3)
              AND ($4::timestamptz IS NULL OR (m.occurred_at, m.id) > ($4, $5::uuid))
              ORDER BY m.occurred_at, m.id LIMIT $6"
        ))
        .bind(self.tenant)
        .bind(start)
        .bind(end)
        .bind(after.map(|after| after.at))
        .bind(after.map(|after| after.id))
        .bind(limit)
        .try_map(|row: PgRow| memory(&row))
        .fetch_all(&mut *self.tx)
        .await
        .map_err(StoreError::while_("read the timeline"))
    }

    /// How many memories are in each zone, from the core outward.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn zone_counts(&mut self, now: OffsetDateTime) -> Result<[i64; 5], StoreError> {
        let rows: Vec<(i32, i64)> = sql(concat!(
            "SELECT z.zone, count(*) FROM (SELECT ",
            zone_now!(),
            "::integer AS zone FROM stellar.memories m WHERE m.user_id = $1) z GROUP BY z.zone"
        ))
        .bind(self.tenant)
        .bind(zone_bounds(now))
        .try_map(|row: PgRow| Ok((row.try_get(0)?, row.try_get(1)?)))
        .fetch_all(&mut *self.tx)
        .await
        .map_err(StoreError::while_("count memories by zone"))?;
        let mut counts = [0; 5];
        for (zone, count) in rows {
            if let Some(zone) = Zone::from_number(zone.into()) {
                counts[usize::from(zone.number())] = count;
            }
        }
        Ok(counts)
    }

    /// Reads a page for building an index, by rising id, of what comes after `after`: at most `limit` memories, and none
    /// after those that fill `bytes` of contents.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn index_page(&mut self, after: Uuid, limit: i64, bytes: usize) -> Result<Vec<IndexRow>, StoreError> {
        sql(index_rows!("m.id > $2 ORDER BY m.id LIMIT $4"))
            .bind(self.tenant)
            .bind(after)
            .bind(bytes as i64)
            .bind(limit)
            .try_map(|row: PgRow| index_row(&row))
            .fetch_all(&mut *self.tx)
            .await
            .map_err(StoreError::while_("read memories for the index"))
    }

    /// Reads those of the memories that are there, for the index, by rising id, and none after those that fill `bytes` of
    /// contents, save where they are very few.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn index_rows(&mut self, ids: &[Uuid], bytes: usize) -> Result<Vec<IndexRow>, StoreError> {
        if ids.len() <= FEW_ROWS {
            return self.few_index_rows(ids).await;
        }
        sql(index_rows!("m.id = ANY ($2::uuid[]) ORDER BY m.id"))
            .bind(self.tenant)
            .bind(ids)
            .bind(bytes as i64)
            .try_map(|row: PgRow| index_row(&row))
            .fetch_all(&mut *self.tx)
            .await
            .map_err(StoreError::while_("read memories for the index"))
    }
}

impl TenantTx {
    /// Few rows are few bytes: a statement that bounds them takes longer to plan than to carry out.
    async fn few_index_rows(&mut self, ids: &[Uuid]) -> Result<Vec<IndexRow>, StoreError> {
        sql("SELECT m.id, m.content, m.session, m.speaker, m.occurred_at, m.emotion, m.total_score FROM stellar.memories m
             WHERE m.user_id = $1 AND m.id = ANY ($2::uuid[]) ORDER BY m.id")
        .bind(self.tenant)
        .bind(ids)
        .try_map(|row: PgRow| index_row(&row))
        .fetch_all(&mut *self.tx)
        .await
        .map_err(StoreError::while_("read memories for the index"))
    }
}

fn lower_bound(zone: Zone, now: OffsetDateTime) -> f32 {
    AnchoredScore::lower_bound(zone, now).to_stored()
}

fn zone_bounds(now: OffsetDateTime) -> Vec<f32> {
    Zone::ALL[..4].iter().map(|zone| lower_bound(*zone, now)).collect()
}
