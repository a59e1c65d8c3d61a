//! Waiting for a tenant's log to grow. Whoever follows a log leaves its end here, and is woken when a write of this engine
//! passed it, or when Postgres says that another replica's did: one question about all logs that are followed, a few times
//! a second, and none when there are no followers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tenancy::{Capability, TenantId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::{Caller, Committed, Store};

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// With very many logs a look is dear.
const MANY: usize = 1_000;
const LOOK_EVERY_WHEN_MANY: Duration = Duration::from_secs(1);
/// Between two questions of a follower nobody waits for a moment.
const KEPT_FOR: Duration = Duration::from_secs(5);

/// The ends of the logs that are followed. Cheap to clone.
#[derive(Clone)]
pub struct Logs(Arc<Shared>);

struct Shared {
    store: Store,
    logs: Mutex<HashMap<TenantId, Log>>,
}

struct Log {
    capability: Capability,
    end: watch::Sender<End>,
    waiting: usize,
    left: Instant,
}

/// What is known of a log's end.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct End {
    /// The number of its last change; `None` until somebody read it with the capability that is kept.
    seq: Option<i64>,
    /// Postgres does not serve the tenant here any more.
    gone: bool,
}

impl Logs {
    /// Nothing is followed yet.
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Shared { store, logs: Mutex::default() }))
    }

    /// Begins to watch the log of the caller's tenant.
    pub fn watch(&self, caller: &Caller) -> Watch {
        let mut logs = self.0.lock();
        let log = logs.entry(caller.tenant).or_insert_with(|| Log {
            capability: caller.capability.clone(),
            end: watch::channel(End::default()).0,
            waiting: 0,
            left: Instant::now(),
        });
        if log.capability.as_bytes() != caller.capability.as_bytes() {
            // What was learned with another capability is not for this one to know.
            log.capability = caller.capability.clone();
            log.end.send_replace(End::default());
        }
        log.waiting += 1;
        Watch { logs: self.clone(), tenant: caller.tenant, end: log.end.subscribe() }
    }

    /// Asks Postgres for the ends until stopped.
    pub async fn look_regularly(&self, stop: CancellationToken) {
        let mut pause = LOOK_EVERY;
        while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            let asked: Vec<(TenantId, Capability)> = {
                let mut logs = self.0.lock();
                logs.retain(|_, log| log.waiting > 0 || log.left.elapsed() < KEPT_FOR);
                logs.iter().map(|(tenant, log)| (*tenant, log.capability.clone())).collect()
            };
            pause = if asked.len() > MANY { LOOK_EVERY_WHEN_MANY } else { LOOK_EVERY };
            if asked.is_empty() {
                continue;
            }
            match self.0.store.log_ends(&asked).await {
                Ok(ends) => self.0.learn(&asked, &ends),
                // Followers go on waiting; what they missed they find when Postgres answers again.
                Err(error) => tracing::debug!(%error, "the ends of logs cannot be read just now"),
            }
        }
    }
}

impl Committed for Logs {
    fn committed(&self, tenant: TenantId, seq: i64) {
        if let Some(log) = self.0.lock().get(&tenant) {
            passes(&log.end, seq);
        }
    }
}

impl Shared {
    fn learn(&self, asked: &[(TenantId, Capability)], ends: &HashMap<TenantId, i64>) {
        let logs = self.lock();
        for (tenant, capability) in asked {
            let Some(log) = logs.get(tenant).filter(|log| log.capability.as_bytes() == capability.as_bytes()) else {
                continue;
            };
            match ends.get(tenant) {
                Some(seq) => passes(&log.end, *seq),
                None => drop(log.end.send_if_modified(|end| !std::mem::replace(&mut end.gone, true))),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Log>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look may be overtaken by a write: an end never goes back.
fn passes(end: &watch::Sender<End>, seq: i64) {
    end.send_if_modified(|end| {
        let news = end.seq.is_some_and(|known| known < seq) || end.gone;
        if news {
            end.seq = end.seq.max(Some(seq));
            end.gone = false;
        }
        news
    });
}

/// One who waits for a log; stops when dropped.
pub struct Watch {
    logs: Logs,
    tenant: TenantId,
    end: watch::Receiver<End>,
}

impl Watch {
    /// Whether the log is known to end at this place, so that reading it again would tell nothing.
    pub fn ends_at(&self, place: i64) -> bool {
        *self.end.borrow() == End { seq: Some(place), gone: false }
    }

    /// The caller read, with its capability, that the log ends there.
    pub fn read(&self, seq: i64) {
        if let Some(log) = self.logs.0.lock().get(&self.tenant) {
            log.end.send_if_modified(|end| {
                let before = *end;
                *end = End { seq: end.seq.max(Some(seq)), gone: false };
                before != *end
            });
        }
    }

    /// Waits until reading may tell more than what ends at this place.
    pub async fn passes(&mut self, place: i64) {
        // The sender lives as long as this watch.
        let _ = self.end.wait_for(|end| end.gone || end.seq != Some(place)).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(log) = self.logs.0.lock().get_mut(&self.tenant) {
            log.waiting -= 1;
            log.left = Instant::now();
        }
    }
}
