//! Operations of one socket: those that wait, and how a batch of them is carried out and answered.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};

use crate::{
    Failure, Outcome, Service,
    metrics::ResultLabel,
    rooms::Inner,
    wire::{self, FRAME_MOST, Operation},
};

/// Operations in one batch, and that wait for the next.
const BATCH: usize = 128;
const WAITING_MOST: usize = 256;
const WAITING_BYTES: usize = 1024 * 1024;
/// Bytes of the operations of one batch, commas included, at most. An engine takes more than that.
pub const BATCH_BYTES: usize = WAITING_BYTES + FRAME_MOST + BATCH;
const PAUSE: Duration = Duration::from_millis(100);

/// What waits for the batch that is under way, bounded.
#[derive(Default)]
pub(crate) struct Waiting {
    operations: VecDeque<Operation>,
    bytes: usize,
}

impl Waiting {
    /// One more frame may be read.
    pub(crate) fn has_room(&self) -> bool {
        self.operations.len() < WAITING_MOST && self.bytes < WAITING_BYTES
    }

    pub(crate) fn push(&mut self, operation: Operation) {
        self.bytes += operation.json.get().len();
        self.operations.push_back(operation);
    }

    /// Takes what goes together next; `None`: nothing waits.
    pub(crate) fn next_batch(&mut self) -> Option<Vec<Operation>> {
        let batch: Vec<Operation> = self.operations.drain(..self.operations.len().min(BATCH)).collect();
        self.bytes -= batch.iter().map(|operation| operation.json.get().len()).sum::<usize>();
        (!batch.is_empty()).then_some(batch)
    }
}

/// Carries a batch out, however often it takes, and returns the frames that answer it. Of a batch that is refused as a whole
/// each operation is carried out by itself: it is not said which of them it was, and the others are to succeed.
pub(crate) async fn carry_out<S: Service>(
    rooms: Arc<Inner<S>>,
    member: S::Member,
    batch: Vec<Operation>,
) -> Vec<String> {
    let (ids, operations): (Vec<String>, Vec<_>) =
        batch.into_iter().map(|Operation { op_id, json }| (op_id, json)).unzip();
    let until = Instant::now() + rooms.times.patience;
    match attempt(&rooms, &member, &operations, until).await {
        Err(Failure::Refused(_)) if operations.len() > 1 => {
            let mut answers = Vec::with_capacity(ids.len());
            let mut each = ids.into_iter().zip(operations);
            while let Some((id, operation)) = each.next() {
                let attempted = attempt(&rooms, &member, &[operation], until).await;
                // Patience has ended, and what follows must not overtake it.
                let ended = matches!(attempted, Err(Failure::Unavailable(_)));
                let ids =
                    if ended { [id].into_iter().chain(each.by_ref().map(|(id, _)| id)).collect() } else { vec![id] };
                answers.extend(answer(&rooms, ids, attempted));
            }
            answers
        }
        attempted => answer(&rooms, ids, attempted),
    }
}

/// Tries until there is an answer, or patience ends.
async fn attempt<S: Service>(
    rooms: &Inner<S>,
    member: &S::Member,
    operations: &[Box<RawValue>],
    until: Instant,
) -> Result<Vec<Outcome>, Failure> {
    loop {
        match rooms.service.carry_out(member, operations).await {
            Err(Failure::Unavailable(error)) if Instant::now() < until => {
                tracing::debug!(%error, "operations cannot be carried out just now; trying again");
                sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
            }
            attempted => return attempted,
        }
    }
}

/// The frames that answer the operations of these names, in order.
fn answer<S: Service>(rooms: &Inner<S>, ids: Vec<String>, attempted: Result<Vec<Outcome>, Failure>) -> Vec<String> {
    let count = |result, n: usize| {
        rooms.metrics.operations.get_or_create(&ResultLabel { result }).inc_by(n as u64);
    };
    match attempted {
        Ok(outcomes) => {
            let refused = outcomes.iter().filter(|outcome| outcome.refused).count();
            count("refused", refused);
            count("done", outcomes.len() - refused);
            // The name is the one that the client sent, whatever of it could be read elsewhere.
            ids.into_iter().zip(outcomes).map(|(id, outcome)| wire::answer(&id, outcome)).collect()
        }
        Err(Failure::Refused(fields)) => {
            count("refused", ids.len());
            let refused = |id: String| wire::answer(&id, Outcome { refused: true, fields: fields.clone() });
            ids.into_iter().map(refused).collect()
        }
        Err(Failure::Unavailable(_)) => {
            count("unavailable", ids.len());
            let detail = "it could not be carried out for too long; whether it was is not known: send it again";
            ids.iter().map(|id| wire::error(Some(id), "unavailable", detail)).collect()
        }
    }
}
