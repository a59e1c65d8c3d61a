//! Looks over all tenants in Postgres every few seconds with one query: whose rows, role or key are not as they
//! were left is queued, usage goes to the statuses that show something else, and nothing is written at rest. A
//! notice from Postgres makes a change of control rows known at once. Old log entries are pruned every minute.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crds::Tenant;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::reflector::Store,
};
use serde_json::json;
use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    backoff::jittered,
    controller::{Context, FIELD_MANAGER},
    database::Swept,
    watch::Queue,
};

const EVERY: Duration = Duration::from_secs(5);
const SWEEPS_A_USAGE: u32 = 3;
/// After a first failure.
const SOON: Duration = Duration::from_secs(1);
/// One failure may be a hiccup; two in a row are worth a word in every status.
const FAILURES_TO_TELL: u32 = 2;
const PRUNE_EVERY: Duration = Duration::from_mins(1);
const PRUNE_BATCH: i32 = 5_000;
const CHANNEL: &str = "stellar_control";

/// Sweeps until stopped.
pub async fn sweep(context: Arc<Context>, tenants: Store<Tenant>, queue: Queue, stop: CancellationToken) {
    let mut failures = 0;
    let mut round = 0_u32;
    while pause(if failures == 1 { SOON } else { jittered(EVERY) }, &stop).await {
        context.metrics.set_tenants(tenants.state().iter().map(|tenant| {
            let known = context.tiers.find(|tier| tier.name_any() == tenant.spec.tier).is_some();
            let tier = if known { tenant.spec.tier.clone() } else { "unknown".to_owned() };
            (tier, tenant.status.as_ref().and_then(|status| status.phase))
        }));
        round = round.wrapping_add(1);
        match context.database.sweep(None).await {
            Ok(rows) => {
                if failures >= FAILURES_TO_TELL {
                    tracing::info!("Postgres answers again");
                    queue_all(&tenants, &queue);
                }
                failures = 0;
                context.metrics.set_database_up(true);
                compare(&rows, &context, &queue);
                if round.is_multiple_of(SWEEPS_A_USAGE) {
                    show_usage(&rows, &tenants, &context).await;
                }
            }
            Err(error) => {
                failures += 1;
                context.metrics.set_database_up(false);
                if failures == FAILURES_TO_TELL {
                    tracing::warn!(%error, "Postgres does not answer");
                    queue_all(&tenants, &queue);
                }
            }
        }
    }
}

/// Listens until stopped.
pub async fn listen(context: Arc<Context>, queue: Queue, stop: CancellationToken) {
    let hear = async {
        loop {
            if let Ok(mut listener) = PgListener::connect_with(context.database.pool()).await
                && listener.listen(CHANNEL).await.is_ok()
            {
                while let Ok(notice) = listener.recv().await {
                    let name = notice.payload().parse::<Uuid>().ok().and_then(|id| context.settled.name_of(id));
                    if let Some(name) = name {
                        queue.push(&name);
                    }
                }
            }
            // The sweep finds meanwhile what a notice would have told.
            tokio::time::sleep(jittered(EVERY)).await;
        }
    };
    tokio::select! { () = stop.cancelled() => {}, () = hear => {} }
}

/// Prunes until stopped.
pub async fn prune(context: Arc<Context>, stop: CancellationToken) {
    while pause(jittered(PRUNE_EVERY), &stop).await {
        match context.database.prune(PRUNE_BATCH).await {
            Ok(rows) => context.metrics.pruned(rows),
            Err(error) => tracing::debug!(%error, "old entries stay for another minute"),
        }
    }
}

fn compare(rows: &[Swept], context: &Context, queue: &Queue) {
    let present: HashMap<Uuid, &str> = rows.iter().map(|row| (row.id, row.fingerprint.as_str())).collect();
    let drifted = context.settled.drifted(&present);
    context.metrics.drifted(drifted.len());
    for name in drifted {
        tracing::info!(tenant = name, "its rows, role or key in Postgres are not as they were left");
        queue.push(&name);
    }
}

/// Writes usage to the statuses that show something else.
async fn show_usage(rows: &[Swept], tenants: &Store<Tenant>, context: &Context) {
    let by_id: HashMap<String, &Swept> = rows.iter().map(|row| (row.id.to_string(), row)).collect();
    let api: Api<Tenant> = Api::all(context.client.clone());
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    for tenant in tenants.state() {
        let Some(status) = tenant.status.as_ref().filter(|_| tenant.metadata.deletion_timestamp.is_none()) else {
            continue;
        };
        let Some(row) = status.user_id.as_ref().and_then(|id| by_id.get(id)) else { continue };
        let shown = status.usage.as_ref().map(|usage| (usage.memories, usage.limit));
        // Who shares an identity that was refused shows no usage.
        let owned = context.settled.name_of(row.id).is_some_and(|name| name == tenant.name_any());
        if owned && shown != Some((row.memories.into(), row.limit.into())) {
            let usage = json!({ "status": { "usage": { "memories": row.memories, "limit": row.limit } } });
            if let Err(error) = api.patch_status(&tenant.name_any(), &parameters, &Patch::Merge(usage)).await {
                tracing::debug!(tenant = tenant.name_any(), %error, "its usage is shown later");
            }
        }
    }
}

fn queue_all(tenants: &Store<Tenant>, queue: &Queue) {
    tenants.state().iter().for_each(|tenant| queue.push(&tenant.name_any()));
}

/// Waits. False: it is time to stop.
async fn pause(wait: Duration, stop: &CancellationToken) -> bool {
    tokio::select! { () = stop.cancelled() => false, () = tokio::time::sleep(wait) => true }
}
