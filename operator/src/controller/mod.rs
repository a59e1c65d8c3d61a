//! Reconciliation of a Tenant: read what it refers to, check it, build every object, apply, say how it went.

mod apply;
mod build;
mod cleanup;
mod dedicated;
mod dereference;
mod error;
mod identity;
mod key;
mod login;
mod pooled;
mod report;
mod rollout;
#[cfg(test)]
mod sample;
mod settled;
mod status;
mod validate;

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use crds::{Reason, Tenant, Tier};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{controller::Action, events::Recorder, reflector::Store},
};
use serde::{Serialize, de::DeserializeOwned};
use tenancy::MasterKey;
use tracing::{Instrument as _, field::Empty};

use crate::{
    backoff::{Backoff, jittered},
    database::Database,
    metrics::Metrics,
    settings::Settings,
    watch::SecretWatches,
};
use error::kubernetes;
use report::Report;

pub use build::ENGINE_DB_SECRET;
pub use error::{Error, ErrorKind};
pub use settled::{Pass, Settled};

/// Who owns the fields that the operator applies.
pub const FIELD_MANAGER: &str = "stellar-operator";
/// A Tenant at rest is looked at this often all the same, or as seldom as `A_LOOK` says.
const AT_REST: Duration = Duration::from_mins(10);
/// Of many Tenants at rest, no more than one is looked at in this time: what is done for tenants that do nothing must not grow
/// with their number. Whatever happens to one, in Kubernetes or in Postgres, is told by a watch, a notice or the sweep.
const A_LOOK: Duration = Duration::from_secs(3);
/// As a safety net while a watched object is awaited.
const WATCHED: Duration = Duration::from_secs(15);
/// After a run that found something to write.
const AGAIN: Duration = Duration::from_millis(200);
const BLOCKED: Duration = Duration::from_mins(1);
const LONGEST_RUN: Duration = Duration::from_mins(1);

/// What every reconciliation needs.
pub struct Context {
    /// Talks to the API server.
    pub client: Client,
    /// Talks to Postgres.
    pub database: Database,
    /// What capabilities derive from.
    pub master_key: MasterKey,
    /// The command line.
    pub settings: Settings,
    /// The Tiers.
    pub tiers: Store<Tier>,
    /// Watches on the Secrets of tenants' namespaces.
    pub secrets: SecretWatches,
    /// Writes events.
    pub recorder: Recorder,
    /// Counts.
    pub metrics: Metrics,
    /// When to try again.
    pub backoff: Backoff,
    /// What the database should look like.
    pub settled: Settled,
}

/// What comes after a reconciliation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing, until something changes.
    Settled,
    /// A watched object will change.
    Watched,
    /// Look again.
    After(Duration),
}

impl Context {
    /// Server-side apply: our fields become ours, fields of others stay.
    ///
    /// # Errors
    /// [`Error::Kubernetes`].
    pub async fn apply<K>(&self, api: &Api<K>, object: &K) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let name = object.name_any();
        let subject = format!("{} {name}", K::kind(&()));
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&name, &parameters, &Patch::Apply(object)).await.map_err(kubernetes("apply", subject))
    }
}

/// Brings one Tenant a step, or all the way, to what its spec says.
///
/// # Errors
/// [`Error`], which is in the Tenant's status too; [`retry`] says when to try again.
pub async fn reconcile(tenant: Arc<Tenant>, context: Arc<Context>) -> Result<Action, Error> {
    let start = Instant::now();
    let name = tenant.name_any();
    // Gateway and engine know the tenant by its id alone: with both, a trace of theirs leads to the Tenant.
    let span = tracing::info_span!(
        "reconcile",
        otel.kind = "internal",
        otel.status_description = Empty,
        tenant = name,
        stellar.tenant.id = validate::identity(&tenant).ok().map(tracing::field::display),
        "error.type" = Empty,
    );
    let work = Box::pin(freshest(&name, &context)).instrument(span.clone());
    let outcome = match tokio::time::timeout(LONGEST_RUN, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::TimedOut(LONGEST_RUN.as_secs())),
    };
    if let Err(error) = &outcome {
        // The status's words: the error's own and those of its sources are not made for other readers than the log's.
        span.record("error.type", error.reason().as_str());
        span.record("otel.status_description", error.public());
    }
    context.metrics.reconciled(start.elapsed(), outcome.as_ref().map(drop));
    let next = outcome?;
    context.backoff.succeeded(&name);
    Ok(match next {
        Some(Next::Settled) => Action::requeue(jittered(at_rest(context.settled.count()))),
        Some(Next::Watched) => Action::requeue(jittered(WATCHED)),
        Some(Next::After(wait)) => Action::requeue(wait),
        None => Action::await_change(),
    })
}

/// How often each of so many Tenants at rest is looked at.
fn at_rest(tenants: usize) -> Duration {
    AT_REST.max(A_LOOK.saturating_mul(u32::try_from(tenants).unwrap_or(u32::MAX)))
}

/// When to try again, by the kind of error.
#[expect(clippy::needless_pass_by_value, reason = "the controller hands over shared pointers")]
pub fn retry(tenant: Arc<Tenant>, error: &Error, context: Arc<Context>) -> Action {
    let name = tenant.name_any();
    let wait = match error.kind() {
        ErrorKind::Invalid => None,
        ErrorKind::Blocked => Some(jittered(BLOCKED)),
        ErrorKind::Transient => Some(context.backoff.failed(&name)),
    };
    let cause = std::iter::successors(std::error::Error::source(error), |e| e.source()).last().map(ToString::to_string);
    tracing::warn!(tenant = name, reason = %error.reason(), %error, cause, retry_in = ?wait, "a Tenant could not be brought to what its spec says");
    wait.map_or_else(Action::await_change, Action::requeue)
}

/// The store may lag behind what this operator itself wrote a moment ago, so the object is read again.
async fn freshest(name: &str, context: &Context) -> Result<Option<Next>, Error> {
    let api: Api<Tenant> = Api::all(context.client.clone());
    let Some(tenant) = api.get_opt(name).await.map_err(kubernetes("read Tenant", name))? else {
        context.settled.forget(name);
        context.secrets.forget(name);
        context.backoff.succeeded(name);
        return Ok(None);
    };
    context.settled.unsettle(name);
    let mut report = Report::default();
    if tenant.metadata.deletion_timestamp.is_some() {
        return delete(&tenant, context, &mut report).await;
    }
    let before = identity::fingerprint(&tenant, context).await.ok().flatten();
    let outcome = Box::pin(run(&tenant, context, &mut report)).await;
    let written = status::write(&tenant, &report, &outcome, context).await;
    let next = outcome?;
    written?;
    match identity::fingerprint(&tenant, context).await? {
        Some((id, after)) if before.as_ref().is_some_and(|(_, before)| *before == after) => {
            context.settled.note(id, name, after);
            Ok(Some(next))
        }
        // This run wrote something, or somebody else did meanwhile: only a run that changes nothing tells which.
        _ => Ok(Some(Next::After(AGAIN))),
    }
}

async fn run(tenant: &Tenant, context: &Context, report: &mut Report) -> Result<Next, Error> {
    identity::claim(tenant, context).await?;
    let found = dereference::run(tenant, context).await?;
    let valid = validate::run(tenant, &found)?;
    let desired = build::run(&valid, &context.settings);
    Box::pin(apply::run(&valid, desired, &found, context, report)).await
}

async fn delete(tenant: &Tenant, context: &Context, report: &mut Report) -> Result<Option<Next>, Error> {
    context.settled.forget(&tenant.name_any());
    if !identity::is_held(tenant) {
        return Ok(None);
    }
    let outcome = cleanup::run(tenant, context, report).await;
    let cleaned_up = matches!(outcome, Ok(Next::Settled));
    if cleaned_up {
        let others = identity::others(tenant).join(", ");
        if others.is_empty() {
            identity::release(tenant, context).await?;
            return Ok(None);
        }
        report.wait_for(Reason::Deleting, format!("all is cleaned up; finalizers of others hold the Tenant: {others}"));
    }
    let written = status::write(tenant, report, &outcome, context).await;
    let next = outcome?;
    match written? {
        // The Tenant stays, and nobody looks at it any more: its status must be true before the finalizer goes.
        status::Written::Unchanged if cleaned_up => {
            identity::release(tenant, context).await?;
            Ok(None)
        }
        status::Written::Changed if cleaned_up => Ok(Some(Next::After(AGAIN))),
        _ => Ok(Some(next)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_thousand_tenants_at_rest_are_looked_at_no_more_often_than_twice_as_often_as_a_hundred() {
        let looks_an_hour = |tenants: usize| 3_600.0 * tenants as f64 / at_rest(tenants).as_secs_f64();
        assert_eq!(at_rest(0), AT_REST);
        assert_eq!(at_rest(100), AT_REST);
        for tenants in [200, 2_000, 20_000, 1_000_000] {
            assert!(looks_an_hour(tenants) <= 2.0 * looks_an_hour(100), "{tenants}");
        }
    }
}
