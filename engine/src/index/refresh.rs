//! How a corpus becomes fresh: by the log where it reaches back far enough, else by building it anew.
//!
//! Memories are read in pages that are bounded by bytes, each in a transaction of its own, and analysed on the
//! [workers](super::workers) after the transaction has ended. Pages are read in the order in which tenants ask for them, so
//! tenants take turns. What is written between two pages is told again by the log.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use uuid::Uuid;

use super::{
    Indexes,
    tenant::{Position, TenantIndex, prepared},
};
use crate::{
    recall::{Corpus, Prepared},
    store::{Access, Caller, Change, IndexRow, StoreError, TenantTx},
};

/// A corpus that is further behind is built anew: reading the rows in order is then cheaper than picking them.
const MOST_CHANGES: i64 = 2000;
/// Memories of a page, and bytes of their contents.
const PAGE_ROWS: i64 = 2000;
const PAGE_BYTES: usize = 512 * 1024;
/// Bytes of contents that one job analyses: some milliseconds.
pub(super) const SLICE_BYTES: usize = 64 * 1024;
/// Bytes of contents that are analysed where a recall asked for them: less than a millisecond.
const INLINE_BYTES: usize = 8 * 1024;
/// Time that a recall that holds a connection waits for another one's refresh.
const TURN_PATIENCE: Duration = Duration::from_millis(100);

/// Outcome of bringing a corpus forward by the log.
pub(super) enum Refreshed {
    /// It holds what the transaction sees.
    Current(TenantTx),
    /// It was brought forward without a transaction: look again.
    Further,
    /// The log does not reach back that far: it must be built.
    Unknown,
}

impl Indexes {
    /// Applies the log up to `wanted` at least.
    pub(super) async fn catch_up(
        &self,
        index: &Arc<TenantIndex>,
        caller: &Caller,
        mut tx: TenantTx,
        wanted: i64,
    ) -> Result<Refreshed, StoreError> {
        if index.position().await.is_none() {
            return Ok(Refreshed::Unknown);
        }
        let Some(turn) = turn(index).await else {
            // It is long: no connection is held meanwhile.
            drop(tx);
            drop(index.turn.acquire().await);
            return Ok(Refreshed::Further);
        };
        let Some(have) = index.position().await else { return Ok(Refreshed::Unknown) };
        if have.seq >= wanted {
            return Ok(Refreshed::Current(tx));
        }
        // The entry that was applied last is read again: it must still be the same.
        let mut changes = tx.changes(have.seq.max(1), MOST_CHANGES + 1).await?;
        let Some(new) = continuation(have, &changes, wanted).map(<[_]>::len) else { return Ok(Refreshed::Unknown) };
        let new = changes.split_off(changes.len() - new);
        let mut ids: Vec<Uuid> = new.iter().map(|change| change.memory).collect();
        ids.sort_unstable();
        ids.dedup();
        let rows = tx.index_rows(&ids, INLINE_BYTES).await?;
        self.0.metrics.changes.inc_by(new.len() as u64);
        if bytes_of(&rows) < INLINE_BYTES {
            let memories: Vec<Prepared> = rows.iter().map(prepared).collect();
            let mut state = index.state.write().await;
            state.remove(&new);
            state.put(memories);
            if !state.corpus.wants_compaction() {
                state.reached(have, &new);
                index.size.set(state.corpus.bytes());
                drop(state);
                if let Err(error) = self.make_room(index) {
                    index.clear().await;
                    return Err(error);
                }
                return Ok(Refreshed::Current(tx));
            }
        }
        drop(tx);
        let (indexes, index, caller) = (self.clone(), index.clone(), caller.clone());
        let applying = self.0.tasks.spawn(async move {
            let result = indexes.apply(&index, &caller, have, new, &ids).await;
            if matches!(result, Err(StoreError::Lost(_))) {
                // What was under way when a job panicked may be half done.
                index.clear().await;
            }
            drop(turn);
            result
        });
        applying.await.map_err(|_| StoreError::Lost("refresh an index"))??;
        Ok(Refreshed::Further)
    }

    /// Applies entries of the log that follow on the corpus. `ids`: their memories, sorted.
    async fn apply(
        &self,
        index: &TenantIndex,
        caller: &Caller,
        from: Position,
        changes: Vec<Change>,
        ids: &[Uuid],
    ) -> Result<(), StoreError> {
        let lost = || StoreError::Lost("refresh an index");
        index.state.write().await.remove(&changes);
        let mut left = ids;
        while !left.is_empty() {
            let _page = self.page().await?;
            let mut tx = self.0.pages_store.begin(caller, Access::Read).await?;
            let rows = tx.index_rows(left, PAGE_BYTES).await?;
            tx.commit().await?;
            left = match rows.last() {
                // A page that is not full has all of them.
                Some(last) if bytes_of(&rows) >= PAGE_BYTES => &left[left.partition_point(|id| *id <= last.id)..],
                _ => &[],
            };
            for slice in slices(rows) {
                let state = index.state.clone();
                let put = move || {
                    let memories: Vec<Prepared> = slice.iter().map(prepared).collect();
                    let mut state = state.blocking_write();
                    state.put(memories);
                    if state.corpus.wants_compaction() {
                        state.corpus.compact();
                    }
                    state.corpus.bytes()
                };
                index.size.set(self.0.workers.run(put).await.ok_or_else(lost)?);
            }
            if let Err(error) = self.make_room(index) {
                index.clear().await;
                return Err(error);
            }
        }
        let state = index.state.clone();
        let finish = move || {
            let mut state = state.blocking_write();
            if state.corpus.wants_compaction() {
                state.corpus.compact();
            }
            state.reached(from, &changes);
            state.corpus.bytes()
        };
        index.size.set(self.0.workers.run(finish).await.ok_or_else(lost)?);
        Ok(())
    }

    /// Builds the corpus, unless somebody else just did. Goes on when the caller stops waiting, so that a client with
    /// little patience does not make it start over for ever.
    pub(super) async fn build(&self, index: Arc<TenantIndex>, caller: &Caller) -> Result<(), StoreError> {
        let lost = || StoreError::Lost("build an index");
        let before = index.position().await;
        let turn = index.turn.clone().acquire_owned().await.map_err(|_| lost())?;
        if index.position().await != before {
            return Ok(());
        }
        if index.is_refused() {
            return Err(self.too_large());
        }
        let (indexes, caller) = (self.clone(), caller.clone());
        let task = self.0.tasks.spawn(async move {
            // Too far behind to answer anything: two at a time would take twice what is counted.
            index.clear().await;
            let result = indexes.read_all(&index, &caller).await;
            if result.is_err() {
                index.clear().await;
            }
            drop(turn);
            result
        });
        task.await.map_err(|_| lost())?
    }

    async fn read_all(&self, index: &TenantIndex, caller: &Caller) -> Result<(), StoreError> {
        let lost = || StoreError::Lost("build an index");
        let started = Instant::now();
        let position = self.end_of_log(caller).await?;
        let (mut corpus, mut after) = (Corpus::new(), Uuid::nil());
        loop {
            let _page = self.page().await?;
            let mut tx = self.0.pages_store.begin(caller, Access::Read).await?;
            tx.prefer_index_order().await?;
            let rows = tx.index_page(after, PAGE_ROWS, PAGE_BYTES).await?;
            tx.commit().await?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            for slice in slices(rows) {
                let put = move || {
                    for row in &slice {
                        corpus.put(prepared(row));
                    }
                    corpus
                };
                corpus = self.0.workers.run(put).await.ok_or_else(lost)?;
                index.size.set(corpus.bytes());
                self.make_room(index)?;
            }
        }
        let shrink = move || {
            corpus.shrink();
            corpus
        };
        let corpus = self.0.workers.run(shrink).await.ok_or_else(lost)?;
        let memories = corpus.len();
        index.replace(corpus, position).await;
        let took = started.elapsed();
        self.0.metrics.builds.inc();
        self.0.metrics.build_seconds.observe(took.as_secs_f64());
        tracing::debug!(memories, seq = position.seq, ms = took.as_millis() as u64, "built the index of a tenant");
        Ok(())
    }

    /// Returns where the log ends now. What is written while a build reads may be seen or not: the log after this place
    /// tells it again.
    async fn end_of_log(&self, caller: &Caller) -> Result<Position, StoreError> {
        let mut tx = self.0.pages_store.begin(caller, Access::Read).await?;
        let seq = tx.usage().change_seq;
        let memory = if seq > 0 { tx.changes(seq, 1).await?.first().map(|change| change.memory) } else { None };
        tx.commit().await?;
        Ok(Position { seq, memory })
    }

    /// Waits for the turn to read a page.
    async fn page(&self) -> Result<tokio::sync::SemaphorePermit<'_>, StoreError> {
        let ending = self.0.closing.cancelled();
        tokio::select! {
            () = ending => Err(StoreError::Overloaded),
            page = self.0.pages.acquire() => page.map_err(|_| StoreError::Lost("read memories for an index")),
        }
    }
}

/// Waits for the turn to refresh, a bounded time.
async fn turn(index: &TenantIndex) -> Option<OwnedSemaphorePermit> {
    // Mostly it is free, and no timer is needed.
    if let Ok(turn) = index.turn.clone().try_acquire_owned() {
        return Some(turn);
    }
    timeout(TURN_PATIENCE, index.turn.clone().acquire_owned()).await.ok()?.ok()
}

fn bytes_of(rows: &[IndexRow]) -> usize {
    rows.iter().map(|row| row.content.len()).sum()
}

/// Parts of a page, each for one job.
fn slices(rows: Vec<IndexRow>) -> Vec<Vec<IndexRow>> {
    let (mut slices, mut bytes) = (vec![Vec::new()], 0);
    for row in rows {
        if bytes > SLICE_BYTES {
            slices.push(Vec::new());
            bytes = 0;
        }
        bytes += row.content.len();
        if let Some(slice) = slices.last_mut() {
            slice.push(row);
        }
    }
    slices
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
