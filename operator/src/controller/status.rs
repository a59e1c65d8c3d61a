//! From a report to a status. Composed purely, written only when it says something new, and what changed for a
//! reader becomes an event.

use crds::{
    ConditionStatus, ConditionType, Conditions, Phase, PlacementSpec, Reason, Tenant, TenantStatus, UsageStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType},
};
use serde_json::json;
use tenancy::Placement;

use super::{
    Context, FIELD_MANAGER, Next,
    error::{Error, ErrorKind, kubernetes},
    report::{Report, UnderWay},
    validate,
};

/// An API server that has just begun forbids what it has not read the rules for yet: a refusal of this kind is told when so
/// many tries in a row failed before, some three seconds of them.
const FORBIDDEN_BEFORE: u32 = 3;

/// What became of a status that was to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Written {
    /// The status was written.
    Changed,
    /// There was nothing to write, or nothing to write it to.
    Unchanged,
}

/// Writes the status if it differs from what is there, and tells what changed.
///
/// # Errors
/// [`Error::Kubernetes`].
pub(super) async fn write(
    tenant: &Tenant,
    report: &Report,
    outcome: &Result<Next, Error>,
    context: &Context,
) -> Result<Written, Error> {
    let name = tenant.name_any();
    let forbidden = outcome.as_ref().is_err_and(|error| error.api_code() == Some(403));
    if forbidden && context.backoff.failures(&name) < FORBIDDEN_BEFORE {
        return Ok(Written::Unchanged);
    }
    let previous = tenant.status.clone().unwrap_or_default();
    let now = Time(k8s_openapi::jiff::Timestamp::now());
    let status = compose(tenant, &previous, report, outcome.as_ref().map(|_| ()), &now);
    if status == previous {
        return Ok(Written::Unchanged);
    }
    let api: Api<Tenant> = Api::all(context.client.clone());
    let applied = json!({
        "apiVersion": Tenant::api_version(&()),
        "kind": Tenant::kind(&()),
        "metadata": { "name": name },
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(&name, &parameters, &Patch::Apply(applied)).await {
        Ok(_) => {}
        Err(kube::Error::Api(answer)) if answer.code == 404 => return Ok(Written::Unchanged),
        Err(error) => return Err(kubernetes("write the status of Tenant", name)(error)),
    }
    for event in events(&previous, &status) {
        // An event that is lost is no reason to reconcile again.
        if let Err(error) = context.recorder.publish(&event, &tenant.object_ref(&())).await {
            tracing::debug!(tenant = name, %error, "an event could not be written");
        }
    }
    Ok(Written::Changed)
}

/// The status after a reconciliation.
fn compose(
    tenant: &Tenant,
    previous: &TenantStatus,
    report: &Report,
    outcome: Result<(), &Error>,
    now: &Time,
) -> TenantStatus {
    let generation = tenant.metadata.generation;
    let deleting = tenant.metadata.deletion_timestamp.is_some();
    let mut conditions = Conditions::from_status(&previous.conditions);
    for (part, finding) in &report.findings {
        conditions.set(*part, finding.status, finding.reason, &finding.message, generation, now);
    }
    if let Err(error) = outcome
        && let Some(part) = error.condition()
    {
        conditions.set(part, ConditionStatus::False, error.reason(), error.public(), generation, now);
    }
    for part in [ConditionType::DatabaseReady, ConditionType::EngineReady, ConditionType::KeyReady] {
        if conditions.get(part).is_none() {
            conditions.set(part, ConditionStatus::Unknown, Reason::Pending, "not looked at yet", generation, now);
        }
    }
    ready(&mut conditions, report, outcome, deleting, generation, now);
    progress(&mut conditions, report, outcome, generation, now);

    let placement = report.placement.map(|placement| match placement {
        Placement::Pooled => PlacementSpec::Pooled,
        Placement::Dedicated => PlacementSpec::Dedicated,
    });
    TenantStatus {
        user_id: validate::identity(tenant).ok().map(|id| id.to_string()).or_else(|| previous.user_id.clone()),
        tier: report.tier.as_ref().map(ToString::to_string).or_else(|| previous.tier.clone()),
        placement: placement.or(previous.placement),
        phase: Some(phase(previous, report, outcome, deleting)),
        api_key_secret: report.api_key_secret.clone().or_else(|| previous.api_key_secret.clone()),
        namespace: if outcome.is_ok() {
            report.namespace.clone()
        } else {
            report.namespace.clone().or_else(|| previous.namespace.clone())
        },
        usage: report.usage.map(|(memories, limit)| UsageStatus { memories, limit }).or_else(|| previous.usage.clone()),
        observed_generation: generation,
        conditions: conditions.into_vec(),
    }
}

/// Ready: served where the spec wants it, at this generation.
fn ready(
    conditions: &mut Conditions,
    report: &Report,
    outcome: Result<(), &Error>,
    deleting: bool,
    generation: Option<i64>,
    now: &Time,
) {
    let mut set = |status, reason, message: &str| {
        conditions.set(ConditionType::Ready, status, reason, message, generation, now);
    };
    match outcome {
        _ if deleting => set(ConditionStatus::False, Reason::Deleting, "the Tenant is being deleted"),
        Err(error) if error.unreadies() => set(ConditionStatus::False, error.reason(), &error.public()),
        Err(error) => {
            if conditions.get(ConditionType::Ready).is_none() {
                conditions.set(
                    ConditionType::Ready,
                    ConditionStatus::False,
                    error.reason(),
                    error.public(),
                    generation,
                    now,
                );
            }
        }
        Ok(()) if serves(report) && report.suspended => {
            set(ConditionStatus::True, Reason::Suspended, "as asked for; requests are refused while it is suspended");
        }
        Ok(()) if serves(report) => set(ConditionStatus::True, Reason::Serving, "as asked for, and served"),
        Ok(()) => {
            let UnderWay { reason, message } = under_way(report);
            set(ConditionStatus::False, reason, &message);
        }
    }
}

/// Reconciling and Stalled, as kstatus reads them.
fn progress(
    conditions: &mut Conditions,
    report: &Report,
    outcome: Result<(), &Error>,
    generation: Option<i64>,
    now: &Time,
) {
    let stuck = outcome.err().filter(|error| error.kind() != ErrorKind::Transient);
    let (works, reason, message) = match (outcome, &report.under_way) {
        (Err(_), _) if stuck.is_some() => (false, Reason::Settled, "nothing more can be done; see Stalled".to_owned()),
        (Err(error), _) => (true, error.reason(), error.public()),
        (Ok(()), Some(UnderWay { reason, message })) => (true, *reason, message.clone()),
        (Ok(()), None) => (false, Reason::Settled, "nothing is left to do".to_owned()),
    };
    conditions.set(ConditionType::Reconciling, works.into(), reason, message, generation, now);
    match stuck {
        Some(error) => {
            conditions.set(
                ConditionType::Stalled,
                ConditionStatus::True,
                error.reason(),
                error.public(),
                generation,
                now,
            );
        }
        None => {
            conditions.set(
                ConditionType::Stalled,
                ConditionStatus::False,
                Reason::Settled,
                "not stalled",
                generation,
                now,
            );
        }
    }
}

fn phase(previous: &TenantStatus, report: &Report, outcome: Result<(), &Error>, deleting: bool) -> Phase {
    let has_served = matches!(previous.phase, Some(Phase::Ready | Phase::Moving | Phase::Suspended));
    match outcome {
        _ if deleting => Phase::Deleting,
        Err(error) if error.unreadies() => Phase::Failed,
        Err(_) => previous.phase.unwrap_or(Phase::Provisioning),
        Ok(()) if serves(report) => match &report.under_way {
            Some(UnderWay { reason: Reason::Moving, .. }) => Phase::Moving,
            _ if report.suspended => Phase::Suspended,
            _ => Phase::Ready,
        },
        Ok(()) if has_served && report.placement != report.wanted => Phase::Moving,
        Ok(()) => Phase::Provisioning,
    }
}

/// Requests go where they should, to something that answers.
fn serves(report: &Report) -> bool {
    let engine = report.findings.get(&ConditionType::EngineReady);
    report.placement.is_some()
        && report.placement == report.wanted
        && engine.is_some_and(|finding| finding.status == ConditionStatus::True)
}

fn under_way(report: &Report) -> UnderWay {
    let unsaid = UnderWay { reason: Reason::Provisioning, message: "being made".to_owned() };
    report.under_way.clone().unwrap_or(unsaid)
}

/// What is worth telling: Ready changed its status or reason, or requests go elsewhere.
fn events(previous: &TenantStatus, status: &TenantStatus) -> Vec<Event> {
    let ready =
        |status: &TenantStatus| status.conditions.iter().find(|c| c.type_ == ConditionType::Ready.as_str()).cloned();
    let mut events = Vec::new();
    if previous.placement != status.placement
        && let (Some(_), Some(to)) = (previous.placement, status.placement)
    {
        let to = Placement::from(to);
        events.push(event(EventType::Normal, "Placed", "Place", format!("requests go to the {to} engine")));
    }
    if let Some(now) = ready(status) {
        let before = ready(previous).map(|c| (c.status, c.reason));
        if before.as_ref() != Some(&(now.status, now.reason.clone())) {
            let progress = [Reason::Provisioning, Reason::Moving, Reason::Deleting, Reason::EngineRolling];
            let normal = now.status == ConditionStatus::True || progress.iter().any(|r| r.as_str() == now.reason);
            let type_ = if normal { EventType::Normal } else { EventType::Warning };
            events.push(event(type_, &now.reason, "Reconcile", now.message));
        }
    }
    events
}

fn event(type_: EventType, reason: &str, action: &str, note: String) -> Event {
    Event { type_, reason: reason.to_owned(), note: Some(note), action: action.to_owned(), secondary: None }
}

#[cfg(test)]
mod tests;
