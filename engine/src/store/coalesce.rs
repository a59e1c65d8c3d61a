//! The one way to write memories: lanes. Each write of a tenant locks its usage row, so commits of one tenant follow one
//! another; gathering the operations that wait into one transaction gives the tenant's throughput back, and one that comes
//! alone waits for nobody.
//!
//! The first operation of a tenant starts a lane; whatever arrives while a transaction runs goes with the next one. A lane
//! ends when nothing waits. It is a task of its own: a client that hangs up takes nobody's operation with it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::metrics::histogram::Histogram;
use tenancy::TenantId;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::{
    Caller, Store, StoreError, Write, Written,
    carry_out::{Asked, carry_out},
};

/// Operations of one transaction, and so the most that may come together.
pub const MOST_AT_ONCE: usize = 1000;
/// Operations of one tenant that wait, before more are refused.
const MOST_WAITING: usize = 2048;

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
    lanes: Mutex<HashMap<TenantId, Lane>>,
}

#[derive(Default)]
struct Lane {
    jobs: VecDeque<Job>,
    operations: usize,
}

/// Operations that came together: carried out in order, in one transaction.
struct Job {
    caller: Caller,
    writes: Vec<Write>,
    reply: oneshot::Sender<Answer>,
}

/// One result for each operation. An error of it all: nothing was changed, unless it is undecided.
type Answer = Result<Vec<Result<Written, StoreError>>, StoreError>;

impl Coalescer {
    /// Lanes that run in `tasks`.
    pub fn new(store: Store, tasks: TaskTracker, metrics: StoreMetrics) -> Self {
        Self(Arc::new(Shared { store, tasks, metrics, lanes: Mutex::default() }))
    }

    /// Carries out operations, at most [`MOST_AT_ONCE`], in order; returns once all are durable or refused. One result
    /// for each.
    ///
    /// # Errors
    /// [`StoreError`] when none was carried out; see [`StoreError::is_undecided`]. Of a single operation:
    /// [`StoreError::QuotaReached`], [`StoreError::IdTaken`], [`StoreError::KeyReused`].
    pub async fn write(&self, caller: Caller, writes: Vec<Write>) -> Answer {
        let (reply, answer) = oneshot::channel();
        let tenant = caller.tenant;
        if self.0.enqueue(tenant, Job { caller, writes, reply })? {
            let shared = self.0.clone();
            self.0.tasks.spawn(async move { shared.run_lane(tenant).await });
        }
        answer.await.map_err(|_| StoreError::Lost("write memories"))?
    }

    /// Carries out one operation.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn write_one(&self, caller: Caller, write: Write) -> Result<Written, StoreError> {
        let mut results = self.write(caller, vec![write]).await?;
        results.pop().unwrap_or(Err(StoreError::Lost("write a memory")))
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
        self.operations += job.writes.len();
        self.jobs.push_back(job);
    }

    /// The next jobs, all with the same capability; nothing ends the lane.
    fn take(&mut self) -> Vec<Job> {
        let (mut taken, mut operations): (Vec<Job>, _) = (Vec::new(), 0);
        while let Some(job) = self.jobs.pop_front_if(|job| {
            let fits = taken.is_empty() || operations + job.writes.len() <= MOST_AT_ONCE;
            fits && taken
                .first()
                .is_none_or(|first| first.caller.capability.as_bytes() == job.caller.capability.as_bytes())
        }) {
            operations += job.writes.len();
            taken.push(job);
        }
        self.operations -= operations;
        taken
    }
}

impl Shared {
    /// True: the caller must start the lane.
    fn enqueue(&self, tenant: TenantId, job: Job) -> Result<bool, StoreError> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let starts = !lanes.contains_key(&tenant);
        let lane = lanes.entry(tenant).or_default();
        if lane.operations >= MOST_WAITING {
            return Err(StoreError::Overloaded);
        }
        lane.push(job);
        Ok(starts)
    }

    fn dequeue(&self, tenant: TenantId) -> Vec<Job> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let jobs = lanes.get_mut(&tenant).map(Lane::take).unwrap_or_default();
        if jobs.is_empty() {
            lanes.remove(&tenant);
        }
        jobs
    }

    async fn run_lane(&self, tenant: TenantId) {
        let _end = LaneEnd(self, tenant);
        loop {
            let jobs = self.dequeue(tenant);
            if jobs.is_empty() {
                return;
            }
            self.metrics.batch_size.observe(jobs.iter().map(|job| job.writes.len()).sum::<usize>() as f64);
            self.write_together(jobs).await;
        }
    }

    async fn write_together(&self, jobs: Vec<Job>) {
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
                for Job { caller: _, writes, reply } in jobs {
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
        Job { caller, writes: vec![write; operations], reply: oneshot::channel().0 }
    }

    #[test]
    fn what_waits_goes_together_up_to_a_bound_and_never_with_another_capability() {
        let mut lane = Lane::default();
        for (operations, capability) in [(1, "aa"), (999, "aa"), (1, "aa"), (1, "bb"), (1000, "bb"), (1000, "bb")] {
            lane.push(job(operations, capability));
        }
        assert_eq!(lane.operations, 3002);
        let sizes: Vec<Vec<usize>> = std::iter::from_fn(|| {
            let taken = lane.take();
            (!taken.is_empty()).then(|| taken.iter().map(|job| job.writes.len()).collect())
        })
        .collect();
        assert_eq!(sizes, [vec![1, 999], vec![1], vec![1], vec![1000], vec![1000]]);
        assert_eq!(lane.operations, 0);
    }
}
