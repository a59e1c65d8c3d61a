//! Keeps Postgres' copy of the Tiers true. The whole set is compared at each change and every few seconds, so that
//! a deletion that nobody saw and a row that somebody edited are put right alike.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crds::{PlacementSpec, Tier};
use kube::{ResourceExt, runtime::reflector::Store};
use tenancy::Placement;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::jittered,
    database::{Database, DatabaseError, TenantLimits, TierRow},
};

const EVERY: Duration = Duration::from_secs(6);

/// Keeps at it until stopped. The store must have been filled once.
pub async fn keep(tiers: Store<Tier>, database: Database, changed: Arc<Notify>, stop: CancellationToken) {
    let mut said = false;
    loop {
        match synchronise(&tiers, &database).await {
            Ok(()) => said = false,
            Err(error) if !said => {
                said = true;
                tracing::warn!(%error, "the tiers in Postgres may be out of date");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => {}
            () = tokio::time::sleep(jittered(EVERY)) => {}
        }
    }
}

async fn synchronise(tiers: &Store<Tier>, database: &Database) -> Result<(), DatabaseError> {
    let present: HashMap<String, TierRow> =
        database.tiers().await?.into_iter().map(|row| (row.name.clone(), row)).collect();
    let wanted: HashMap<String, Arc<Tier>> = tiers.state().into_iter().map(|tier| (tier.name_any(), tier)).collect();
    for (name, tier) in &wanted {
        let row = row(name, tier);
        if present.get(name) != Some(&row) {
            let placement = placement(tier.spec.placement);
            database.tier_apply(name, placement, row.limits).await?;
            tracing::info!(tier = name, "wrote the tier to Postgres");
        }
    }
    for name in present.keys().filter(|name| !wanted.contains_key(*name)) {
        database.tier_delete(name).await?;
        tracing::info!(tier = name, "removed the tier from Postgres; its tenants keep their limits");
    }
    Ok(())
}

fn placement(spec: PlacementSpec) -> Placement {
    spec.into()
}

fn row(name: &str, tier: &Tier) -> TierRow {
    let limits = &tier.spec.limits;
    TierRow {
        name: name.to_owned(),
        placement: placement(tier.spec.placement).as_str().to_owned(),
        limits: TenantLimits {
            max_memories: limits.max_memories,
            max_agents: limits.max_agents,
            max_api_keys: limits.max_api_keys,
            requests_per_minute: limits.requests_per_minute,
            max_sockets: limits.max_sockets,
            socket_messages_per_second: limits.socket_messages_per_second,
        },
    }
}
