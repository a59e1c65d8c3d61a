//! How a corpus becomes fresh: by the log where it reaches back far enough, else by building it anew.

use std::{sync::Arc, time::Instant};

use uuid::Uuid;

use super::{
    Indexes,
    tenant::{Position, TenantIndex, document},
};
use crate::{
    recall::Corpus,
    store::{Access, Caller, Change, StoreError, TenantTx},
};

/// A corpus that is further behind is built anew: reading the rows in order is then cheaper than picking them.
const MOST_CHANGES: i64 = 2000;
const PAGE: i64 = 2000;

impl Indexes {
    /// Applies the log up to `wanted` at least. False: it must be built anew.
    pub(super) async fn catch_up(
        &self,
        index: &TenantIndex,
        tx: &mut TenantTx,
        wanted: i64,
    ) -> Result<bool, StoreError> {
        if index.position().is_none() {
            return Ok(false);
        }
        // Bounded by one short reading of the log, so waiting for it may hold a connection.
        let _turn = index.turn.acquire().await.map_err(|_| StoreError::Lost("refresh an index"))?;
        let Some(have) = index.position() else { return Ok(false) };
        if have.seq >= wanted {
            return Ok(true);
        }
        // The entry that was applied last is read again: it must still be the same.
        let changes = tx.changes(have.seq.max(1), MOST_CHANGES + 1).await?;
        let Some(new) = continuation(have, &changes, wanted) else { return Ok(false) };
        let mut ids: Vec<Uuid> = new.iter().map(|change| change.memory).collect();
        ids.sort_unstable();
        ids.dedup();
        let rows = tx.index_rows(&ids).await?;
        index.apply(new, &rows);
        self.0.metrics.changes.inc_by(new.len() as u64);
        Ok(true)
    }

    /// Builds the corpus, unless somebody else just did. Goes on when the caller stops waiting, so that a client with
    /// little patience does not make it start over for ever.
    pub(super) async fn build(&self, index: Arc<TenantIndex>, caller: &Caller) -> Result<(), StoreError> {
        let before = index.position();
        let lost = || StoreError::Lost("build an index");
        let turn = index.turn.clone().acquire_owned().await.map_err(|_| lost())?;
        if index.position() != before {
            return Ok(());
        }
        let (indexes, caller) = (self.clone(), caller.clone());
        let task = self.0.tasks.spawn(async move {
            let result = indexes.read_all(&index, &caller).await;
            drop(turn);
            result
        });
        task.await.map_err(|_| lost())?
    }

    async fn read_all(&self, index: &TenantIndex, caller: &Caller) -> Result<(), StoreError> {
        let lost = || StoreError::Lost("build an index");
        let _permit = self.0.builds.acquire().await.map_err(|_| lost())?;
        let started = Instant::now();
        let mut tx = self.0.store.begin(caller, Access::Read).await?;
        // What is written while this reads may be seen or not: the log after this position tells it again.
        let seq = tx.usage().change_seq;
        let memory = if seq > 0 { tx.changes(seq, 1).await?.first().map(|change| change.memory) } else { None };
        tx.prefer_index_order().await?;
        let (mut corpus, mut after) = (Corpus::new(), Uuid::nil());
        loop {
            let rows = tx.index_page(after, PAGE).await?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            // Analysing a page takes some milliseconds of processor time.
            corpus = tokio::task::spawn_blocking(move || {
                for row in &rows {
                    corpus.put(row.id, &document(row));
                }
                corpus
            })
            .await
            .map_err(|_| lost())?;
        }
        tx.commit().await?;
        corpus.shrink();
        let memories = corpus.len();
        index.replace(corpus, Position { seq, memory });
        let took = started.elapsed();
        self.0.metrics.builds.inc();
        self.0.metrics.build_seconds.observe(took.as_secs_f64());
        tracing::debug!(memories, seq, ms = took.as_millis() as u64, "built the index of a tenant");
        Ok(())
    }
}

/// The entries that follow on `have`, when `changes` (read from `have.seq` on) prove that the log goes on from there
/// without a gap and reaches `wanted`.
fn continuation(have: Position, changes: &[Change], wanted: i64) -> Option<&[Change]> {
    let new = if have.seq == 0 {
        changes
    } else {
        let (last, new) = changes.split_first()?;
        if last.seq != have.seq || Some(last.memory) != have.memory {
            return None;
        }
        new
    };
    let gapless = new.iter().zip(have.seq + 1..).all(|(change, seq)| change.seq == seq);
    let reached = new.last().map_or(have.seq, |change| change.seq);
    (gapless && reached >= wanted).then_some(new)
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::store::ChangeOp;

    fn log(seqs: &[i64]) -> Vec<Change> {
        let entry = |seq: &i64| Change {
            seq: *seq,
            op: ChangeOp::Store,
            memory: Uuid::from_u128(*seq as u128),
            agent: None,
            at: OffsetDateTime::UNIX_EPOCH,
        };
        seqs.iter().map(entry).collect()
    }

    fn at(seq: i64) -> Position {
        Position { seq, memory: (seq > 0).then(|| Uuid::from_u128(seq as u128)) }
    }

    #[test]
    fn a_log_that_goes_on_is_applied() {
        assert_eq!(continuation(at(0), &log(&[1, 2]), 2).map(<[_]>::len), Some(2));
        assert_eq!(continuation(at(5), &log(&[5, 6, 7]), 7).map(<[_]>::len), Some(2));
    }

    #[test]
    fn a_log_that_was_pruned_or_is_another_ones_is_not() {
        assert_eq!(continuation(at(0), &log(&[3, 4]), 4), None, "the beginning was pruned");
        assert_eq!(continuation(at(5), &log(&[8, 9]), 9), None, "the next entries were pruned");
        assert_eq!(continuation(at(5), &log(&[]), 6), None, "nothing is left of it");
        let other = Position { seq: 5, memory: Some(Uuid::from_u128(77)) };
        assert_eq!(continuation(other, &log(&[5, 6]), 6), None, "the same number, another memory");
        assert_eq!(continuation(at(5), &log(&[5, 6]), 9), None, "too far behind for one reading");
    }
}
