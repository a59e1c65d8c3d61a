//! Coalesced stores. Each store of a tenant locks its usage row, so commits of one tenant follow one another; gathering the
//! stores that wait into one transaction gives the tenant's throughput back, and one that comes alone waits for nobody.
//!
//! The first store of a tenant starts a lane; whatever arrives while a transaction runs goes with the next one. A lane ends
//! when nothing waits. It is a task of its own: a client that hangs up takes nobody's store with it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::metrics::histogram::Histogram;
use serde::{Deserialize, Serialize};
use tenancy::TenantId;
use time::OffsetDateTime;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{Access, Caller, Operation, Store, StoreError, memories::Insert};
use crate::memory::{AnchoredScore, NewMemory, Standing, Zone};

const MOST_AT_ONCE: usize = 64;
const MOST_WAITING: usize = 2048;

/// What a store answers.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Stored {
    /// The new memory.
    pub id: Uuid,
    /// Its zone.
    pub zone: u8,
    /// Its score.
    pub score: f64,
    /// Whether this answers a retry of an earlier store.
    #[serde(skip)]
    pub replayed: bool,
}

/// What the lanes measure.
#[derive(Clone)]
pub struct StoreMetrics {
    /// Stores that went into one transaction.
    pub batch_size: Histogram,
}

/// Stores memories, those of one tenant together.
#[derive(Clone)]
pub struct Coalescer(Arc<Shared>);

struct Shared {
    store: Store,
    tasks: TaskTracker,
    metrics: StoreMetrics,
    lanes: Mutex<HashMap<TenantId, VecDeque<Job>>>,
}

struct Job {
    caller: Caller,
    memory: NewMemory,
    operation: Option<Operation>,
    reply: oneshot::Sender<Result<Stored, StoreError>>,
}

impl Coalescer {
    /// Lanes that run in `tasks`.
    pub fn new(store: Store, tasks: TaskTracker, metrics: StoreMetrics) -> Self {
        Self(Arc::new(Shared { store, tasks, metrics, lanes: Mutex::default() }))
    }

    /// Stores a memory; returns once it is durable.
    ///
    /// # Errors
    /// [`StoreError`]; among them [`StoreError::QuotaReached`] and [`StoreError::KeyReused`].
    pub async fn store(
        &self,
        caller: Caller,
        memory: NewMemory,
        operation: Option<Operation>,
    ) -> Result<Stored, StoreError> {
        let (reply, answer) = oneshot::channel();
        let tenant = caller.tenant;
        let job = Job { caller, memory, operation, reply };
        if self.0.enqueue(tenant, job)? {
            let shared = self.0.clone();
            self.0.tasks.spawn(async move { shared.run_lane(tenant).await });
        }
        answer.await.map_err(|_| StoreError::Lost("store a memory"))?
    }
}

/// Ends the lane of a tenant if its task unwinds: the jobs are dropped, their clients told, and the next store starts anew.
struct LaneEnd<'a>(&'a Shared, TenantId);

impl Drop for LaneEnd<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
        }
    }
}

impl Shared {
    /// True: the caller must start the lane.
    fn enqueue(&self, tenant: TenantId, job: Job) -> Result<bool, StoreError> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get_mut(&tenant) {
            if lane.len() >= MOST_WAITING {
                return Err(StoreError::Overloaded);
            }
            lane.push_back(job);
            return Ok(false);
        }
        lanes.insert(tenant, VecDeque::from([job]));
        Ok(true)
    }

    /// The next jobs, all with the same capability; nothing ends the lane.
    fn dequeue(&self, tenant: TenantId) -> Vec<Job> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lane) = lanes.get_mut(&tenant) else { return Vec::new() };
        let Some(first) = lane.front() else {
            lanes.remove(&tenant);
            return Vec::new();
        };
        let capability = first.caller.capability.clone();
        let alike = lane.iter().take_while(|job| job.caller.capability.as_bytes() == capability.as_bytes()).count();
        lane.drain(..alike.min(MOST_AT_ONCE)).collect()
    }

    async fn run_lane(&self, tenant: TenantId) {
        let _end = LaneEnd(self, tenant);
        loop {
            let jobs = self.dequeue(tenant);
            if jobs.is_empty() {
                return;
            }
            self.metrics.batch_size.observe(jobs.len() as f64);
            self.store_together(jobs).await;
        }
    }

    async fn store_together(&self, jobs: Vec<Job>) {
        let mut results = self.transaction(&jobs).await;
        // The usage row told how many fit, and nobody else can move it; should the trigger see it differently all the same,
        // the batch failed whole: one by one then, so that those that fit are stored.
        if jobs.len() > 1 && matches!(results, Err(StoreError::QuotaReached { .. })) {
            let mut each = Vec::with_capacity(jobs.len());
            for job in &jobs {
                each.push(self.transaction(std::slice::from_ref(job)).await.and_then(|mut one| one.remove(0)));
            }
            results = Ok(each);
        }
        match results {
            // A client that hung up does not hear its answer.
            Ok(results) => jobs.into_iter().zip(results).for_each(|(job, result)| drop(job.reply.send(result))),
            Err(error) => jobs.into_iter().for_each(|job| drop(job.reply.send(Err(error.clone())))),
        }
    }

    /// One transaction for all jobs, one result for each. An error: nothing was stored.
    async fn transaction(&self, jobs: &[Job]) -> Result<Vec<Result<Stored, StoreError>>, StoreError> {
        let Some(first) = jobs.first() else { return Ok(Vec::new()) };
        let mut tx = self.store.begin(&first.caller, Access::Write).await?;
        let usage = tx.usage();
        let mut room = match usage.memory_limit {
            ..0 => usize::MAX,
            limit => usize::try_from(limit - usage.memory_count).unwrap_or(0),
        };
        let keys: Vec<&str> =
            jobs.iter().filter_map(|job| job.operation.as_ref()).map(|operation| operation.id.as_str()).collect();
        let mut given = if keys.is_empty() { HashMap::new() } else { tx.answers(&keys).await? };
        let now = OffsetDateTime::now_utc();
        let (mut results, mut inserts, mut new_answers) = (Vec::with_capacity(jobs.len()), Vec::new(), Vec::new());
        let mut next_tier = None;
        for job in jobs {
            if let Some(operation) = &job.operation
                && let Some((hash, answer)) = given.get(&operation.id)
            {
                let same = hash.as_slice() == operation.request_hash;
                results.push(if same { Ok(Stored { replayed: true, ..*answer }) } else { Err(StoreError::KeyReused) });
                continue;
            }
            if room == 0 {
                let (used, limit) =
                    (i64::from(usage.memory_count) + inserts.len() as i64, i64::from(usage.memory_limit));
                if next_tier.is_none() {
                    next_tier = Some(tx.next_tier(limit).await?);
                }
                results.push(Err(StoreError::QuotaReached { used, limit, next_tier: next_tier.clone().flatten() }));
                continue;
            }
            room -= 1;
            let (insert, stored) = place(job, now);
            inserts.push(insert);
            results.push(Ok(stored));
            if let Some(operation) = &job.operation {
                given.insert(operation.id.clone(), (operation.request_hash.to_vec(), stored));
                new_answers.push((operation, stored));
            }
        }
        if inserts.is_empty() {
            return Ok(results);
        }
        tx.insert(&inserts).await?;
        if !new_answers.is_empty() {
            tx.keep_answers(&new_answers).await?;
        }
        tx.commit().await?;
        Ok(results)
    }
}

fn place(job: &Job, now: OffsetDateTime) -> (Insert<'_>, Stored) {
    let standing = Standing { recalls: 0, importance: job.memory.importance, context: 0.0, touched: now };
    let anchored: AnchoredScore = standing.anchored();
    let score = anchored.at(now);
    let zone = Zone::by_score(score);
    let id = Uuid::now_v7();
    let insert = Insert { id, memory: &job.memory, agent: job.caller.agent.as_deref(), zone, score: anchored };
    (insert, Stored { id, zone: zone.number(), score: score.value(), replayed: false })
}
