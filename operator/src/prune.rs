//! Removes what is kept for a bounded time and was kept long enough: entries of the log and of the audit, answers to
//! operations. Once a minute it goes on until nothing is left, in small transactions, and then measures what is.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{backoff::jittered, controller::Context, database::DatabaseError};

/// From the end of one round to the next.
pub(crate) const PRUNE_INTERVAL: Duration = Duration::from_mins(1);
/// Rows of each kind that go in one transaction: it takes some ten milliseconds.
pub(crate) const PRUNE_BATCH: i32 = 5_000;
/// Between two full batches, so that pruning leaves most of Postgres to requests.
const PRUNE_PAUSE: Duration = Duration::from_millis(100);

/// Prunes until stopped.
pub async fn prune(context: Arc<Context>, stop: CancellationToken) {
    let rounds = async {
        let mut wait = jittered(PRUNE_INTERVAL);
        loop {
            sleep(wait).await;
            wait = match prune_and_measure(&context).await {
                Ok(Pruned::InPart) => PRUNE_PAUSE,
                Ok(Pruned::All) => jittered(PRUNE_INTERVAL),
                Err(error) => {
                    tell(&error);
                    jittered(PRUNE_INTERVAL)
                }
            };
        }
    };
    tokio::select! { () = stop.cancelled() => {}, () = rounds => {} }
}

/// Prunes for a minute at most, then measures: also when pruning failed, for what waits then is what the metric is for.
async fn prune_and_measure(context: &Context) -> Result<Pruned, DatabaseError> {
    let batch = || async {
        let rows = context.database.prune(PRUNE_BATCH).await?;
        context.metrics.pruned(rows);
        Ok(rows)
    };
    let pruned = prune_all(PRUNE_INTERVAL, batch).await;
    let measured = measure(context).await;
    let pruned = pruned?;
    measured.map(|()| pruned)
}

/// The state in which a round of pruning leaves the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pruned {
    /// Nothing is left that was kept long enough.
    All,
    /// Time was up while batches were still full.
    InPart,
}

/// Prunes batch after batch until one is not full, for about as long as `most`. `batch` returns how many rows went.
async fn prune_all<E, F>(most: Duration, mut batch: impl FnMut() -> F) -> Result<Pruned, E>
where
    F: Future<Output = Result<i64, E>>,
{
    let end = Instant::now() + most;
    // The rows of all kinds together: as long as one kind fills its batch, they are as many at least.
    while batch().await? >= i64::from(PRUNE_BATCH) {
        if Instant::now() >= end {
            return Ok(Pruned::InPart);
        }
        sleep(PRUNE_PAUSE).await;
    }
    Ok(Pruned::All)
}

/// Measures what pruning left, and the size of the database.
async fn measure(context: &Context) -> Result<(), DatabaseError> {
    context.metrics.set_prune_lag(context.database.prune_lag().await?);
    context.metrics.set_database_bytes(context.database.size().await?);
    Ok(())
}

/// Logs a failure. That Postgres does not answer is said by the sweep.
fn tell(error: &DatabaseError) {
    if matches!(error, DatabaseError::Unavailable { .. }) {
        tracing::debug!(%error, "old entries stay; trying again in a minute");
    } else {
        tracing::warn!(%error, "old entries could not be pruned or measured; trying again in a minute");
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    const FULL: i64 = PRUNE_BATCH as i64;

    #[tokio::test]
    async fn pruning_repeats_until_a_batch_is_not_full() {
        let mut batches = [FULL, 2 * FULL, FULL, 17, FULL].into_iter();
        let left = prune_all(Duration::from_hours(1), || ready(Ok::<_, ()>(batches.next().unwrap_or(0)))).await;
        assert_eq!(left, Ok(Pruned::All));
        assert_eq!(batches.as_slice(), [FULL], "it stops after the one that was not full");
    }

    #[tokio::test]
    async fn pruning_that_never_ends_stops_in_time() {
        let mut batches = 0;
        let left = prune_all(PRUNE_PAUSE, || {
            batches += 1;
            ready(Ok::<_, ()>(FULL))
        })
        .await;
        assert_eq!(left, Ok(Pruned::InPart));
        assert!(batches >= 1, "one batch at least goes, however little time there is");
    }

    #[tokio::test]
    async fn pruning_that_fails_ends_its_round() {
        let left = prune_all(Duration::from_hours(1), || ready(Err("Postgres is away"))).await;
        assert_eq!(left, Err("Postgres is away"));
    }
}
