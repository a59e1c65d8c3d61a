//! A status tells the story, and does not flap.

use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::{controller::sample, database::DatabaseError};

fn tenant() -> Tenant {
    let mut tenant = sample::tenant("pro");
    tenant.metadata.generation = Some(3);
    tenant
}

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).expect("a time"))
}

fn served() -> Report {
    let mut report = Report {
        placement: Some(Placement::Dedicated),
        wanted: Some(Placement::Dedicated),
        usage: Some((1, 10)),
        namespace: Some("stellar-tenant-acme".to_owned()),
        ..Report::default()
    };
    report.found(ConditionType::DatabaseReady, true, Reason::Provisioned, "");
    report.found(ConditionType::KeyReady, true, Reason::KeyInSecret, "");
    report.found(ConditionType::EngineReady, true, Reason::EngineServing, "");
    report
}

fn condition(status: &TenantStatus, type_: ConditionType) -> (ConditionStatus, &str) {
    let found = status.conditions.iter().find(|c| c.type_ == type_.as_str()).expect("is there");
    (found.status, &found.reason)
}

fn compose_at(second: i64, previous: &TenantStatus, report: &Report, outcome: Result<(), &Error>) -> TenantStatus {
    compose(&tenant(), previous, report, outcome, &at(second))
}

#[test]
fn a_tenant_at_rest_gets_the_same_status_again() {
    let first = compose_at(1, &TenantStatus::default(), &served(), Ok(()));
    assert_eq!(condition(&first, ConditionType::Ready), (ConditionStatus::True, "Serving"));
    assert_eq!(first.phase, Some(Phase::Ready));
    assert_eq!(compose_at(2, &first, &served(), Ok(())), first);
    assert!(first.conditions.iter().all(|c| c.observed_generation == Some(3)));
}

#[test]
fn postgres_away_flaps_nothing_but_itself_and_ready() {
    let first = compose_at(1, &TenantStatus::default(), &served(), Ok(()));
    let error = Error::Database(DatabaseError::Unavailable { operation: "x", source: sqlx::Error::PoolTimedOut });
    let away = compose_at(2, &first, &Report::default(), Err(&error));
    assert_eq!(condition(&away, ConditionType::DatabaseReady), (ConditionStatus::False, "PostgresUnavailable"));
    assert_eq!(condition(&away, ConditionType::Ready), (ConditionStatus::False, "PostgresUnavailable"));
    assert_eq!(condition(&away, ConditionType::EngineReady), (ConditionStatus::True, "EngineServing"));
    assert_eq!(condition(&away, ConditionType::KeyReady), (ConditionStatus::True, "KeyInSecret"));
    assert_eq!(condition(&away, ConditionType::Reconciling).0, ConditionStatus::True);
    assert_eq!(condition(&away, ConditionType::Stalled).0, ConditionStatus::False);
    assert_eq!((away.placement, away.usage.clone()), (first.placement, first.usage.clone()));
    assert_eq!(compose_at(3, &away, &served(), Ok(())).phase, Some(Phase::Ready));
}

#[test]
fn deleted_tenant_that_others_hold_is_not_ready() {
    let first = compose_at(1, &TenantStatus::default(), &served(), Ok(()));
    let mut deleted = tenant();
    deleted.metadata.deletion_timestamp = Some(at(2));
    let mut report = Report::default();
    report.wait_for(Reason::Deleting, "finalizers of others hold the Tenant");
    let status = compose(&deleted, &first, &report, Ok(()), &at(2));
    assert_eq!(condition(&status, ConditionType::Ready), (ConditionStatus::False, "Deleting"));
    assert_eq!(condition(&status, ConditionType::Reconciling), (ConditionStatus::True, "Deleting"));
    assert_eq!(status.phase, Some(Phase::Deleting));
    // The finalizer goes when there is nothing left to say.
    assert_eq!(compose(&deleted, &status, &report, Ok(()), &at(3)), status);
}

#[test]
fn what_only_a_person_can_mend_is_stalled() {
    let error = Error::NamespaceTaken("stellar-tenant-acme".to_owned());
    let status = compose_at(1, &TenantStatus::default(), &Report::default(), Err(&error));
    assert_eq!(condition(&status, ConditionType::Stalled), (ConditionStatus::True, "NamespaceTaken"));
    assert_eq!(condition(&status, ConditionType::EngineReady), (ConditionStatus::False, "NamespaceTaken"));
    assert_eq!(condition(&status, ConditionType::Reconciling).0, ConditionStatus::False);
    assert_eq!(status.phase, Some(Phase::Failed));
}

#[test]
fn a_move_is_not_ready_until_the_new_engine_serves() {
    let first = compose_at(1, &TenantStatus::default(), &served(), Ok(()));
    let mut report = Report { placement: Some(Placement::Pooled), ..served() };
    report.found(ConditionType::EngineReady, false, Reason::EngineRolling, "0 of 1");
    report.wait_for(Reason::Moving, "0 of 1");
    let moving = compose_at(2, &first, &report, Ok(()));
    assert_eq!(condition(&moving, ConditionType::Ready), (ConditionStatus::False, "Moving"));
    assert_eq!(moving.phase, Some(Phase::Moving));
    let new = compose_at(2, &TenantStatus::default(), &report, Ok(()));
    assert_eq!(new.phase, Some(Phase::Provisioning));
}

#[test]
fn draining_after_a_move_back_is_ready_already() {
    let mut report = Report { placement: Some(Placement::Pooled), wanted: Some(Placement::Pooled), ..served() };
    report.wait_for(Reason::Moving, "drains");
    let status = compose_at(1, &TenantStatus::default(), &report, Ok(()));
    assert_eq!(condition(&status, ConditionType::Ready).0, ConditionStatus::True);
    assert_eq!(condition(&status, ConditionType::Reconciling), (ConditionStatus::True, "Moving"));
    assert_eq!(status.phase, Some(Phase::Moving));
}

#[test]
fn only_transitions_are_told() {
    let first = compose_at(1, &TenantStatus::default(), &served(), Ok(()));
    assert_eq!(events(&TenantStatus::default(), &first).len(), 1);
    assert!(events(&first, &first).is_empty());
    let more = TenantStatus { usage: Some(UsageStatus { memories: 2, limit: 10 }), ..first.clone() };
    assert!(events(&first, &more).is_empty());
}

#[test]
fn a_suspended_tenant_is_as_asked_for() {
    let status = compose_at(1, &TenantStatus::default(), &Report { suspended: true, ..served() }, Ok(()));
    assert_eq!(condition(&status, ConditionType::Ready), (ConditionStatus::True, "Suspended"));
    assert_eq!(status.phase, Some(Phase::Suspended));
}
