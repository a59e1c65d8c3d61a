//! A service for tests: a log that never ends for whoever is behind, and operations that are answered at once.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Map, Value, json, value::RawValue};
use tenancy::{LOCAL_TENANT, TenantId};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    Admission, Change, Changes, Failure, Hello, Limits, Outcome, Refusal, Rooms, Service, Standing, SyncMetrics, Times,
    Unavailable,
};

/// The last change of the log. Changes before it are read in pages, each of which comes at once.
pub(crate) const END: i64 = 1_000_000;
pub(crate) const PAGE: i64 = 50;
/// Bytes of a change, roughly.
pub(crate) const CHANGE: usize = 200;
/// An operation with this text in it cannot be read, and with it no batch that has it.
pub(crate) const POISON: &str = "poison";

/// What a test changes and sees. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) revoked: Arc<AtomicBool>,
    pub(crate) sockets: Option<u32>,
    /// The engine is away for so many more attempts.
    pub(crate) away: Arc<AtomicUsize>,
    /// How many operations each attempt had.
    pub(crate) attempts: Arc<Mutex<Vec<usize>>>,
}

impl Fake {
    pub(crate) fn revoke(&self) {
        self.revoked.store(true, Ordering::SeqCst);
    }

    /// Rooms of this service, what they measure, and what ends them.
    pub(crate) fn rooms(&self, times: Times) -> (Rooms<Self>, SyncMetrics, CancellationToken) {
        let (metrics, leaving) = (SyncMetrics::default(), CancellationToken::new());
        (Rooms::new(self.clone(), metrics.clone(), times, leaving.clone()), metrics, leaving)
    }
}

impl Service for Fake {
    type Member = ();

    async fn admit(&self, _: Hello, _: IpAddr) -> Result<Admission<()>, Refusal> {
        Ok(Admission { member: (), tenant: LOCAL_TENANT, agent: "main".to_owned() })
    }

    fn standing(&self, (): &()) -> Standing {
        if self.revoked.load(Ordering::SeqCst) { Standing::KeyEnded } else { Standing::Good }
    }

    fn limits(&self, (): &()) -> Limits {
        Limits { sockets: self.sockets, operations_per_second: 1_000 }
    }

    async fn changes(&self, _: TenantId, since: Option<i64>, wait: Duration) -> Result<Changes, Unavailable> {
        let from = since.unwrap_or(END);
        if from >= END {
            if since.is_some() {
                sleep(wait).await;
            }
            return Ok(Changes { seq: END, ..Changes::default() });
        }
        let change = |seq: i64| Change { seq, json: json!({ "seq": seq, "memory": "x".repeat(CHANGE) }).to_string() };
        let changes = (from + 1..=END.min(from + PAGE)).map(change).collect();
        Ok(Changes { seq: END, changes, resync: false })
    }

    async fn carry_out(&self, (): &(), operations: &[Box<RawValue>]) -> Result<Vec<Outcome>, Failure> {
        self.attempts.lock().expect("no test panics with it").push(operations.len());
        if self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(Unavailable("the engine is away".to_owned()).into());
        }
        if operations.iter().any(|operation| operation.get().contains(POISON)) {
            return Err(crate::failure(400, br#"{"type":"invalid-request","detail":"it is not valid JSON"}"#));
        }
        let done = || Outcome { refused: false, fields: Map::from_iter([("applied".to_owned(), Value::from(true))]) };
        Ok(operations.iter().map(|_| done()).collect())
    }
}
