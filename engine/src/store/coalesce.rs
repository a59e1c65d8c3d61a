//! The one way to write memories: lanes. Each write of a tenant locks its usage row, so commits of one tenant follow one
//! another; gathering the operations that wait into one transaction gives the tenant's throughput back, and one that comes
//! alone waits for nobody.
//!
//! The first operation of a tenant starts a lane; whatever arrives while a transaction runs goes with the next one. A lane
//! ends when nothing waits. It is a task of its own: a client that hangs up takes nobody's operation with it.
//!
//! A batch of an import goes through the lane as well, as a transaction of its own; a tenant has one import at a time. So
//! what a tenant writes waits in its lane, without a connection, and holds one at a time.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::metrics::histogram::Histogram;
use tenancy::TenantId;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::{
    Arrival, Arrived, Caller, LineFull, Place, Places, Store, StoreError, Write, Written,
    carry_out::{Asked, carry_out},
};

/// Operations of one transaction, and so the most that may come together.
pub const MOST_AT_ONCE: usize = 1000;
/// Operations of one tenant that wait, before more are refused.
const MOST_WAITING: usize = 2048;
/// Imports of one tenant that wait for the one that is under way, before more are refused.
pub const MOST_IMPORTS_WAITING: usize = 4;

/// What the lanes measure.
#[derive(Clone)]
pub struct StoreMetrics {
    /// Operations that went into one transaction.
    pub batch_size: Histogram,
}

/// Writes memories, what waits for one tenant together.
#[derive(Clone)]
pub struct Coalescer(Arc<Shared>);

struct Shared {
    store: Store,
    tasks: TaskTracker,
    metrics: StoreMetrics,
    imports: Places,
    lanes: Mutex<HashMap<TenantId, Lane>>,
}

#[derive(Default)]
struct Lane {
    jobs: VecDeque<Job>,
    operations: usize,
}

/// What waits in a lane.
enum Job {
    /// Operations that came together: carried out in order, in one transaction.
    Operations(Operations),
    /// A transaction of its own.
    Import(ImportBatch),
}

struct ImportBatch {
    caller: Caller,
    arrivals: Vec<Arrival>,
    reply: oneshot::Sender<Answer<Arrived>>,
    /// The next import waits for this one's last batch, also when its client hung up.
    _place: Option<Arc<Place>>,
}

struct Operations {
    caller: Caller,
    writes: Vec<Write>,
    reply: oneshot::Sender<Answer<Written>>,
}

/// What goes into one transaction.
enum Turn {
    Together(Vec<Operations>),
    Import(ImportBatch),
}

/// One result for each operation. An error of it all: nothing was changed, unless it is undecided.
type Answer<T> = Result<Vec<Result<T, StoreError>>, StoreError>;

/// The right to import into a tenant. The next one waits for its end.
pub struct ImportTurn {
    coalescer: Coalescer,
    caller: Caller,
    place: Arc<Place>,
}

impl Coalescer {
    /// Lanes that run in `tasks`.
    pub fn new(store: Store, tasks: TaskTracker, metrics: StoreMetrics) -> Self {
        let imports = Places::new(1, MOST_IMPORTS_WAITING);
        Self(Arc::new(Shared { store, tasks, metrics, imports, lanes: Mutex::default() }))
    }

    /// Carries out operations, at most [`MOST_AT_ONCE`], in order; returns once all are durable or refused. One result
    /// for each.
    ///
    /// # Errors
    /// [`StoreError`] when none was carried out; see [`StoreError::is_undecided`]. Of a single operation:
    /// [`StoreError::QuotaReached`], [`StoreError::IdTaken`], [`StoreError::KeyReused`].
    pub async fn write(&self, caller: Caller, writes: Vec<Write>) -> Answer<Written> {
        let (reply, answer) = oneshot::channel();
        self.start(caller.tenant, Job::Operations(Operations { caller, writes, reply }))?;
        answer.await.map_err(|_| StoreError::Lost("write memories"))?
    }

    fn start(&self, tenant: TenantId, job: Job) -> Result<(), StoreError> {
        if self.0.enqueue(tenant, job)? {
            let shared = self.0.clone();
            self.0.tasks.spawn(async move { shared.run_lane(tenant).await });
        }
        Ok(())
    }

    /// Carries out one operation.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn write_one(&self, caller: Caller, write: Write) -> Result<Written, StoreError> {
        let mut results = self.write(caller, vec![write]).await?;
        results.pop().unwrap_or(Err(StoreError::Lost("write a memory")))
    }

    /// Waits until no other import of the tenant is under way.
    ///
    /// # Errors
    /// [`LineFull`], at once, where [`MOST_IMPORTS_WAITING`] wait already.
    pub async fn import_turn(&self, caller: &Caller) -> Result<ImportTurn, LineFull> {
        let place = self.0.imports.take(caller.tenant).await?;
        Ok(ImportTurn { coalescer: self.clone(), caller: caller.clone(), place: Arc::new(place) })
    }
}

impl ImportTurn {
    /// Stores what the tenant does not have yet and what fits into its quota, in one transaction; one result for each.
    ///
    /// # Errors
    /// As of [`Store::import`].
    pub async fn import(&self, arrivals: Vec<Arrival>) -> Answer<Arrived> {
        let (reply, answer) = oneshot::channel();
        let (caller, place) = (self.caller.clone(), Some(self.place.clone()));
        self.coalescer.start(caller.tenant, Job::Import(ImportBatch { caller, arrivals, reply, _place: place }))?;
        answer.await.map_err(|_| StoreError::Lost("import memories"))?
    }
}

/// Ends the lane of a tenant if its task unwinds: the jobs are dropped, their clients told, and the next one starts anew.
struct LaneEnd<'a>(&'a Shared, TenantId);

impl Drop for LaneEnd<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
        }
    }
}

impl Lane {
    fn push(&mut self, job: Job) {
        if let Job::Operations(job) = &job {
            self.operations += job.writes.len();
        }
        self.jobs.push_back(job);
    }

    /// The next transaction: an import's batch, or operations that all have the same capability. Nothing ends the lane.
    fn take(&mut self) -> Option<Turn> {
        let first = match self.jobs.pop_front()? {
            Job::Import(batch) => return Some(Turn::Import(batch)),
            Job::Operations(first) => first,
        };
        let mut operations = first.writes.len();
        let mut taken = vec![first];
        while let Some(Job::Operations(job)) = self.jobs.pop_front_if(|job| match job {
            Job::Import(_) => false,
            Job::Operations(job) => {
                operations + job.writes.len() <= MOST_AT_ONCE
                    && taken[0].caller.capability.as_bytes() == job.caller.capability.as_bytes()
            }
        }) {
            operations += job.writes.len();
            taken.push(job);
        }
        self.operations -= operations;
        Some(Turn::Together(taken))
    }
}

impl Shared {
    /// True: the caller must start the lane.
    fn enqueue(&self, tenant: TenantId, job: Job) -> Result<bool, StoreError> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let starts = !lanes.contains_key(&tenant);
        let lane = lanes.entry(tenant).or_default();
        // One batch of imports waits at a time.
        if lane.operations >= MOST_WAITING && matches!(job, Job::Operations(_)) {
            return Err(StoreError::Overloaded);
        }
        lane.push(job);
        Ok(starts)
    }

    fn dequeue(&self, tenant: TenantId) -> Option<Turn> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = lanes.get_mut(&tenant).and_then(Lane::take);
        if turn.is_none() {
            lanes.remove(&tenant);
        }
        turn
    }

    async fn run_lane(&self, tenant: TenantId) {
        let _end = LaneEnd(self, tenant);
        while let Some(turn) = self.dequeue(tenant) {
            match turn {
                Turn::Together(jobs) => self.write_together(jobs).await,
                // Whoever hung up does not hear its answer.
                Turn::Import(ImportBatch { caller, arrivals, reply, _place }) => {
                    drop(reply.send(self.store.import(&caller, &arrivals).await));
                }
            }
        }
    }

    async fn write_together(&self, jobs: Vec<Operations>) {
        self.metrics.batch_size.observe(jobs.iter().map(|job| job.writes.len()).sum::<usize>() as f64);
        let asked: Vec<Asked<'_>> =
            jobs.iter().flat_map(|job| job.writes.iter().map(|write| Asked { caller: &job.caller, write })).collect();
        let mut results = carry_out(&self.store, &asked).await;
        // The transaction knew how many fit and which ids are taken, and nobody else can change that; should a trigger or
        // a key see it differently all the same, it failed whole: one by one then, so that what can be done is done.
        let refused = matches!(results, Err(StoreError::QuotaReached { .. } | StoreError::IdTaken));
        if refused && asked.len() > 1 {
            let mut each = Vec::with_capacity(asked.len());
            for one in &asked {
                let alone = carry_out(&self.store, std::slice::from_ref(one)).await;
                each.push(
                    alone.and_then(|mut results| results.pop().unwrap_or(Err(StoreError::Lost("write a memory")))),
                );
            }
            results = Ok(each);
        }
        // A client that hung up does not hear its answer.
        match results {
            Ok(results) => {
                let mut results = results.into_iter();
                for Operations { caller: _, writes, reply } in jobs {
                    drop(reply.send(Ok(results.by_ref().take(writes.len()).collect())));
                }
            }
            Err(error) => jobs.into_iter().for_each(|job| drop(job.reply.send(Err(error.clone())))),
        }
    }
}

#[cfg(test)]
mod tests {
    use tenancy::{Capability, LOCAL_TENANT};
    use uuid::Uuid;

    use super::*;
    use crate::store::What;

    fn job(operations: usize, capability: &str) -> Job {
        let capability = Capability::parse(&capability.repeat(32)).expect("64 hex digits");
        let write = Write { what: What::Remove { id: Uuid::max(), at: None }, once: None };
        let caller = Caller { tenant: LOCAL_TENANT, capability, agent: None, key: None };
        if operations == 0 {
            let reply = oneshot::channel().0;
            return Job::Import(ImportBatch { caller, arrivals: Vec::new(), reply, _place: None });
        }
        Job::Operations(Operations { caller, writes: vec![write; operations], reply: oneshot::channel().0 })
    }

    /// The sizes of transactions; none: an import's.
    fn sizes(lane: &mut Lane) -> Vec<Vec<usize>> {
        std::iter::from_fn(|| lane.take())
            .map(|turn| match turn {
                Turn::Import(_) => Vec::new(),
                Turn::Together(jobs) => jobs.iter().map(|job| job.writes.len()).collect(),
            })
            .collect()
    }

    #[test]
    fn what_waits_goes_together_up_to_a_bound_and_never_with_another_capability() {
        let mut lane = Lane::default();
        for (operations, capability) in [(1, "aa"), (999, "aa"), (1, "aa"), (1, "bb"), (1000, "bb"), (1000, "bb")] {
            lane.push(job(operations, capability));
        }
        assert_eq!(lane.operations, 3002);
        assert_eq!(sizes(&mut lane), [vec![1, 999], vec![1], vec![1], vec![1000], vec![1000]]);
        assert_eq!(lane.operations, 0);
    }

    #[test]
    fn import_batch_keeps_its_order_and_goes_alone() {
        let mut lane = Lane::default();
        for operations in [1, 2, 0, 3, 0, 0] {
            lane.push(job(operations, "aa"));
        }
        assert_eq!(lane.operations, 6, "an import's batch takes no room of others");
        assert_eq!(sizes(&mut lane), [vec![1, 2], vec![], vec![3], vec![], vec![]]);
    }
}
