//! Tenants and Tiers: kept in a store, and a reason to look again only when something changed that the operator
//! acts on. A status is written by the operator itself and is none.

use std::{collections::HashMap, pin::pin, sync::Arc};

use crds::{Tenant, Tier};
use futures::StreamExt;
use kube::{
    Api, ResourceExt,
    runtime::{
        WatchStreamExt,
        reflector::{Store, store::Writer},
        watcher,
    },
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Queue, Stale, Trouble};

/// Follows all Tenants. Whatever happens to one marks `stale`.
pub async fn watch_tenants(
    api: Api<Tenant>,
    writer: Writer<Tenant>,
    queue: Queue,
    stale: Stale,
    stop: CancellationToken,
) {
    let mut trouble = Trouble::new("tenants");
    let mut seen: HashMap<String, Seen> = HashMap::new();
    let trimmed = watcher(api, watcher::Config::default()).modify(|tenant| tenant.managed_fields_mut().clear());
    let mut events = pin!(trimmed.reflect(writer).backoff(super::patience()));
    while let Some(event) = tokio::select! { () = stop.cancelled() => None, event = events.next() => event } {
        stale.mark();
        // Whoever failed meanwhile need not wait until it would have tried again.
        if event.is_ok() && trouble.works() {
            for tenant in seen.keys() {
                queue.push(tenant);
            }
        }
        match event {
            Ok(watcher::Event::Apply(tenant) | watcher::Event::InitApply(tenant)) => {
                let now = Seen::of(&tenant);
                if seen.get(&tenant.name_any()) != Some(&now) {
                    queue.push(&tenant.name_any());
                    seen.insert(tenant.name_any(), now);
                }
            }
            Ok(watcher::Event::Delete(tenant)) => {
                seen.remove(&tenant.name_any());
            }
            Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
            Err(error) => trouble.failed(&error),
        }
    }
}

/// What of a Tenant the operator acts on.
#[derive(PartialEq, Eq)]
struct Seen {
    uid: Option<String>,
    generation: Option<i64>,
    finalizers: Vec<String>,
    deleting: bool,
    has_status: bool,
}

impl Seen {
    fn of(tenant: &Tenant) -> Self {
        Self {
            uid: tenant.uid(),
            generation: tenant.metadata.generation,
            finalizers: tenant.finalizers().to_vec(),
            deleting: tenant.metadata.deletion_timestamp.is_some(),
            has_status: tenant.status.as_ref().is_some_and(|status| !status.conditions.is_empty()),
        }
    }
}

/// Follows all Tiers. A change concerns every Tenant that names the Tier, and `changed` wakes who writes the tiers
/// to Postgres.
pub async fn watch_tiers(
    api: Api<Tier>,
    writer: Writer<Tier>,
    tenants: Store<Tenant>,
    queue: Queue,
    changed: Arc<Notify>,
    stale: Stale,
    stop: CancellationToken,
) {
    let mut trouble = Trouble::new("tiers");
    let mut specs: HashMap<String, crds::TierSpec> = HashMap::new();
    let trimmed = watcher(api, watcher::Config::default()).modify(|tier| tier.managed_fields_mut().clear());
    let mut events = pin!(trimmed.reflect(writer).backoff(super::patience()));
    while let Some(event) = tokio::select! { () = stop.cancelled() => None, event = events.next() => event } {
        let tier = match event {
            Ok(watcher::Event::Apply(tier) | watcher::Event::InitApply(tier)) => {
                trouble.works();
                let same = specs.insert(tier.name_any(), tier.spec.clone()).as_ref() == Some(&tier.spec);
                if same {
                    continue;
                }
                tier.name_any()
            }
            Ok(watcher::Event::Delete(tier)) => {
                specs.remove(&tier.name_any());
                tier.name_any()
            }
            Ok(watcher::Event::Init) => continue,
            Ok(watcher::Event::InitDone) => {
                trouble.works();
                changed.notify_one();
                continue;
            }
            Err(error) => {
                trouble.failed(&error);
                continue;
            }
        };
        changed.notify_one();
        stale.mark();
        for tenant in tenants.state_filter(|tenant| tenant.spec.tier == tier) {
            queue.push(&tenant.name_any());
        }
    }
}
