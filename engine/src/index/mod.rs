//! The index: for each tenant that is active, a [`Corpus`] in memory. It is a cache and never the truth.
//!
//! It is fresh by `change_seq`, the gapless number that every write of a tenant moves in Postgres: a search reads that
//! number in the transaction that also returns the contents, and when the corpus is behind, applies the entries of the
//! change log first, or builds it anew when the log does not reach back that far. So a search sees every write that was
//! acknowledged before it began, whichever engine took it.
//!
//! A corpus remembers which memory its last entry was about: were a tenant erased and made again under the same id (or the
//! database restored), the log would not agree, and the corpus is built anew.

mod refresh;
mod tenant;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};
use tenancy::TenantId;
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{
    memory::Placed,
    recall::{Hit, Query},
    store::{Access, Caller, Store, StoreError, TenantTx},
};
use tenant::TenantIndex;

/// A corpus that nobody searched for this long is let go.
const IDLE: Duration = Duration::from_mins(30);
/// Corpora that are built at the same time: a build reads all of a tenant's memories.
const BUILDS_AT_ONCE: usize = 2;

/// A tenant that writes more during each build than can be caught up with is asked to try again.
const MOST_ATTEMPTS: usize = 5;

/// What the index measures.
#[derive(Clone)]
pub struct IndexMetrics {
    /// Tenants with a corpus.
    pub tenants: Gauge,
    /// Estimated memory of all corpora.
    pub bytes: Gauge,
    /// Corpora built.
    pub builds: Counter,
    /// How long a build took, in seconds.
    pub build_seconds: Histogram,
    /// Entries of change logs applied.
    pub changes: Counter,
    /// Corpora let go, for room or for being idle.
    pub evictions: Counter,
}

/// The corpora of all active tenants.
#[derive(Clone)]
pub struct Indexes(Arc<Shared>);

struct Shared {
    store: Store,
    tasks: TaskTracker,
    builds: Arc<Semaphore>,
    bound: usize,
    metrics: IndexMetrics,
    tenants: Mutex<HashMap<TenantId, Arc<TenantIndex>>>,
}

impl Indexes {
    /// None yet. `bound`: bytes that all corpora together may take; `tasks`: where builds run.
    pub fn new(store: Store, tasks: TaskTracker, bound: usize, metrics: IndexMetrics) -> Self {
        let builds = Arc::new(Semaphore::new(BUILDS_AT_ONCE));
        Self(Arc::new(Shared { store, tasks, builds, bound, metrics, tenants: Mutex::default() }))
    }

    /// The best answers to a query, with the transaction in which they are complete: contents must be read in it.
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
        for _ in 0..MOST_ATTEMPTS {
            let index = self.entry(caller.tenant);
            // What it holds now was committed before the snapshot of the transaction that begins next.
            let before = index.position();
            let mut tx = match self.0.store.begin(caller, Access::Read).await {
                Err(StoreError::NotServedHere) => {
                    self.forget_tenant(caller.tenant);
                    return Err(StoreError::NotServedHere);
                }
                result => result?,
            };
            let wanted = tx.usage().change_seq;
            if before.is_some_and(|before| before.seq > wanted) {
                // Numbers never fall, save that the tenant was erased and made again or the database restored.
                index.clear();
            } else if index.covers(wanted) || self.catch_up(&index, &mut tx, wanted).await? {
                self.account(caller.tenant);
                return Ok((tx, index.search(query, now, take)));
            }
            // A build takes its time: no connection is held meanwhile.
            drop(tx);
            self.build(index, caller).await?;
            self.account(caller.tenant);
        }
        Err(StoreError::Overloaded)
    }

    /// Notes new scores, where the tenant has a corpus.
    pub fn rescore(&self, tenant: TenantId, memories: &[Placed]) {
        let index = self.tenants().get(&tenant).cloned();
        if let Some(index) = index {
            index.rescore(memories);
        }
    }

    /// Lets corpora go that nobody searched for half an hour.
    pub fn evict_idle(&self) {
        let now = Instant::now();
        let mut tenants = self.tenants();
        let before = tenants.len();
        tenants.retain(|_, index| now.saturating_duration_since(index.last_used()) < IDLE);
        self.0.metrics.evictions.inc_by((before - tenants.len()) as u64);
        self.measure(&tenants);
    }

    fn forget_tenant(&self, tenant: TenantId) {
        let mut tenants = self.tenants();
        if tenants.remove(&tenant).is_some() {
            self.measure(&tenants);
        }
    }

    fn entry(&self, tenant: TenantId) -> Arc<TenantIndex> {
        let index = self.tenants().entry(tenant).or_default().clone();
        index.touch();
        index
    }

    /// Keeps the sum within the bound: the corpora that were idle longest go, never the one that is in use now.
    fn account(&self, in_use: TenantId) {
        let mut tenants = self.tenants();
        let mut total: usize = tenants.values().map(|index| index.bytes()).sum();
        while total > self.0.bound {
            let idle =
                tenants.iter().filter(|(tenant, _)| **tenant != in_use).min_by_key(|(_, index)| index.last_used());
            let Some(idle) = idle.map(|(tenant, _)| *tenant) else { break };
            if let Some(gone) = tenants.remove(&idle) {
                total -= gone.bytes();
                self.0.metrics.evictions.inc();
            }
        }
        self.measure(&tenants);
    }

    fn measure(&self, tenants: &HashMap<TenantId, Arc<TenantIndex>>) {
        self.0.metrics.tenants.set(tenants.len() as i64);
        self.0.metrics.bytes.set(tenants.values().map(|index| index.bytes()).sum::<usize>() as i64);
    }

    fn tenants(&self) -> std::sync::MutexGuard<'_, HashMap<TenantId, Arc<TenantIndex>>> {
        self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
