//! A crash between any two steps. A step is a write that the API server answered or a function that Postgres ran for one
//! tenant; after the nth of them, before it hears of it, the operator is killed, for every n that there is. Another one is
//! started, and in the end everything must be as without a crash.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use harness::{Postgres, eventually_within};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    api::{Api, TENANTS, settled},
    api_proxy,
    kubelet::Kubelet,
    postgres_proxy,
    program::{Operator, Start, Trigger},
    snapshot,
    stage::{SYSTEM, stage},
};

const PATIENCE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(50);
const ASK_EVERY: Duration = Duration::from_millis(500);
/// What a reconciliation writes first.
const FIRST_OF_A_LOOK: &str = "stellar.tenant_apply";
const FIRST_OF_A_DELETION: &str = "stellar.tenant_retire";

/// Counts the steps for one tenant, and pulls the trigger after one of them.
#[derive(Default)]
pub struct Crash(Mutex<Plan>);

#[derive(Default)]
struct Plan {
    /// A step is the tenant's if its bytes contain one of these.
    needles: Vec<Vec<u8>>,
    steps: Vec<String>,
    trigger: Option<(When, Trigger)>,
    pulled: bool,
}

/// After which step to kill.
enum When {
    /// After so many.
    Count(usize),
    /// After the first of this name.
    Named(String),
}

impl Crash {
    /// Counts anew, for this tenant; kills after a step, if one is given.
    fn plan(&self, name: &str, id: Uuid, trigger: Option<(When, Trigger)>) {
        let needles = vec![name.as_bytes().to_vec(), id.as_bytes().to_vec()];
        *self.0.lock().unwrap() = Plan { needles, steps: Vec::new(), trigger, pulled: false };
    }

    /// Notes a step that was answered, before the operator hears the answer.
    pub fn step(&self, what: &str, texts: &[&[u8]]) {
        let mut plan = self.0.lock().unwrap();
        let contains = |text: &[u8], needle: &[u8]| text.windows(needle.len()).any(|part| part == needle);
        if !plan.needles.iter().any(|needle| texts.iter().any(|text| contains(text, needle))) {
            return;
        }
        plan.steps.push(what.to_owned());
        let due = plan.trigger.as_ref().is_some_and(|(when, _)| match when {
            When::Count(count) => *count == plan.steps.len(),
            When::Named(name) => name == what,
        });
        if due && let Some((_, trigger)) = plan.trigger.take() {
            trigger.pull();
            plan.pulled = true;
        }
    }

    fn steps(&self) -> Vec<String> {
        self.0.lock().unwrap().steps.clone()
    }

    /// Whether the operator was killed as planned, and the last step until now.
    fn outcome(&self) -> (bool, String) {
        let plan = self.0.lock().unwrap();
        (plan.pulled, plan.steps.last().cloned().unwrap_or_default())
    }
}

/// An operator behind two proxies, and what is needed to look at what it does.
struct Theatre {
    api: Api,
    database: PgConnection,
    crash: Arc<Crash>,
    start: Start,
    operator: Operator,
    /// When a look was asked for last.
    asked: Option<Instant>,
    _kubelet: Kubelet,
}

impl Theatre {
    async fn open(start: Start, url: &str, postgres: &Postgres) -> Self {
        let api = Api::admin().await;
        let crash = Arc::new(Crash::default());
        let folder: PathBuf = start.workdir.path().to_owned();
        let its_own = kube::config::Kubeconfig::read_from(&start.kubeconfig).unwrap();
        let config =
            kube::Config::from_custom_kubeconfig(its_own, &kube::config::KubeConfigOptions::default()).await.unwrap();
        let kubeconfig = api_proxy::start(kube::Client::try_from(config).unwrap(), crash.clone(), &folder).await;
        let port = postgres_proxy::start(postgres.port, crash.clone()).await;
        let url_file = folder.join("proxied-url");
        let (address, _) = url.trim().split_once('?').unwrap_or((url.trim(), ""));
        let proxied = address.replace(&format!(":{}/", postgres.port), &format!(":{port}/"));
        std::fs::write(&url_file, format!("{proxied}?sslmode=disable")).unwrap();
        let start = Start { kubeconfig, url_file, ..start };
        Self {
            database: postgres.superuser("stellar").await.unwrap(),
            operator: Operator::start(&start),
            asked: None,
            _kubelet: Kubelet::start(&api),
            api,
            crash,
            start,
        }
    }

    async fn state(&mut self, name: &str, id: Uuid) -> String {
        snapshot::of(&self.api, &mut self.database, name, id).await
    }

    /// The state once nothing changes any more from one look to the next: what the last status caused by itself is done.
    async fn at_rest(&mut self, name: &str, id: Uuid) -> String {
        // A look that begins after the last status shows that the one which wrote it has ended, with its events.
        self.looks_begin(name, id, 1).await;
        let mut last = String::new();
        loop {
            let now = self.state(name, id).await;
            if std::mem::replace(&mut last, now.clone()) == now && is_settled(&self.api, name).await {
                return now;
            }
        }
    }

    /// Waits until so many looks more have begun. With the next one each has ended.
    async fn looks_begin(&mut self, name: &str, id: Uuid, more: usize) {
        let looks = |crash: &Crash| crash.steps().iter().filter(|step| *step == FIRST_OF_A_LOOK).count();
        let start = Instant::now();
        let enough = looks(&self.crash) + more;
        while looks(&self.crash) < enough {
            assert!(start.elapsed() < PATIENCE, "{name} is not looked at again\n{}", self.operator.log_tail());
            self.ask_for_a_look(id).await;
            tokio::time::sleep(POLL).await;
        }
    }

    /// Makes the operator look at a tenant again that it has settled, as a change of its rows does, but without a change. Not
    /// too often: the operator waits until nobody asks any more.
    async fn ask_for_a_look(&mut self, id: Uuid) {
        if self.asked.is_some_and(|asked| asked.elapsed() < ASK_EVERY) {
            return;
        }
        self.asked = Some(Instant::now());
        let notify = sqlx::query("SELECT pg_notify('stellar_control', $1)").bind(id.to_string());
        notify.execute(&mut self.database).await.unwrap();
    }

    /// Another operator for one that was killed. Its lease would pass by itself, after 15 s.
    async fn start_again(&mut self) {
        self.api.delete(&format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/stellar-operator")).await;
        self.operator = Operator::start(&self.start);
    }

    fn kill_after(&self, when: When, name: &str, id: Uuid) {
        self.crash.plan(name, id, Some((when, self.operator.trigger())));
    }

    /// Waits until the operator was killed as planned, and starts another. Returns the step after which it was.
    ///
    /// Steps come after the status that says Ready too, and those of a look that finds nothing to do: such looks are asked
    /// for until the planned step was one of theirs.
    async fn killed(&mut self, name: &str, id: Uuid) -> String {
        let start = Instant::now();
        loop {
            // In this order: a planned kill is noted before anybody can see what has ended.
            let ended = self.operator.has_ended();
            let (killed, last) = self.crash.outcome();
            if killed {
                self.start_again().await;
                return last;
            }
            let (steps, log) = (self.crash.steps(), self.operator.log_tail());
            assert!(!ended, "{name}: the operator ended by itself after {steps:#?}\n{log}");
            assert!(start.elapsed() < PATIENCE, "{name}: the planned step did not come, only {steps:#?}\n{log}");
            if is_settled(&self.api, name).await {
                self.ask_for_a_look(id).await;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The same for a Tenant that is being deleted. `None`: it is gone, and no step was the planned one.
    ///
    /// The last step takes the finalizer off, so the Tenant is gone a moment before the step is noted and the operator killed:
    /// only the noted step tells what comes first.
    async fn killed_before_gone(&mut self, name: &str) -> Option<String> {
        let (crash, api, operator) = (&self.crash, &self.api, &self.operator);
        let last_step = &format!("PATCH {TENANTS}/{name}");
        let killed_after =
            eventually_within(PATIENCE, &format!("{name} is gone or its operator killed"), || async move {
                let ended = operator.has_ended();
                let (killed, last) = crash.outcome();
                if killed {
                    return Some(Some(last));
                }
                assert!(!ended, "{name}: the operator ended by itself\n{}", operator.log_tail());
                (last == *last_step && is_gone(api, name).await).then_some(None)
            })
            .await;
        if killed_after.is_some() {
            self.start_again().await;
        }
        killed_after
    }

    async fn wait(&self, what: &str, done: impl AsyncFn(&Api) -> bool) {
        let (operator, api, done) = (&self.operator, &self.api, &done);
        eventually_within(PATIENCE, what, || async move {
            assert!(!operator.has_ended(), "{what}: the operator ended by itself\n{}", operator.log_tail());
            done(api).await.then_some(())
        })
        .await;
    }

    /// Waits until the state of the tenant is the expected one.
    async fn comes_to(&mut self, expected: &str, name: &str, id: Uuid, after: &str) {
        let start = Instant::now();
        loop {
            let found = self.state(name, id).await;
            if found == expected {
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "after a crash {after} {name} stays different:\n{}\n{}",
                snapshot::difference(expected, &found),
                self.operator.log_tail()
            );
            tokio::time::sleep(POLL).await;
        }
    }
}

fn identity(number: usize) -> Uuid {
    Uuid::from_u128(0x0c1d_2e3f_4a5b_4000_8000_0000_0000_0000 + u128::from(rand()) + number as u128)
}

/// Different in every run of the suite: what Retain keeps is still there in the next.
fn rand() -> u64 {
    u64::from(std::process::id()) << 20
}

async fn is_settled(api: &Api, name: &str) -> bool {
    api.get(&format!("{TENANTS}/{name}")).await.is_some_and(|tenant| settled(&tenant))
}

async fn is_gone(api: &Api, name: &str) -> bool {
    api.get(&format!("{TENANTS}/{name}")).await.is_none()
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
    for (name, id) in &tenants {
        theatre.api.tenant(name, &spec(tier, *id, policy)).await;
    }
    for (name, _) in &tenants {
        theatre.wait(&format!("{name} is Ready"), async |api| is_settled(api, name).await).await;
    }
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
    for (name, id) in &tenants {
        theatre.api.tenant(name, &spec(from, *id, "Delete")).await;
    }
    for (name, _) in &tenants {
        theatre.wait(&format!("{name} is Ready"), async |api| is_settled(api, name).await).await;
    }
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
        theatre.kill_after(When::Named(step.replace(model, name)), name, *id);
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
