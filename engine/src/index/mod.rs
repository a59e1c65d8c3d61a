//! The index: for each tenant that is active, a [`Corpus`] in memory. It is a cache and never the truth.
//!
//! It is fresh by `change_seq`, the gapless number that every write of a tenant moves in Postgres: a search reads that
//! number in the transaction that also returns the contents, and when the corpus is behind, applies the entries of the
//! change log first, or builds it anew when the log does not reach back that far. So a search sees every write that was
//! acknowledged before it began, whichever engine took it.
//!
//! Memory is bounded twice: one tenant's corpus by a part of its own, above which this tenant is refused and nobody else
//! suffers, and all of them together, for which those that hold most for longest go. Corpora that are being built count.
//!
//! A corpus remembers which memory its last entry was about: were a tenant erased and made again under the same id (or the
//! database restored), the log would not agree, and the corpus is built anew.

mod refresh;
mod tenant;
mod workers;

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};
use tenancy::{Capability, TenantId};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    memory::Placed,
    recall::{Hit, Query},
    store::{Access, Caller, Store, StoreError, TenantTx},
};
use refresh::Refreshed;
use tenant::TenantIndex;
use workers::Workers;

/// A corpus that nobody searched for this long is let go.
const IDLE: Duration = Duration::from_mins(30);
/// Corpora whose tenants are looked up by one query.
const TENANTS_PER_QUERY: usize = 1000;

/// A tenant that writes more during each build than can be caught up with is asked to try again.
const MOST_ATTEMPTS: usize = 5;

/// What the index measures.
#[derive(Clone)]
pub struct IndexMetrics {
    /// Tenants with a corpus.
    pub tenants: Gauge,
    /// Memory of all corpora, of those that are being built too.
    pub bytes: Gauge,
    /// Corpora built.
    pub builds: Counter,
    /// How long a build took, in seconds.
    pub build_seconds: Histogram,
    /// Entries of change logs applied.
    pub changes: Counter,
    /// Corpora let go, for room or for being idle.
    pub evictions: Counter,
    /// Corpora that were not built, or dropped, because one tenant may not have as much.
    pub refusals: Counter,
}

/// Bytes that indexes may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexBounds {
    /// Those of all tenants together.
    pub all: usize,
    /// That of one tenant.
    pub tenant: usize,
}

/// The corpora of all active tenants.
#[derive(Clone)]
pub struct Indexes(Arc<Shared>);

struct Shared {
    store: Store,
    /// The same, for refreshes: they are one a tenant and take turns of their own, and wait for no tenant's requests.
    pages_store: Store,
    tasks: TaskTracker,
    workers: Workers,
    /// Turns to read a page: they bound the memory of pages, and connections.
    pages: Semaphore,
    bounds: IndexBounds,
    /// Bytes of all corpora, also of those that are not in `tenants` any more and still in use.
    bytes: Arc<AtomicUsize>,
    metrics: IndexMetrics,
    closing: CancellationToken,
    tenants: Mutex<HashMap<TenantId, Arc<TenantIndex>>>,
}

impl Indexes {
    /// Returns none yet. `pages_store`: the way to a tenant's rows without its bound of connections; `tasks`: where builds run;
    /// `closing`: ends them.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn new(
        store: Store,
        pages_store: Store,
        tasks: TaskTracker,
        bounds: IndexBounds,
        metrics: IndexMetrics,
        closing: CancellationToken,
    ) -> io::Result<Self> {
        let workers = Workers::start()?;
        // One more than threads: a page is read while another one is analysed.
        let pages = Semaphore::new(workers.count() + 1);
        let (bytes, tenants) = (Arc::default(), Mutex::default());
        Ok(Self(Arc::new(Shared {
            store,
            pages_store,
            tasks,
            workers,
            pages,
            bounds,
            bytes,
            metrics,
            closing,
            tenants,
        })))
    }

    /// Returns the best answers to a query, with the transaction in which they are complete: contents must be read in it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn search(
        &self,
        caller: &Caller,
        query: &Query,
        now: OffsetDateTime,
        take: usize,
    ) -> Result<(TenantTx, Vec<Hit>), StoreError> {
        // A recall sees what was acknowledged before it began, and need not keep up with what is written since.
        let mut needed = None;
        for _ in 0..MOST_ATTEMPTS {
            let index = self.entry(caller);
            // What it holds now was committed before the snapshot of the transaction that begins next.
            let before = index.position().await;
            let tx = match self.0.store.begin(caller, Access::Read).await {
                Err(StoreError::NotServedHere) => {
                    self.forget_tenant(caller.tenant);
                    return Err(StoreError::NotServedHere);
                }
                result => result?,
            };
            if index.is_refused() {
                return Err(self.too_large());
            }
            let now_at = tx.usage().change_seq;
            if before.is_some_and(|before| before.seq > now_at) {
                // Numbers never fall, save that the tenant was erased and made again or the database restored.
                index.clear().await;
                needed = None;
                continue;
            }
            let needed = *needed.get_or_insert(now_at);
            if let Some(hits) = index.search(needed, query, now, take).await? {
                return Ok((tx, hits));
            }
            match self.catch_up(&index, caller, tx, needed).await? {
                Refreshed::Current(tx) => {
                    if let Some(hits) = index.search(needed, query, now, take).await? {
                        return Ok((tx, hits));
                    }
                }
                Refreshed::Further => {}
                Refreshed::Unknown => self.build(index, caller).await?,
            }
        }
        Err(StoreError::Overloaded)
    }

    /// Notes new scores, where the tenant has a corpus.
    pub async fn rescore(&self, tenant: TenantId, memories: &[Placed]) {
        let index = self.tenants().get(&tenant).cloned();
        if let Some(index) = index {
            index.rescore(memories).await;
        }
    }

    /// Lets corpora go that nobody searched for half an hour, and those of tenants that are deleted or served elsewhere now.
    pub async fn evict_unused(&self) {
        self.evict(|_, index| index.idle() >= IDLE);
        let asked: Vec<(TenantId, Capability)> =
            self.tenants().iter().map(|(tenant, index)| (*tenant, index.capability())).collect();
        for asked in asked.chunks(TENANTS_PER_QUERY) {
            match self.0.store.log_ends(asked).await {
                Ok(served) => {
                    let asked = asked.iter().map(|(tenant, _)| *tenant);
                    let gone: HashSet<TenantId> = asked.filter(|tenant| !served.contains_key(tenant)).collect();
                    self.evict(|tenant, index| gone.contains(tenant) && !index.is_refreshing());
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot ask which tenants are served here; indexes stay for another minute");
                    return;
                }
            }
        }
    }

    fn evict(&self, goes: impl Fn(&TenantId, &TenantIndex) -> bool) {
        let mut tenants = self.tenants();
        let gone: Vec<_> = tenants.extract_if(|tenant, index| goes(tenant, index)).map(|(_, index)| index).collect();
        self.0.metrics.evictions.inc_by(gone.len() as u64);
        self.measure(&tenants, &gone);
        drop(tenants);
        free(gone);
    }

    fn forget_tenant(&self, tenant: TenantId) {
        let mut tenants = self.tenants();
        let gone: Vec<_> = tenants.remove(&tenant).into_iter().collect();
        self.measure(&tenants, &gone);
        drop(tenants);
        free(gone);
    }

    fn entry(&self, caller: &Caller) -> Arc<TenantIndex> {
        let mut tenants = self.tenants();
        let new = || Arc::new(TenantIndex::new(caller.capability.clone(), self.0.bytes.clone()));
        let index = tenants.entry(caller.tenant).or_insert_with(new).clone();
        index.touch(&caller.capability);
        index
    }

    /// Keeps memory within its bounds after a corpus has grown. Those that hold most for longest go; never the one that is in
    /// use now, nor one that is being refreshed.
    ///
    /// # Errors
    /// [`StoreError::IndexTooLarge`] for one above the bound of a tenant, [`StoreError::Overloaded`] for one that takes more
    /// than its part where those that are being built take everything. It must be dropped.
    fn make_room(&self, grown: &TenantIndex) -> Result<(), StoreError> {
        let IndexBounds { all, tenant } = self.0.bounds;
        if grown.size.get() > tenant {
            grown.refuse();
            self.0.metrics.refusals.inc();
            return Err(self.too_large());
        }
        let mut total = self.0.bytes.load(Ordering::Relaxed);
        self.0.metrics.bytes.set(total as i64);
        if total <= all {
            return Ok(());
        }
        let (mut tenants, mut gone) = (self.tenants(), Vec::new());
        while total > all {
            let is_unused = |index: &Arc<TenantIndex>| {
                index.size.get() > 0 && !index.is_refreshing() && !std::ptr::eq(Arc::as_ptr(index), grown)
            };
            let unused = tenants.iter().filter(|(_, index)| is_unused(index));
            // As if each had been idle for a second more: of those in use the largest goes, of equals the one that was idle longest.
            let weight = |index: &TenantIndex| index.size.get() as u128 * (index.idle().as_micros() + 1_000_000);
            let Some((heaviest, _)) = unused.max_by_key(|(_, index)| weight(index)) else { break };
            let heaviest = *heaviest;
            if let Some(index) = tenants.remove(&heaviest) {
                total = total.saturating_sub(index.size.get());
                self.0.metrics.evictions.inc();
                gone.push(index);
            }
        }
        self.measure(&tenants, &gone);
        let growing = tenants.values().filter(|index| index.is_refreshing()).count().max(1);
        drop(tenants);
        free(gone);
        if total > all && grown.size.get() > all / growing {
            return Err(StoreError::Overloaded);
        }
        Ok(())
    }

    fn too_large(&self) -> StoreError {
        StoreError::IndexTooLarge { limit: self.0.bounds.tenant }
    }

    /// Sets the metrics; `gone` is about to be freed.
    fn measure(&self, tenants: &HashMap<TenantId, Arc<TenantIndex>>, gone: &[Arc<TenantIndex>]) {
        let bytes: usize = gone.iter().map(|index| index.size.get()).sum();
        self.0.metrics.tenants.set(tenants.len() as i64);
        self.0.metrics.bytes.set(self.0.bytes.load(Ordering::Relaxed).saturating_sub(bytes) as i64);
    }

    fn tenants(&self) -> std::sync::MutexGuard<'_, HashMap<TenantId, Arc<TenantIndex>>> {
        self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Frees memory where nobody waits for it: an index is made of very many pieces.
fn free<T: Send + 'static>(gone: impl IntoIterator<Item = T> + Send + 'static) {
    drop(tokio::task::spawn_blocking(move || gone.into_iter().for_each(drop)));
}
