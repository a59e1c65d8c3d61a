//! The corpus of one tenant and how far it has read the tenant's log.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use time::OffsetDateTime;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{
    memory::Placed,
    recall::{Corpus, Document, Hit, Query},
    store::{Change, ChangeOp, IndexRow},
};

/// How far a corpus has read the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Position {
    /// The number of the last entry; 0 before the first.
    pub(super) seq: i64,
    /// The memory that entry was about.
    pub(super) memory: Option<Uuid>,
}

/// The corpus of one tenant.
pub(super) struct TenantIndex {
    /// One permit: whoever refreshes holds it, so that one builds while the others wait.
    pub(super) turn: Arc<Semaphore>,
    state: RwLock<State>,
    last_used: RwLock<Instant>,
    bytes: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// `None`: not built yet.
    position: Option<Position>,
    corpus: Corpus,
}

impl Default for TenantIndex {
    fn default() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            state: RwLock::default(),
            last_used: RwLock::new(Instant::now()),
            bytes: AtomicUsize::new(0),
        }
    }
}

impl TenantIndex {
    pub(super) fn position(&self) -> Option<Position> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).position
    }

    /// Whether it holds all that the log says up to `wanted`. It may hold more, which others asked for meanwhile: what is
    /// newer than a reader's snapshot has no row in it, and so no place in the answer.
    pub(super) fn covers(&self, wanted: i64) -> bool {
        self.position().is_some_and(|position| position.seq >= wanted)
    }

    /// Forgets everything: it must be built anew.
    pub(super) fn clear(&self) {
        drop(std::mem::take(&mut *self.state.write().unwrap_or_else(PoisonError::into_inner)));
        self.bytes.store(0, Ordering::Relaxed);
    }

    pub(super) fn search(&self, query: &Query, now: OffsetDateTime, take: usize) -> Vec<Hit> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).corpus.search(query, now, take)
    }

    /// Applies entries of the log that follow on its position; `rows`: those of their memories that are still there.
    pub(super) fn apply(&self, changes: &[Change], rows: &[IndexRow]) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes.iter().filter(|change| change.op == ChangeOp::Remove) {
            state.corpus.remove(change.memory);
        }
        for row in rows {
            state.corpus.put(row.id, &document(row));
        }
        if let Some(last) = changes.last() {
            state.position = Some(Position { seq: last.seq, memory: Some(last.memory) });
        }
        self.bytes.store(state.corpus.bytes(), Ordering::Relaxed);
    }

    /// Takes a corpus that was just built.
    pub(super) fn replace(&self, corpus: Corpus, position: Position) {
        let bytes = corpus.bytes();
        let old = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *state, State { position: Some(position), corpus })
        };
        self.bytes.store(bytes, Ordering::Relaxed);
        drop(old);
    }

    pub(super) fn rescore(&self, memories: &[Placed]) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for memory in memories {
            state.corpus.rescore(memory.id, memory.score);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn touch(&self) {
        *self.last_used.write().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(super) fn last_used(&self) -> Instant {
        *self.last_used.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A row as ranking sees it.
pub(super) fn document(row: &IndexRow) -> Document<'_> {
    let IndexRow { id: _, content, session, speaker, occurred_at, emotion, score } = row;
    Document {
        content,
        session: session.as_deref(),
        speaker: speaker.as_deref(),
        occurred_at: *occurred_at,
        emotion: emotion.as_deref(),
        score: *score,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::AnchoredScore;

    fn row(n: u128, content: &str) -> IndexRow {
        IndexRow {
            id: Uuid::from_u128(n),
            content: content.to_owned(),
            session: None,
            speaker: None,
            occurred_at: OffsetDateTime::UNIX_EPOCH,
            emotion: None,
            score: AnchoredScore::from_stored(0.0),
        }
    }

    fn change(seq: i64, op: ChangeOp, n: u128) -> Change {
        Change { seq, op, memory: Uuid::from_u128(n), agent: None, at: OffsetDateTime::UNIX_EPOCH }
    }

    #[test]
    fn entries_of_the_log_move_the_corpus_along() {
        let index = TenantIndex::default();
        assert!(!index.covers(0), "not built is not fresh, even for a tenant without a memory");
        index.replace(Corpus::new(), Position { seq: 0, memory: None });
        assert!(index.covers(0) && !index.covers(1));
        index.apply(
            &[change(1, ChangeOp::Store, 1), change(2, ChangeOp::Store, 2)],
            &[row(1, "red fox"), row(2, "red hen")],
        );
        index.apply(&[change(3, ChangeOp::Remove, 1)], &[]);
        assert!(index.covers(3) && index.covers(2));
        assert_eq!(index.position(), Some(Position { seq: 3, memory: Some(Uuid::from_u128(1)) }));
        let hits = index.search(&Query::new("red", None), OffsetDateTime::UNIX_EPOCH, 5);
        assert_eq!(hits.iter().map(|hit| hit.id.as_u128()).collect::<Vec<_>>(), [2]);
        assert!(index.bytes() > 0);
    }

    #[test]
    fn what_was_stored_and_forgotten_in_one_go_is_not_there() {
        let index = TenantIndex::default();
        index.replace(Corpus::new(), Position { seq: 0, memory: None });
        index.apply(&[change(1, ChangeOp::Store, 1), change(2, ChangeOp::Remove, 1)], &[]);
        assert!(index.search(&Query::new("red", None), OffsetDateTime::UNIX_EPOCH, 5).is_empty());
    }
}
