//! Who leads: the holder of a Lease. Of several replicas one works and the others wait. Whoever cannot renew the
//! Lease until it expires stops working before another may start, and a Lease that somebody deleted is made again.

use std::time::{Duration, Instant};

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::controller::FIELD_MANAGER;

const LEASE: &str = "stellar-operator";
const LEASE_SECONDS: u64 = 15;
/// A holder renews this long before the Lease expires.
const GRACE_SECONDS: u64 = 5;
const RETRY: Duration = Duration::from_millis(500);
/// A call fails within 3 s of the 5 s of grace; what is left is for trying again.
const PATIENCE: Duration = Duration::from_secs(2);
const RELEASE: Duration = Duration::from_secs(3);

/// A replica that takes part in the election.
pub struct Candidate {
    /// Must give up on a call well before the Lease expires.
    pub client: Client,
    /// Where the Lease is.
    pub namespace: String,
    /// This replica's name.
    pub identity: String,
}

impl Candidate {
    /// Takes part until stopped, and says in `leads` whether this replica leads. Gives the Lease back at the end, so
    /// that another replica need not wait for it to expire.
    pub async fn run(self, leads: watch::Sender<bool>, stop: CancellationToken) {
        let mut trouble: Option<Instant> = None;
        let mut present: Option<LeaseManager> = None;
        loop {
            let holds = *leads.borrow();
            let patience = trouble.map_or(PATIENCE, |since| PATIENCE.saturating_sub(since.elapsed()));
            let outcome = tokio::select! {
                () = stop.cancelled() => break,
                outcome = self.next(&mut present) => outcome,
                () = tokio::time::sleep(patience), if holds && trouble.is_some() => {
                    // Another replica may have it by now, of which a manager that is new does not tell.
                    leads.send_replace(false);
                    continue;
                }
            };
            match outcome {
                Ok(holds) => {
                    if trouble.take().is_some() {
                        tracing::info!("the lease can be read again");
                    }
                    leads.send_replace(holds);
                }
                Err(error) => {
                    // A fresh manager reads the Lease anew, or makes it if it is gone.
                    present = None;
                    trouble.get_or_insert_with(|| {
                        tracing::warn!(%error, "the lease cannot be read or renewed; trying again");
                        Instant::now()
                    });
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        if let Some(manager) = present {
            // Nobody minds if it does not work: the Lease expires.
            let _ = tokio::time::timeout(RELEASE, manager.release()).await;
        }
    }

    /// The next time that this replica gets or loses the Lease.
    async fn next(&self, present: &mut Option<LeaseManager>) -> Result<bool, LeaseManagerError> {
        let manager = match present {
            Some(manager) => manager,
            None => present.insert(self.manager().await?),
        };
        manager.changed().await
    }

    async fn manager(&self) -> Result<LeaseManager, LeaseManagerError> {
        LeaseManagerBuilder::new(self.client.clone(), LEASE)
            .with_namespace(&self.namespace)
            .with_identity(&self.identity)
            .with_field_manager(format!("{FIELD_MANAGER}-{}", self.identity))
            .with_duration(LEASE_SECONDS)
            .with_grace(GRACE_SECONDS)
            .build()
            .await
    }
}
