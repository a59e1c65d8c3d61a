//! A crash while the spec of a tenant is changed: suspended, resumed, resized, its credentials rotated.

use std::collections::HashMap;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    identity,
    theatre::{Step, Theatre, When, is_settled},
};
use crate::stage::stage;

/// How the names of the steps end that write the login of an engine.
const OF_A_LOGIN: [&str; 2] = ["stellar.role_login", "/secrets/engine-db"];

/// Which steps of a change to crash after, each as the nth of its name. What a look at rest sends too changes nothing,
/// but of functions this is not known: a call names a statement, which has another name on another connection. A login
/// is written as often as it changes, all else by every look, and there are more or fewer of them: the first is enough.
fn of_a_change<'a>(steps: &'a [Step], at_rest: &[Step]) -> Vec<(usize, &'a String)> {
    let mut seen: HashMap<&String, usize> = HashMap::new();
    let mut points = Vec::new();
    for step in steps {
        let (name, _) = step;
        let nth = seen.entry(name).or_default();
        *nth += 1;
        let counts = *nth == 1 || OF_A_LOGIN.iter().any(|end| name.ends_with(end));
        if counts && (name.starts_with("stellar.") || !at_rest.contains(step)) {
            points.push((*nth, name));
        }
    }
    points
}

/// What is in a state at this place (a JSON pointer).
fn at(state: &str, place: &str) -> Value {
    serde_json::from_str::<Value>(state).unwrap().pointer(place).cloned().unwrap_or_default()
}

/// A change of a tenant's spec.
struct Change {
    /// What its tenants are called.
    what: &'static str,
    first_identity: usize,
    from: Value,
    to: Value,
    /// Where in the state it shows in the end (a JSON pointer), and how. First of all what its first step writes.
    shows: Vec<(&'static str, Value)>,
    /// Whether there are other credentials afterwards.
    rotates: bool,
    least_crashes: usize,
}

/// Changes tenants with a crash after each step that may change something, and compares each with one that was changed
/// without.
async fn change_with_crashes(change: Change) {
    let Change { what, first_identity, from, to, shows, rotates, least_crashes } = change;
    let stage = stage().await;
    let mut theatre = Theatre::open(stage.start(), &stage.url, &stage.postgres).await;
    let tenant = |n: usize| (format!("{what}-{n:03}"), identity(first_identity + n));
    let spec = |id: Uuid| {
        let mut spec = from.clone();
        spec["userId"] = json!(id);
        spec
    };
    let models = [tenant(0)];
    theatre.make(&models, spec).await;
    let [(model, id)] = &models;
    theatre.crash.plan(model, *id, None);
    theatre.looks_begin(model, *id, 2).await;
    let (before, at_rest) = (theatre.state(model, *id).await, theatre.crash.sent());
    theatre.change(model, *id, &to, None).await;
    theatre.wait("the tenant without a crash is changed", async |api| is_settled(api, model).await).await;
    let expected = theatre.at_rest(model, *id).await;
    for (place, value) in &shows {
        assert_ne!(at(&before, place), *value, "{place} before");
        assert_eq!(at(&expected, place), *value, "{place} afterwards");
    }
    let steps = theatre.crash.sent();
    let points = of_a_change(&steps, &at_rest);

    let tenants: Vec<_> = (1..=points.len()).map(tenant).collect();
    theatre.make(&tenants, spec).await;
    let mut credentials = Vec::new();
    for (name, id) in &tenants {
        credentials.push(theatre.credentials(name, *id).await);
    }
    // Each recovers while the next ones crash, which saves the time to wait for it. The last steps come first: they
    // wait for an engine to roll, and later all engines do.
    for ((nth, step), (name, id)) in points.iter().zip(&tenants).rev() {
        let step = step.replace(model, name);
        theatre.change(name, *id, &to, Some(When::Nth(*nth, step.clone()))).await;
        assert_eq!(theatre.dies(name, *id).await, step);
        let (place, value) = &shows[0];
        let crashed = theatre.state(name, *id).await;
        assert_eq!(at(&crashed, place), *value, "{name}: the change had begun before the crash after {step}");
    }
    theatre.start_again().await;
    for ((step, (name, id)), before) in points.iter().zip(&tenants).zip(&credentials) {
        theatre.comes_to(&expected, name, *id, &format!("after {step:?}")).await;
        if rotates {
            theatre.assert_rotated(name, *id, before).await;
        } else {
            assert_eq!(theatre.credentials(name, *id).await, *before, "{name}: nothing is rotated");
        }
    }
    println!("{} crashes while a tenant was changed ({what}), after: {points:#?}", points.len());
    assert!(points.len() >= least_crashes, "only {} crashes: {points:#?}", points.len());
}

fn suspension(what: &'static str, first_identity: usize, suspended: bool, phase: &str) -> Change {
    Change {
        what,
        first_identity,
        from: json!({ "tier": "free", "deletionPolicy": "Delete", "suspended": !suspended }),
        to: json!({ "suspended": suspended }),
        shows: vec![
            ("/postgres/users/0/suspended", json!(suspended)),
            ("/kubernetes/~1apis~1stellar-memory.dev~1v1alpha1~1tenants~1NAME/status/phase", json!(phase)),
        ],
        rotates: false,
        least_crashes: 5,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_any_step_of_suspending_a_tenant_makes_no_difference() {
    change_with_crashes(suspension("suspend", 9_000, true, "Suspended")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_any_step_of_resuming_a_tenant_makes_no_difference() {
    change_with_crashes(suspension("resume", 10_000, false, "Ready")).await;
}

/// Both in one change, since every crash takes its time: it has the steps of either, as the password is rotated when
/// the engine with its new size serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_any_step_of_resizing_a_dedicated_tenant_and_rotating_its_credentials_makes_no_difference() {
    let resources = json!({
        "requests": { "cpu": "100m", "memory": "128Mi" },
        "limits": { "cpu": "1", "memory": "640Mi" },
    });
    change_with_crashes(Change {
        what: "resize",
        first_identity: 11_000,
        from: json!({ "tier": "pro", "deletionPolicy": "Delete" }),
        to: json!({
            "rotation": 1,
            "limits": { "maxMemories": 60_000, "maxAgents": 7, "requestsPerMinute": 400 },
            "engine": { "replicas": 2, "resources": resources },
        }),
        shows: vec![
            ("/postgres/users/0/capability_generation", json!(2)),
            ("/postgres/users/0/max_agents", json!(7)),
            ("/postgres/users/0/requests_per_minute", json!(400)),
            ("/postgres/usage/0/1", json!(60_000)),
            // Of two replicas, and of one more while they roll.
            ("/postgres/role/0/1", json!(24)),
            ("/kubernetes/resourcequotas~1engine/spec/hard/pods", json!("4")),
            ("/kubernetes/resourcequotas~1engine/spec/hard/limits.memory", json!("2560Mi")),
            ("/kubernetes/limitranges~1engine/spec/limits/0/max/memory", json!("640Mi")),
            ("/kubernetes/deployments~1engine/spec/replicas", json!(2)),
            ("/kubernetes/deployments~1engine/spec/template/spec/containers/0/resources/limits/memory", json!("640Mi")),
            ("/kubernetes/poddisruptionbudgets~1engine/spec/maxUnavailable", json!(1)),
            ("/kubernetes/~1apis~1stellar-memory.dev~1v1alpha1~1tenants~1NAME/status/usage/limit", json!(60_000)),
        ],
        rotates: true,
        least_crashes: 14,
    })
    .await;
}
