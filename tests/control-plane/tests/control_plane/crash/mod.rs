//! A crash between any two steps. A step is a write that the API server answered or a function that Postgres ran for one
//! tenant; after the nth of them, before it hears of it, the operator is killed, for every n that there is. Another one is
//! started, and in the end everything must be as without a crash.

mod change;
mod theatre;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    api::{Api, TENANTS, settled},
    stage::stage,
};
use theatre::{FIRST_OF_A_LOOK, Theatre, When, is_settled};

pub use theatre::Crash;

const FIRST_OF_A_DELETION: &str = "stellar.tenant_retire";

fn identity(number: usize) -> Uuid {
    Uuid::from_u128(0x0c1d_2e3f_4a5b_4000_8000_0000_0000_0000 + u128::from(rand()) + number as u128)
}

/// Different in every run of the suite: what Retain keeps is still there in the next.
fn rand() -> u64 {
    u64::from(std::process::id()) << 20
}

fn spec(tier: &str, id: Uuid, policy: &str) -> Value {
    json!({ "tier": tier, "userId": id, "deletionPolicy": policy })
}

/// Which steps to crash after: each that has another neighbour than before. A reconciliation that repeats what an earlier one
/// did has the same crashes.
fn distinct(steps: &[String]) -> Vec<usize> {
    let mut seen = std::collections::HashSet::new();
    (1..=steps.len()).filter(|step| seen.insert((&steps[step - 1], steps.get(*step)))).collect()
}

/// Each step once, by its name, and in the order of their first time: for moves, which take longer and repeat steps with many
/// neighbours, not always as often.
fn each_once(steps: &[String]) -> Vec<&String> {
    let mut seen = std::collections::HashSet::new();
    steps.iter().filter(|step| seen.insert(*step)).collect()
}

/// Makes a tenant of a pooled tier with a crash after each step, and compares it with one that was made without. What a
/// dedicated one needs besides is made when one moves there.
async fn make_with_crashes(tier: &str, first_identity: usize) {
    let stage = stage().await;
    let mut theatre = Theatre::open(stage.start(), &stage.url, &stage.postgres).await;
    let model = (format!("make-{tier}-000"), identity(first_identity));
    theatre.crash.plan(&model.0, model.1, None);
    theatre.api.tenant(&model.0, &spec(tier, model.1, "Delete")).await;
    theatre.wait("the tenant without a crash is Ready", async |api| is_settled(api, &model.0).await).await;
    let expected = theatre.at_rest(&model.0, model.1).await;
    let names = theatre.crash.steps();
    theatre.api.delete(&format!("{TENANTS}/{}", model.0)).await;
    let steps = distinct(&names);
    for step in &steps {
        let (name, id) = (format!("make-{tier}-{step:03}"), identity(first_identity + step));
        theatre.kill_after(When::Count(*step), &name, id);
        theatre.api.tenant(&name, &spec(tier, id, "Delete")).await;
        let after = theatre.killed(&name, id).await;
        theatre.comes_to(&expected, &name, id, &format!("after step {step} ({after})")).await;
        theatre.api.delete(&format!("{TENANTS}/{name}")).await;
    }
    println!("{} crashes while a {tier} tenant was made, after: {names:#?}", steps.len());
    assert!(steps.len() >= 8, "only {} crashes", steps.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_any_step_of_making_a_pooled_tenant_makes_no_difference() {
    make_with_crashes("free", 1_000).await;
}

/// Deletes a tenant of the tier with a crash after each step, and compares what is left with what is left without.
async fn delete_with_crashes(tier: &str, policy: &str, first_identity: usize, at_once: usize) {
    let stage = stage().await;
    let mut theatre = Theatre::open(stage.start(), &stage.url, &stage.postgres).await;
    let short = policy.to_lowercase();
    let tenants: Vec<_> =
        (0..at_once).map(|n| (format!("{short}-{tier}-{n:03}"), identity(first_identity + n))).collect();
    theatre.make(&tenants, |id| spec(tier, id, policy)).await;
    let (model, id) = &tenants[0];
    theatre.crash.plan(model, *id, None);
    theatre.api.delete(&format!("{TENANTS}/{model}")).await;
    assert_eq!(theatre.killed_before_gone(model).await, None);
    // Without those of a look that was under way.
    let names: Vec<_> = theatre.crash.steps().into_iter().skip_while(|step| step != FIRST_OF_A_DELETION).collect();
    let expected = theatre.state(model, *id).await;
    let mut crashed = Vec::new();
    let mut complete = false;
    for (step, (name, id)) in tenants.iter().enumerate().skip(1) {
        theatre.kill_after(When::Count(step), name, *id);
        theatre.api.delete(&format!("{TENANTS}/{name}")).await;
        let Some(after) = theatre.killed_before_gone(name).await else {
            complete = true;
            break;
        };
        crashed.push((name, *id, after));
    }
    for (name, id, after) in &crashed {
        theatre.comes_to(&expected, name, *id, after).await;
    }
    println!("{} crashes while a {tier} tenant was deleted ({policy}), after: {names:#?}", crashed.len());
    assert!(complete, "there are more steps than the {at_once} tenants of this test");
    assert!(crashed.len() >= each_once(&names).len(), "only {} crashes: {names:#?}", crashed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_any_step_of_deleting_a_pooled_tenant_makes_no_difference() {
    delete_with_crashes("free", "Delete", 3_000, 16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_any_step_of_retaining_a_pooled_tenant_makes_no_difference() {
    delete_with_crashes("free", "Retain", 4_000, 16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_any_step_of_deleting_a_dedicated_tenant_makes_no_difference() {
    delete_with_crashes("pro", "Delete", 5_000, 24).await;
}

/// Moves tenants to another tier with a crash after each step, and compares each with one that moved without.
async fn move_with_crashes(from: &str, to: &str, placement: &str, first_identity: usize, at_once: usize) {
    let stage = stage().await;
    let mut theatre = Theatre::open(stage.start(), &stage.url, &stage.postgres).await;
    let tenants: Vec<_> = (0..at_once).map(|n| (format!("{from}-{to}-{n:03}"), identity(first_identity + n))).collect();
    theatre.make(&tenants, |id| spec(from, id, "Delete")).await;
    let moves = json!({ "spec": { "tier": to } });
    let has_moved = async |api: &Api, name: &str| {
        let tenant = api.get(&format!("{TENANTS}/{name}")).await;
        tenant.is_some_and(|tenant| settled(&tenant) && tenant["status"]["placement"] == placement)
    };
    let (model, id) = &tenants[0];
    theatre.crash.plan(model, *id, None);
    theatre.looks_begin(model, *id, 2).await;
    let at_rest = theatre.crash.steps();
    theatre.crash.plan(model, *id, None);
    theatre.api.patch(&format!("{TENANTS}/{model}"), &moves).await.unwrap();
    theatre.wait("the tenant without a crash has moved", async |api| has_moved(api, model).await).await;
    let expected = theatre.at_rest(model, *id).await;
    // Without those of a look at it in its old place that was still under way; later looks repeat the first steps of all.
    let steps = theatre.crash.steps();
    let names: Vec<_> = steps.into_iter().skip_while(|step| at_rest.contains(step)).collect();
    let steps = each_once(&names);
    assert!(names.iter().any(|step| step == FIRST_OF_A_LOOK), "no look follows the move: {names:#?}");
    assert!(steps.len() < at_once, "{} steps need more tenants than {at_once}", steps.len());
    for (step, (name, id)) in steps.iter().zip(&tenants[1..]) {
        theatre.kill_after(When::Nth(1, step.replace(model, name)), name, *id);
        theatre.api.patch(&format!("{TENANTS}/{name}"), &moves).await.unwrap();
        let after = theatre.killed(name, *id).await;
        theatre.comes_to(&expected, name, *id, &after).await;
    }
    println!("{} crashes while a tenant moved from {from} to {to}, after: {steps:#?}", steps.len());
    assert!(steps.len() >= 5, "only {} crashes", steps.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_any_step_of_moving_to_an_engine_of_its_own_makes_no_difference() {
    move_with_crashes("free", "pro", "dedicated", 7_000, 32).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_any_step_of_moving_back_to_the_shared_engine_makes_no_difference() {
    move_with_crashes("pro", "free", "pooled", 8_000, 24).await;
}
