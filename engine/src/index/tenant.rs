//! The corpus of one tenant and how far it has read the tenant's log.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tenancy::Capability;
use time::OffsetDateTime;
use tokio::sync::{RwLock, Semaphore};
use uuid::Uuid;

use super::free;
use crate::{
    memory::Placed,
    recall::{Corpus, Document, Hit, Prepared, Query},
    store::{Change, ChangeOp, IndexRow, StoreError},
};

/// Postings up to which a search runs where it was asked for: about a millisecond.
const INLINE_POSTINGS: usize = 200_000;
/// A tenant that is refused for the size of its index is built again after this time at the earliest.
const REFUSED_FOR: Duration = Duration::from_secs(30);

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
    /// Waited for and not blocked on: a long change keeps this tenant's searches waiting, and no thread.
    pub(super) state: Arc<RwLock<State>>,
    /// Memory of the corpus, or of the one that is being built.
    pub(super) size: Size,
    uses: Mutex<Uses>,
}

/// The corpus, and the place in the log up to which it holds everything.
#[derive(Default)]
pub(super) struct State {
    /// `None`: not built yet.
    position: Option<Position>,
    pub(super) corpus: Corpus,
}

struct Uses {
    last: Instant,
    refused: Option<Instant>,
    capability: Capability,
}

/// Bytes of one tenant, counted in the sum of all tenants for as long as they are held.
pub(super) struct Size {
    own: AtomicUsize,
    all: Arc<AtomicUsize>,
}

impl Size {
    fn new(all: Arc<AtomicUsize>) -> Self {
        Self { own: AtomicUsize::new(0), all }
    }

    pub(super) fn get(&self) -> usize {
        self.own.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, bytes: usize) {
        let before = self.own.swap(bytes, Ordering::Relaxed);
        self.all.fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed);
    }
}

impl Drop for Size {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl State {
    pub(super) fn remove(&mut self, changes: &[Change]) {
        for change in changes.iter().filter(|change| change.op == ChangeOp::Remove) {
            self.corpus.remove(change.memory);
        }
    }

    pub(super) fn put(&mut self, memories: Vec<Prepared>) {
        for memory in memories {
            self.corpus.put(memory);
        }
    }

    fn covers(&self, wanted: i64) -> bool {
        self.position.is_some_and(|position| position.seq >= wanted)
    }

    /// Notes that the corpus holds all that the log says up to the last of these changes, unless it is not any more where they
    /// follow on: then somebody has cleared it meanwhile.
    pub(super) fn reached(&mut self, from: Position, changes: &[Change]) {
        if let Some(last) = changes.last()
            && self.position == Some(from)
        {
            self.position = Some(Position { seq: last.seq, memory: Some(last.memory) });
        }
    }
}

impl TenantIndex {
    /// An index that is not built. `all`: the sum of the memory of all tenants.
    pub(super) fn new(capability: Capability, all: Arc<AtomicUsize>) -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            state: Arc::default(),
            size: Size::new(all),
            uses: Mutex::new(Uses { last: Instant::now(), refused: None, capability }),
        }
    }

    pub(super) async fn position(&self) -> Option<Position> {
        self.state.read().await.position
    }

    /// Forgets everything: it must be built anew.
    pub(super) async fn clear(&self) {
        let old = std::mem::take(&mut *self.state.write().await);
        self.size.set(0);
        free([old]);
    }

    /// Searches what the log says up to `wanted`. `None`: the corpus does not hold all of that. It may hold more, which others
    /// asked for meanwhile: what is newer than a reader's snapshot has no row in it, and so no place in the answer.
    ///
    /// # Errors
    /// [`StoreError::Lost`].
    pub(super) async fn search(
        &self,
        wanted: i64,
        query: &Query,
        now: OffsetDateTime,
        take: usize,
    ) -> Result<Option<Vec<Hit>>, StoreError> {
        {
            let state = self.state.read().await;
            if !state.covers(wanted) {
                return Ok(None);
            }
            if state.corpus.search_cost(query) <= INLINE_POSTINGS {
                return Ok(Some(state.corpus.search(query, now, take)));
            }
        }
        // It still holds all of that, unless it was cleared in between.
        let state = self.state.clone().read_owned().await;
        if !state.covers(wanted) {
            return Ok(None);
        }
        let query = query.clone();
        let search = tokio::task::spawn_blocking(move || state.corpus.search(&query, now, take));
        search.await.map(Some).map_err(|_| StoreError::Lost("search an index"))
    }

    /// Takes a corpus that was just built.
    pub(super) async fn replace(&self, corpus: Corpus, position: Position) {
        self.size.set(corpus.bytes());
        let built = State { position: Some(position), corpus };
        let old = std::mem::replace(&mut *self.state.write().await, built);
        free([old]);
    }

    pub(super) async fn rescore(&self, memories: &[Placed]) {
        let mut state = self.state.write().await;
        for memory in memories {
            state.corpus.rescore(memory.id, memory.score);
        }
    }

    /// Notes that somebody searches it, and who may.
    pub(super) fn touch(&self, capability: &Capability) {
        let mut uses = self.uses();
        uses.last = Instant::now();
        if uses.capability.as_bytes() != capability.as_bytes() {
            uses.capability = capability.clone();
        }
    }

    pub(super) fn idle(&self) -> Duration {
        self.uses().last.elapsed()
    }

    pub(super) fn capability(&self) -> Capability {
        self.uses().capability.clone()
    }

    /// Notes that the tenant's memories need more than one tenant may have.
    pub(super) fn refuse(&self) {
        self.uses().refused = Some(Instant::now());
    }

    /// Returns true while it is not worth another try.
    pub(super) fn is_refused(&self) -> bool {
        self.uses().refused.is_some_and(|since| since.elapsed() < REFUSED_FOR)
    }

    /// Returns true while somebody builds or changes it.
    pub(super) fn is_refreshing(&self) -> bool {
        self.turn.available_permits() == 0
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A row, analysed.
pub(super) fn prepared(row: &IndexRow) -> Prepared {
    let IndexRow { id, content, session, speaker, occurred_at, emotion, score } = row;
    let document = Document {
        content,
        session: session.as_deref(),
        speaker: speaker.as_deref(),
        occurred_at: *occurred_at,
        emotion: emotion.as_deref(),
        score: *score,
    };
    Prepared::new(*id, &document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::AnchoredScore;

    fn index() -> TenantIndex {
        TenantIndex::new(Capability::parse(&"ab".repeat(32)).expect("64 hex digits"), Arc::default())
    }

    fn row(n: u128, content: &str) -> Prepared {
        prepared(&IndexRow {
            id: Uuid::from_u128(n),
            content: content.to_owned(),
            session: None,
            speaker: None,
            occurred_at: OffsetDateTime::UNIX_EPOCH,
            emotion: None,
            score: AnchoredScore::from_stored(0.0),
        })
    }

    fn change(seq: i64, op: ChangeOp, n: u128) -> Change {
        Change { seq, op, memory: Uuid::from_u128(n), agent: None, at: OffsetDateTime::UNIX_EPOCH }
    }

    async fn apply(index: &TenantIndex, changes: &[Change], rows: Vec<Prepared>) {
        let mut state = index.state.write().await;
        let from = state.position.expect("built");
        state.remove(changes);
        state.put(rows);
        state.reached(from, changes);
    }

    async fn found(index: &TenantIndex, wanted: i64) -> Option<Vec<u128>> {
        let query = Query::new("red", None);
        let hits = index.search(wanted, &query, OffsetDateTime::UNIX_EPOCH, 5).await.expect("a search");
        hits.map(|hits| hits.iter().map(|hit| hit.id.as_u128()).collect())
    }

    #[tokio::test]
    async fn log_entries_move_corpus_along() {
        let index = index();
        assert_eq!(found(&index, 0).await, None, "not built is not fresh, even for a tenant without a memory");
        index.replace(Corpus::new(), Position { seq: 0, memory: None }).await;
        assert!(found(&index, 0).await.is_some() && found(&index, 1).await.is_none());
        let stored = [change(1, ChangeOp::Store, 1), change(2, ChangeOp::Store, 2)];
        apply(&index, &stored, vec![row(1, "red fox"), row(2, "red hen")]).await;
        apply(&index, &[change(3, ChangeOp::Remove, 1)], vec![]).await;
        assert_eq!(index.position().await, Some(Position { seq: 3, memory: Some(Uuid::from_u128(1)) }));
        assert_eq!(found(&index, 3).await, Some(vec![2]));
        index.clear().await;
        assert_eq!(found(&index, 0).await, None);
    }

    #[tokio::test]
    async fn memory_stored_and_forgotten_at_once_is_absent() {
        let index = index();
        index.replace(Corpus::new(), Position { seq: 0, memory: None }).await;
        apply(&index, &[change(1, ChangeOp::Store, 1), change(2, ChangeOp::Remove, 1)], vec![]).await;
        assert_eq!(found(&index, 2).await, Some(vec![]));
    }

    #[test]
    fn sizes_of_all_tenants_add_up() {
        let all = Arc::new(AtomicUsize::new(0));
        let (one, other) = (Size::new(all.clone()), Size::new(all.clone()));
        one.set(100);
        other.set(50);
        one.set(30);
        assert_eq!(all.load(Ordering::Relaxed), 80);
        drop(one);
        assert_eq!(all.load(Ordering::Relaxed), 50);
    }
}
