//! What makes a Tenant be looked at again: itself, its Tier, anything that was made for it, and its rows. Watches
//! hold metadata only, and of objects that carry the tenant's label. All of them feed one queue, which the
//! controller empties; a Tenant that is queued twice is reconciled once.

mod owned;
mod secrets;
mod tenants;

use crds::Tenant;
use futures::channel::mpsc;
use kube::runtime::reflector::ObjectRef;

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

    fn works(&mut self) {
        if self.said {
            tracing::info!(what = self.what, "the watch goes on");
        }
        self.said = false;
    }
}
