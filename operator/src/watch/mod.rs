//! What makes a Tenant be looked at again: itself, its Tier, anything that was made for it, and its rows. Watches
//! hold metadata only, and of objects that carry the tenant's label. All of them feed one queue, which the
//! controller empties; a Tenant that is queued twice is reconciled once.

mod owned;
mod secrets;
mod tenants;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use backon::ExponentialBuilder;
use crds::Tenant;
use futures::channel::mpsc;
use kube::runtime::{reflector::ObjectRef, watcher::ExponentialBackoff};

pub use owned::watch_owned;
pub use secrets::SecretWatches;
pub use tenants::{watch_tenants, watch_tiers};

/// Where Tenants are put that are to be looked at.
#[derive(Clone)]
pub struct Queue(mpsc::UnboundedSender<ObjectRef<Tenant>>);

impl Queue {
    /// A queue and its other end.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<ObjectRef<Tenant>>) {
        let (sender, receiver) = mpsc::unbounded();
        (Self(sender), receiver)
    }

    /// Asks for a look at a Tenant.
    pub fn push(&self, tenant: &str) {
        // The other end goes only when the program stops leading; then nobody needs to look.
        let _ = self.0.unbounded_send(ObjectRef::new(tenant));
    }
}

/// Whether anything about Tenants or Tiers changed since somebody asked. Cheap to clone.
#[derive(Clone, Default)]
pub struct Stale(Arc<AtomicBool>);

impl Stale {
    fn mark(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it did; from now on it did not.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

/// How a watch that was interrupted tries again: soon, since drift is to be put right within seconds of an outage.
fn patience() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(300))
        .with_max_delay(Duration::from_secs(4))
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .into()
}

/// Says once that a watch has trouble, and once that it is over.
struct Trouble {
    what: String,
    said: bool,
}

impl Trouble {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), said: false }
    }

    fn failed(&mut self, error: &kube::runtime::watcher::Error) {
        if !self.said {
            tracing::warn!(what = self.what, %error, "a watch was interrupted; trying again");
        }
        self.said = true;
    }

    /// Returns whether there was trouble before.
    fn works(&mut self) -> bool {
        if self.said {
            tracing::info!(what = self.what, "the watch goes on");
        }
        std::mem::take(&mut self.said)
    }
}
