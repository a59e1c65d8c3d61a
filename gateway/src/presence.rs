//! How many gateways live: each enforces that part of a tenant's rate. The last known number stays while Postgres is
//! away, and a gateway that shuts down gives its part back at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use login_pool::LoginPool;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{error::chain, metrics::Metrics};

/// `stellar.gateway_heartbeat` counts who was seen within 15 s.
const BEAT_EVERY: Duration = Duration::from_secs(5);
const BEAT_TIMEOUT: Duration = Duration::from_secs(4);

/// See the module.
pub struct Presence {
    id: Uuid,
    live: AtomicU32,
    metrics: Arc<Metrics>,
}

impl Presence {
    /// A gateway that knows of no other yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        metrics.live_gateways.set(1);
        Self { id: Uuid::new_v4(), live: AtomicU32::new(1), metrics }
    }

    /// Live gateways, this one among them.
    pub fn live(&self) -> u32 {
        self.live.load(Ordering::Relaxed).max(1)
    }

    /// Says every 5 s that this gateway lives, until cancelled; says then that it leaves.
    pub async fn announce(&self, pool: LoginPool, cancelled: CancellationToken) {
        let mut beats = interval(BEAT_EVERY);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        while cancelled.run_until_cancelled(beats.tick()).await.is_some() {
            let done = self.beat(&pool).await;
            match &done {
                Err(error) if !failing => {
                    tracing::warn!(
                        error = chain(error),
                        live = self.live(),
                        "no heartbeat to Postgres; the last count of gateways stays"
                    );
                }
                _ => {}
            }
            failing = done.is_err();
        }
        let leave = async {
            let query = sqlx::query("SELECT stellar.gateway_leave($1)").bind(self.id).persistent(false);
            query.execute(&mut *pool.acquire().await?).await
        };
        if !matches!(timeout(BEAT_TIMEOUT, leave).await, Ok(Ok(_))) {
            tracing::warn!("could not say that this gateway leaves; its share of the rates returns in 15 s");
        }
    }

    async fn beat(&self, pool: &LoginPool) -> Result<(), sqlx::Error> {
        let query =
            sqlx::query_scalar::<_, i32>("SELECT stellar.gateway_heartbeat($1)").bind(self.id).persistent(false);
        let live = async { query.fetch_one(&mut *pool.acquire().await?).await };
        let live = timeout(BEAT_TIMEOUT, live).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        let live = u32::try_from(live).unwrap_or(1).max(1);
        if self.live.swap(live, Ordering::Relaxed) != live {
            tracing::info!(live, "the number of live gateways changed");
        }
        self.metrics.live_gateways.set(live.into());
        Ok(())
    }
}
