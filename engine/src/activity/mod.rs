//! What follows from a tenant being active: recalls are counted, scores renewed, zones kept within their capacities.
//!
//! Handlers only leave notes here, and a task works them off about once a second: a recall costs its client no write. The
//! notes are bounded, the last ones are worked off before the process ends. A tenant that asks for nothing is never
//! touched: forgetting follows from the formulas when somebody reads.

mod notes;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use prometheus_client::metrics::counter::Counter;
use tenancy::TenantId;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    index::Indexes,
    memory::{AnchoredScore, Placed, forgotten_below, reorbit},
    store::{Access, Caller, Store, StoreError, TenantTx},
};
use notes::{Notes, Work};

const EVERY: Duration = Duration::from_secs(1);
/// Zones of one active tenant are put in order this often at most …
const REORBIT_AFTER: Duration = Duration::from_secs(10);
/// … and this often at least, since time alone moves memories outward.
const REORBIT_BY: Duration = Duration::from_hours(1);
const AT_ONCE: usize = 4;
const HOUSEKEEPING: Duration = Duration::from_mins(1);

/// What is measured here.
#[derive(Clone)]
pub struct ActivityMetrics {
    /// Recalls of single memories that were counted in Postgres.
    pub recalls_noted: Counter,
    /// … that could not be, because there were too many or the tenant left.
    pub recalls_dropped: Counter,
    /// Memories that moved between zones.
    pub zone_moves: Counter,
}

/// Where handlers leave notes.
#[derive(Clone)]
pub struct Activity(Arc<Shared>);

struct Shared {
    store: Store,
    indexes: Indexes,
    metrics: ActivityMetrics,
    notes: Mutex<Notes>,
    orbits: Mutex<HashMap<TenantId, Orbit>>,
}

/// When a tenant's zones were put in order last.
#[derive(Clone, Copy)]
struct Orbit {
    at: Instant,
    /// Below this everything is in the cloud already.
    swept: Option<AnchoredScore>,
}

impl Activity {
    /// Nothing noted yet.
    pub fn new(store: Store, indexes: Indexes, metrics: ActivityMetrics) -> Self {
        Self(Arc::new(Shared { store, indexes, metrics, notes: Mutex::default(), orbits: Mutex::default() }))
    }

    /// A recall returned these memories, each with its relevance.
    pub fn recalled(&self, caller: &Caller, hits: &[(Uuid, f32)], now: OffsetDateTime) {
        let dropped = self.notes().recalled(caller, hits, now);
        self.0.metrics.recalls_dropped.inc_by(dropped);
    }

    /// Memories were stored or forgotten, or looked at.
    pub fn seen(&self, caller: &Caller) {
        self.notes().seen(caller);
    }

    /// Works notes off until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        let mut housekeeping = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = cancel.cancelled() => return,
            }
            self.work_off(false).await;
            if housekeeping.elapsed() > HOUSEKEEPING {
                housekeeping = Instant::now();
                self.0.indexes.evict_unused().await;
                self.orbits().retain(|_, orbit| orbit.at.elapsed() < REORBIT_BY);
            }
        }
    }

    /// Works off whatever is noted. To be called once more when no request can come any more.
    pub async fn finish(&self) {
        self.work_off(true).await;
    }

    async fn work_off(&self, last: bool) {
        let work = self.notes().take();
        // Once the database proves to be away, the rest is kept without trying.
        let failure: Mutex<Option<StoreError>> = Mutex::default();
        let failed = || failure.lock().unwrap_or_else(PoisonError::into_inner);
        stream::iter(work)
            .for_each_concurrent(AT_ONCE, |(tenant, work)| async move {
                let recalls = work.recall_count();
                let dropped = if failed().is_some() {
                    self.keep(tenant, work, last)
                } else {
                    match self.work_off_tenant(tenant, &work).await {
                        Ok(()) => 0,
                        Err(StoreError::NotServedHere) => recalls,
                        Err(error) => {
                            failed().get_or_insert(error);
                            self.keep(tenant, work, last)
                        }
                    }
                };
                self.0.metrics.recalls_dropped.inc_by(dropped);
            })
            .await;
        if let Some(error) = failed().take() {
            tracing::warn!(error = crate::error_chain(&error), last, "recalls could not be noted");
        }
    }

    /// For the next time, if there is one. Returns how many recalls found no room.
    fn keep(&self, tenant: TenantId, work: Work, last: bool) -> u64 {
        if last { work.recall_count() } else { self.notes().put_back(tenant, work) }
    }

    async fn work_off_tenant(&self, tenant: TenantId, work: &Work) -> Result<(), StoreError> {
        let orbit = self.orbits().get(&tenant).copied();
        let due = orbit.is_none_or(|orbit| {
            let age = orbit.at.elapsed();
            age > REORBIT_BY || (work.is_dirty() && age > REORBIT_AFTER)
        });
        let recalls = work.recalls();
        if recalls.is_empty() && !due {
            if work.is_dirty() {
                self.notes().seen(work.caller());
            }
            return Ok(());
        }
        let mut tx = self.0.store.begin(work.caller(), Access::Write).await?;
        let touched = if recalls.is_empty() { Vec::new() } else { tx.note_recalls(&recalls).await? };
        let mut moved = 0;
        let mut swept = None;
        if due {
            (moved, swept) = put_in_order(&mut tx, &touched, orbit.and_then(|orbit| orbit.swept)).await?;
        }
        tx.commit().await?;
        self.0.metrics.recalls_noted.inc_by(work.recall_count());
        self.0.metrics.zone_moves.inc_by(moved);
        self.0.indexes.rescore(tenant, &touched).await;
        if due {
            self.orbits().insert(tenant, Orbit { at: Instant::now(), swept });
        } else {
            // The new scores wait for their turn.
            self.notes().seen(work.caller());
        }
        Ok(())
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn orbits(&self) -> std::sync::MutexGuard<'_, HashMap<TenantId, Orbit>> {
        self.0.orbits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Enforces the capacities and sends the forgotten to the cloud. Returns how many moved, and up to where the cloud is swept.
async fn put_in_order(
    tx: &mut TenantTx,
    touched: &[Placed],
    swept: Option<AnchoredScore>,
) -> Result<(u64, Option<AnchoredScore>), StoreError> {
    let now = OffsetDateTime::now_utc();
    tx.prefer_index_order().await?;
    let mut ranked = tx.orbit_candidates().await?;
    // What was just recalled may come back from the cloud without being among the first.
    for memory in touched {
        if !ranked.iter().any(|candidate| candidate.id == memory.id) {
            ranked.push(*memory);
        }
    }
    ranked.sort_unstable_by(|a, b| b.score.to_stored().total_cmp(&a.score.to_stored()).then(b.id.cmp(&a.id)));
    let mut moves = reorbit(&ranked, now);
    let below = forgotten_below(now);
    let (forgotten, all) = tx.forgotten(swept, below).await?;
    for one in forgotten {
        if !moves.iter().any(|known| known.id == one.id) {
            moves.push(one);
        }
    }
    if !moves.is_empty() {
        tx.move_to_zones(&moves).await?;
    }
    Ok((moves.len() as u64, if all { Some(below) } else { swept }))
}
