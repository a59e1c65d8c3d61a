//! Looks over the tenants in Postgres, some hundred every few seconds with one query: whose rows, role or key are not
//! as they were left is queued, usage goes to the statuses that show something else, and nothing is written at rest.
//! What this costs does not grow with the number of tenants, only the time until it has seen all of them. It need not
//! be short: a notice from Postgres makes a change of control rows known at once, and after notices may have been lost
//! one pass goes over all tenants without a pause. Grants of the schema that are gone are given again, and every ten
//! minutes the database is looked over for what weakens its isolation.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use crds::Tenant;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::reflector::{ObjectRef, Store},
};
use serde_json::json;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    backoff::jittered,
    controller::{Context, FIELD_MANAGER, Pass},
    database::{Database, DatabaseError, Swept, Usage},
    lint::{self, Finding, LintError, Severity},
    prune::{PRUNE_BATCH, PRUNE_INTERVAL},
    watch::{Queue, Stale},
};

const EVERY: Duration = Duration::from_secs(5);
/// Tenants looked at every time: so many are seen within seconds, 20,000 within a quarter of an hour.
const A_TIME: usize = 100;
const SWEEPS_A_USAGE: u32 = 3;
/// After a first failure.
const SOON: Duration = Duration::from_secs(1);
/// One failure may be a hiccup; two in a row are worth a word in every status.
const FAILURES_TO_TELL: u32 = 2;
const LINT_EVERY: Duration = Duration::from_mins(10);
const CHANNEL: &str = "stellar_control";

/// Sweeps until stopped. `missed`: notices were lost, and the next pass goes over all tenants at once. `stale`: the
/// metric of the Tenants no longer shows what there is.
pub async fn sweep(
    context: Arc<Context>,
    tenants: Store<Tenant>,
    queue: Queue,
    missed: Arc<Notify>,
    stale: Stale,
    stop: CancellationToken,
) {
    let mut failures = 0;
    let mut broom = Broom::default();
    let mut hopeless = BTreeSet::new();
    loop {
        let wait = if failures == 1 { SOON } else { jittered(EVERY) };
        tokio::select! {
            () = stop.cancelled() => break,
            () = missed.notified() => broom.begin_anew(),
            () = tokio::time::sleep(wait) => {}
        }
        if stale.take() {
            count(&tenants, &context);
        }
        let swept = broom.sweep(&tenants, &context, &queue).await;
        // Also when it was refused: for want of a grant, perhaps.
        if !matches!(swept, Err(DatabaseError::Unavailable { .. })) {
            give_back_grants(&context, &mut hopeless).await;
        }
        match swept {
            Ok(()) => {
                if failures >= FAILURES_TO_TELL {
                    tracing::info!("Postgres answers again");
                    queue_all(&tenants, &queue);
                }
                failures = 0;
                context.metrics.set_database_up(true);
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

/// Where the sweep is.
struct Broom {
    pass: Pass,
    /// It is to go on to the last tenant without a pause.
    hurries: bool,
    round: u32,
    /// Up to when usage that changed was read.
    mark: Option<String>,
}

impl Default for Broom {
    fn default() -> Self {
        Self { pass: Pass::ALL, hurries: false, round: 0, mark: None }
    }
}

impl Broom {
    fn begin_anew(&mut self) {
        (self.pass, self.hurries) = (Pass::ALL, true);
    }

    /// Looks at the next tenants, or at all that are left.
    async fn sweep(&mut self, tenants: &Store<Tenant>, context: &Context, queue: &Queue) -> Result<(), DatabaseError> {
        self.round = self.round.wrapping_add(1);
        loop {
            let Look { seen, rows, changed } = self.look(&context.database).await?;
            compare(seen, &rows, context, queue);
            // It takes long until many have been seen. What changed is shown as soon as where they are few, and what was missed
            // then (a Tenant that was being reconciled) now.
            if seen != Pass::ALL || self.shows_usage() {
                show_usage(rows.iter().map(|row| (row.id, row.usage)), tenants, context).await;
                show_usage(changed.into_iter(), tenants, context).await;
            }
            if self.pass == Pass::ALL {
                self.hurries = false;
            }
            if !self.hurries {
                return Ok(());
            }
        }
    }

    fn shows_usage(&self) -> bool {
        self.round.is_multiple_of(SWEEPS_A_USAGE)
    }

    /// Asks Postgres about the next tenants.
    async fn look(&mut self, database: &Database) -> Result<Look, DatabaseError> {
        let rows = database.sweep(self.pass, A_TIME as i64).await?;
        let mut seen = self.pass;
        if let Some(last) = rows.last().filter(|_| rows.len() == A_TIME) {
            seen.to = last.id;
        }
        let mut changed = Vec::new();
        if seen != Pass::ALL && self.shows_usage() {
            let mark;
            (mark, changed) = database.usage_since(self.mark.as_deref()).await?;
            self.mark = Some(mark);
        }
        self.pass = seen.next();
        Ok(Look { seen, rows, changed })
    }
}

/// What Postgres has of some tenants.
struct Look {
    seen: Pass,
    rows: Vec<Swept>,
    /// Usage that changed, whosever it is.
    changed: Vec<(Uuid, Usage)>,
}

/// Asks of Postgres what is asked while nothing changes, until that fails, and without Kubernetes: for measuring. The linter,
/// which looks every ten minutes, is apart.
///
/// # Errors
/// [`DatabaseError`].
pub async fn ask_at_rest(database: &Database) -> Result<Infallible, DatabaseError> {
    let mut broom = Broom::default();
    let mut next_prune = Instant::now();
    loop {
        broom.round = broom.round.wrapping_add(1);
        broom.look(database).await?;
        if let Err(error) = database.missing_grants().await {
            tracing::debug!(%error, "grants are looked for later");
        }
        if next_prune <= Instant::now() {
            database.prune(PRUNE_BATCH).await?;
            database.prune_lag().await?;
            database.size().await?;
            next_prune = Instant::now() + PRUNE_INTERVAL;
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Listens until stopped, and says in `missed` when it may have missed something.
pub async fn listen(context: Arc<Context>, queue: Queue, missed: Arc<Notify>, stop: CancellationToken) {
    let hear = async {
        let mut lost = false;
        loop {
            if let Ok(pool) = context.database.pool().connected().await
                && let Ok(mut listener) = PgListener::connect_with(pool).await
                && listener.listen(CHANNEL).await.is_ok()
            {
                if std::mem::replace(&mut lost, true) {
                    missed.notify_one();
                }
                while let Ok(notice) = listener.try_recv().await {
                    // Nothing: the connection was lost, and another one is there already.
                    let Some(notice) = notice else {
                        missed.notify_one();
                        continue;
                    };
                    let name = notice.payload().parse::<Uuid>().ok().and_then(|id| context.settled.name_of(id));
                    if let Some(name) = name {
                        queue.push(&name);
                    }
                }
            }
            tokio::time::sleep(jittered(EVERY)).await;
        }
    };
    tokio::select! { () = stop.cancelled() => {}, () = hear => {} }
}

/// Looks for what weakens the database's isolation until stopped. Each finding is logged once, when it appears.
pub async fn lint(context: Arc<Context>, stop: CancellationToken) {
    let mut known = BTreeSet::new();
    let look = async {
        loop {
            let again = match context.database.lint().await {
                Ok(findings) => {
                    let (errors, warnings) = lint::count(&findings);
                    context.metrics.set_findings(errors, warnings);
                    let findings: BTreeSet<Finding> = findings.into_iter().collect();
                    tell(&known, &findings);
                    known = findings;
                    LINT_EVERY
                }
                Err(error) => {
                    tracing::debug!(%error, "the database is looked over later");
                    EVERY
                }
            };
            tokio::time::sleep(jittered(again)).await;
        }
    };
    tokio::select! { () = stop.cancelled() => {}, () = look => {} }
}

/// Gives back the grants that somebody took away. `hopeless`: what was missing before and after that, so that it is not tried
/// again and again; the linter tells of it.
async fn give_back_grants(context: &Context, hopeless: &mut BTreeSet<(String, String)>) {
    let restore = async {
        let missing = context.database.missing_grants().await?;
        if missing.is_subset(hopeless) {
            *hopeless = missing;
            return Ok(());
        }
        let given = context.database.give_grants().await;
        let after = context.database.missing_grants().await?;
        for (object, detail) in missing.difference(&after) {
            tracing::warn!(object, detail, "somebody had revoked this; it is granted again");
        }
        // What was revoked in between was not tried.
        *hopeless = after.intersection(&missing).cloned().collect();
        if let Err(error) = given {
            tracing::warn!(%error, "not every grant that is missing could be given again; the linter names them");
        }
        Ok::<_, LintError>(())
    };
    if let Err(error) = restore.await {
        tracing::debug!(%error, "grants are looked for later");
    }
}

fn tell(before: &BTreeSet<Finding>, now: &BTreeSet<Finding>) {
    for Finding { severity, rule, object, advice } in now.difference(before) {
        match severity {
            Severity::Error => {
                tracing::error!(rule, object, "the isolation of tenants in the database is weakened: {advice}");
            }
            Severity::Warning => tracing::warn!(rule, object, "the database is not set up as it should be: {advice}"),
        }
    }
    for Finding { rule, object, .. } in before.difference(now) {
        tracing::info!(rule, object, "what the database linter found is mended");
    }
}

fn compare(pass: Pass, rows: &[Swept], context: &Context, queue: &Queue) {
    let present: HashMap<Uuid, &str> = rows.iter().map(|row| (row.id, row.fingerprint.as_str())).collect();
    let drifted = context.settled.drifted(pass, &present);
    context.metrics.drifted(drifted.len());
    for name in drifted {
        tracing::info!(tenant = name, "its rows, role or key in Postgres are not as they were left");
        queue.push(&name);
    }
}

/// Writes usage to the statuses that show something else.
async fn show_usage(rows: impl Iterator<Item = (Uuid, Usage)>, tenants: &Store<Tenant>, context: &Context) {
    let api: Api<Tenant> = Api::all(context.client.clone());
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    for (id, Usage { memories, limit }) in rows {
        // Who shares an identity that was refused shows no usage.
        let Some(tenant) = context.settled.name_of(id).and_then(|name| tenants.get(&ObjectRef::new(&name))) else {
            continue;
        };
        let Some(status) = tenant.status.as_ref().filter(|_| tenant.metadata.deletion_timestamp.is_none()) else {
            continue;
        };
        let shown = status.usage.as_ref().map(|usage| (usage.memories, usage.limit));
        if status.user_id.as_ref() == Some(&id.to_string()) && shown != Some((memories.into(), limit.into())) {
            let usage = json!({ "status": { "usage": { "memories": memories, "limit": limit } } });
            if let Err(error) = api.patch_status(&tenant.name_any(), &parameters, &Patch::Merge(usage)).await {
                tracing::debug!(tenant = tenant.name_any(), %error, "its usage is shown later");
            }
        }
    }
}

/// Counts the Tenants for the metric.
fn count(tenants: &Store<Tenant>, context: &Context) {
    let tiers: BTreeSet<String> = context.tiers.state().iter().map(|tier| tier.name_any()).collect();
    context.metrics.set_tenants(tenants.state().iter().map(|tenant| {
        let tier = if tiers.contains(&tenant.spec.tier) { tenant.spec.tier.clone() } else { "unknown".to_owned() };
        (tier, tenant.status.as_ref().and_then(|status| status.phase))
    }));
}

fn queue_all(tenants: &Store<Tenant>, queue: &Queue) {
    tenants.state().iter().for_each(|tenant| queue.push(&tenant.name_any()));
}
