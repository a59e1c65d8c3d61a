//! A crash between any two steps. A step is a write that the API server answered or a function that Postgres ran for one
//! tenant; after the nth of them, before it hears of it, the operator is killed, for every n that there is. Another one is
//! started, and in the end everything must be as without a crash.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
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

/// Counts the steps for one tenant, and pulls the trigger after one of them.
#[derive(Default)]
pub struct Crash(Mutex<Plan>);

#[derive(Default)]
struct Plan {
    /// A step is the tenant's if its bytes contain one of these.
    needles: Vec<Vec<u8>>,
    steps: Vec<String>,
    trigger: Option<(usize, Trigger)>,
}

impl Crash {
    /// Counts anew, for this tenant; kills after so many steps, if a number is given.
    fn plan(&self, name: &str, id: Uuid, trigger: Option<(usize, Trigger)>) {
        let needles = vec![name.as_bytes().to_vec(), id.as_bytes().to_vec()];
        *self.0.lock().unwrap() = Plan { needles, steps: Vec::new(), trigger };
    }

    /// Notes a step that was answered, before the operator hears the answer.
    pub fn step(&self, what: &str, texts: &[&[u8]]) {
        let mut plan = self.0.lock().unwrap();
        let contains = |text: &[u8], needle: &[u8]| text.windows(needle.len()).any(|part| part == needle);
        if !plan.needles.iter().any(|needle| texts.iter().any(|text| contains(text, needle))) {
            return;
        }
        plan.steps.push(what.to_owned());
        if plan.trigger.as_ref().is_some_and(|(after, _)| *after == plan.steps.len())
            && let Some((_, trigger)) = plan.trigger.take()
        {
            trigger.pull();
        }
    }

    fn steps(&self) -> Vec<String> {
        self.0.lock().unwrap().steps.clone()
    }
}

/// An operator behind two proxies, and what is needed to look at what it does.
struct Theatre {
    api: Api,
    database: PgConnection,
    crash: Arc<Crash>,
    start: Start,
    operator: Operator,
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
            _kubelet: Kubelet::start(&api),
            api,
            crash,
            start,
        }
    }

    async fn state(&mut self, name: &str, id: Uuid) -> String {
        snapshot::of(&self.api, &mut self.database, name, id).await
    }

    /// Another operator for one that was killed. Its lease would pass by itself, after 15 s.
    async fn start_again(&mut self) {
        self.api.delete(&format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/stellar-operator")).await;
        self.operator = Operator::start(&self.start);
    }

    fn kill_after(&self, steps: usize, name: &str, id: Uuid) {
        self.crash.plan(name, id, Some((steps, self.operator.trigger())));
    }

    /// Whether the operator was killed before `done` came true.
    async fn killed_before(&self, what: &str, done: impl AsyncFn(&Api) -> bool) -> bool {
        let (operator, api, done) = (&self.operator, &self.api, &done);
        eventually_within(PATIENCE, what, || async move {
            if operator.has_ended() { Some(true) } else { done(api).await.then_some(false) }
        })
        .await
    }

    async fn wait(&self, what: &str, done: impl AsyncFn(&Api) -> bool) {
        assert!(
            !self.killed_before(what, done).await,
            "{what}: the operator ended by itself\n{}",
            self.operator.log_tail()
        );
    }

    /// Waits until the state of the tenant is the expected one.
    async fn comes_to(&mut self, expected: &str, name: &str, id: Uuid, after: &str) {
        let start = std::time::Instant::now();
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
            tokio::time::sleep(Duration::from_millis(100)).await;
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

/// Makes a tenant of the tier with a crash after each step, and compares it with one that was made without.
async fn make_with_crashes(tier: &str, first_identity: usize) {
    let stage = stage().await;
    let mut theatre = Theatre::open(stage.start(), &stage.url, &stage.postgres).await;
    let model = (format!("make-{tier}-000"), identity(first_identity));
    theatre.crash.plan(&model.0, model.1, None);
    theatre.api.tenant(&model.0, &spec(tier, model.1, "Delete")).await;
    theatre.wait("the tenant without a crash is Ready", async |api| is_settled(api, &model.0).await).await;
    // What the last status caused by itself is done when nothing changes from one look to the next.
    let mut expected = String::new();
    loop {
        let now = theatre.state(&model.0, model.1).await;
        if std::mem::replace(&mut expected, now.clone()) == now && is_settled(&theatre.api, &model.0).await {
            break;
        }
    }
    let names = theatre.crash.steps();
    theatre.api.delete(&format!("{TENANTS}/{}", model.0)).await;
    let mut crashes = 0;
    for step in distinct(&names) {
        let (name, id) = (format!("make-{tier}-{step:03}"), identity(first_identity + step));
        theatre.kill_after(step, &name, id);
        theatre.api.tenant(&name, &spec(tier, id, "Delete")).await;
        let killed = theatre
            .killed_before(&format!("{name} is Ready or its operator killed"), async |api| is_settled(api, &name).await)
            .await;
        let after = theatre.crash.steps().last().cloned().unwrap_or_default();
        if killed {
            crashes += 1;
            theatre.start_again().await;
        }
        theatre.comes_to(&expected, &name, id, &format!("after step {step} ({after})")).await;
        theatre.api.delete(&format!("{TENANTS}/{name}")).await;
    }
    println!("{crashes} crashes while a {tier} tenant was made, after: {names:#?}");
    assert!(crashes >= 8, "only {crashes} crashes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_any_step_of_making_a_pooled_tenant_makes_no_difference() {
    make_with_crashes("free", 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_any_step_of_making_a_dedicated_tenant_makes_no_difference() {
    make_with_crashes("pro", 2_000).await;
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
    theatre.wait("the tenant without a crash is gone", async |api| is_gone(api, model).await).await;
    let names = theatre.crash.steps();
    let expected = theatre.state(model, *id).await;
    let mut crashed = Vec::new();
    let mut complete = false;
    for (step, (name, id)) in tenants.iter().enumerate().skip(1) {
        theatre.kill_after(step, name, *id);
        theatre.api.delete(&format!("{TENANTS}/{name}")).await;
        // The last step takes the finalizer off: then both are true, and the look at the operator comes first.
        complete = !theatre
            .killed_before(&format!("{name} is gone or its operator killed"), async |api| is_gone(api, name).await)
            .await;
        if complete {
            break;
        }
        crashed.push((name, *id, theatre.crash.steps().last().cloned().unwrap_or_default()));
        theatre.start_again().await;
    }
    for (name, id, after) in &crashed {
        theatre.comes_to(&expected, name, *id, after).await;
    }
    println!("{} crashes while a {tier} tenant was deleted ({policy}), after: {names:#?}", crashed.len());
    assert!(complete, "there are more steps than the {at_once} tenants of this test");
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
