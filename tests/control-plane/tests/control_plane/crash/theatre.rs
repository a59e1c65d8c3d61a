//! An operator behind two proxies that count what it does, killed after the step that a test names.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use harness::{Postgres, eventually_within};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::{
    api::{Api, TENANTS, settled},
    api_proxy,
    kubelet::Kubelet,
    postgres_proxy,
    program::{Operator, Start, Trigger},
    snapshot,
    stage::{SYSTEM, decode},
};

const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);
const ASK_EVERY: Duration = Duration::from_millis(500);
/// What a reconciliation writes first.
pub(super) const FIRST_OF_A_LOOK: &str = "stellar.tenant_apply";

/// A step's name, and what the operator sent.
pub(super) type Step = (String, Vec<u8>);
/// The hash of a capability, and the URL that the tenant's own engine logs in with, if it has one.
pub(super) type Credentials = (Vec<u8>, Option<String>);

/// Counts the steps for one tenant, and pulls the trigger after one of them.
#[derive(Default)]
pub struct Crash(Mutex<Plan>);

#[derive(Default)]
pub(super) struct Plan {
    /// A step is the tenant's if its bytes contain one of these.
    needles: Vec<Vec<u8>>,
    steps: Vec<Step>,
    trigger: Option<(When, Trigger)>,
    pulled: bool,
}

/// After which step to kill.
pub(super) enum When {
    /// After so many.
    Count(usize),
    /// After the nth of this name.
    Nth(usize, String),
}

impl Crash {
    /// Counts anew, for this tenant; kills after a step, if one is given.
    pub(super) fn plan(&self, name: &str, id: Uuid, trigger: Option<(When, Trigger)>) {
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
        plan.steps.push((what.to_owned(), texts.concat()));
        let due = plan.trigger.as_ref().is_some_and(|(when, _)| match when {
            When::Count(count) => *count == plan.steps.len(),
            When::Nth(nth, name) => name == what && plan.steps.iter().filter(|(step, _)| step == name).count() == *nth,
        });
        if due && let Some((_, trigger)) = plan.trigger.take() {
            trigger.pull();
            plan.pulled = true;
        }
    }

    pub(super) fn steps(&self) -> Vec<String> {
        self.0.lock().unwrap().steps.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The steps with what was sent.
    pub(super) fn sent(&self) -> Vec<Step> {
        self.0.lock().unwrap().steps.clone()
    }

    /// Whether the operator was killed as planned, and the last step until now.
    pub(super) fn outcome(&self) -> (bool, String) {
        let plan = self.0.lock().unwrap();
        (plan.pulled, plan.steps.last().map(|(name, _)| name.clone()).unwrap_or_default())
    }
}

/// An operator behind two proxies, and what is needed to look at what it does.
pub(super) struct Theatre {
    pub(super) api: Api,
    pub(super) database: PgConnection,
    pub(super) crash: Arc<Crash>,
    start: Start,
    operator: Operator,
    /// When a look was asked for last.
    asked: Option<Instant>,
    _kubelet: Kubelet,
}

impl Theatre {
    pub(super) async fn open(start: Start, url: &str, postgres: &Postgres) -> Self {
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

    pub(super) async fn state(&mut self, name: &str, id: Uuid) -> String {
        let state = snapshot::of(&self.api, &mut self.database, name, id).await;
        let mut state: Value = serde_json::from_str(&state).unwrap();
        // A time, so different each time.
        if let Some(until) = state.pointer_mut("/postgres/users/0/capability_previous_until") {
            *until = Value::Null;
        }
        serde_json::to_string_pretty(&state).unwrap()
    }

    /// Makes tenants, and waits until they are Ready.
    pub(super) async fn make(&self, tenants: &[(String, Uuid)], spec: impl Fn(Uuid) -> Value) {
        for (name, id) in tenants {
            self.api.tenant(name, &spec(*id)).await;
        }
        for (name, _) in tenants {
            self.wait(&format!("{name} is Ready"), async |api| is_settled(api, name).await).await;
        }
    }

    /// The state once nothing changes any more from one look to the next: what the last status caused by itself is done.
    pub(super) async fn at_rest(&mut self, name: &str, id: Uuid) -> String {
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
    pub(super) async fn looks_begin(&mut self, name: &str, id: Uuid, more: usize) {
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
    pub(super) async fn ask_for_a_look(&mut self, id: Uuid) {
        if self.asked.is_some_and(|asked| asked.elapsed() < ASK_EVERY) {
            return;
        }
        self.asked = Some(Instant::now());
        let notify = sqlx::query("SELECT pg_notify('stellar_control', $1)").bind(id.to_string());
        notify.execute(&mut self.database).await.unwrap();
    }

    /// Another operator for one that was killed. Its lease would pass by itself, after 15 s.
    pub(super) async fn start_again(&mut self) {
        self.api.delete(&format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/stellar-operator")).await;
        self.operator = Operator::start(&self.start);
    }

    /// Changes a tenant while no operator lives, and starts one: the first step that is counted is one of the change.
    pub(super) async fn change(&mut self, name: &str, id: Uuid, to: &Value, kill_after: Option<When>) {
        self.operator.trigger().pull();
        self.api.patch(&format!("{TENANTS}/{name}"), &json!({ "spec": to })).await.unwrap();
        self.start_again().await;
        self.crash.plan(name, id, kill_after.map(|when| (when, self.operator.trigger())));
    }

    pub(super) fn kill_after(&self, when: When, name: &str, id: Uuid) {
        self.crash.plan(name, id, Some((when, self.operator.trigger())));
    }

    /// Waits until the operator was killed as planned, and starts another. Returns the step after which it was.
    pub(super) async fn killed(&mut self, name: &str, id: Uuid) -> String {
        let after = self.dies(name, id).await;
        self.start_again().await;
        after
    }

    /// Waits until the operator was killed as planned. Returns the step after which it was.
    ///
    /// Steps come after the status that says Ready too, and those of a look that finds nothing to do: such looks are asked
    /// for until the planned step was one of theirs.
    pub(super) async fn dies(&mut self, name: &str, id: Uuid) -> String {
        let start = Instant::now();
        loop {
            // In this order: a planned kill is noted before anybody can see what has ended.
            let ended = self.operator.has_ended();
            let (killed, last) = self.crash.outcome();
            if killed {
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
    pub(super) async fn killed_before_gone(&mut self, name: &str) -> Option<String> {
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

    pub(super) async fn wait(&self, what: &str, done: impl AsyncFn(&Api) -> bool) {
        let (operator, api, done) = (&self.operator, &self.api, &done);
        eventually_within(PATIENCE, what, || async move {
            assert!(!operator.has_ended(), "{what}: the operator ended by itself\n{}", operator.log_tail());
            done(api).await.then_some(())
        })
        .await;
    }

    /// Waits until the state of the tenant is the expected one.
    pub(super) async fn comes_to(&mut self, expected: &str, name: &str, id: Uuid, after: &str) {
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

    pub(super) async fn credentials(&mut self, name: &str, id: Uuid) -> Credentials {
        let hash = sqlx::query_scalar("SELECT capability_hash FROM stellar.users WHERE id = $1").bind(id);
        let hash = hash.fetch_one(&mut self.database).await.unwrap();
        let secret = self.api.get(&format!("/api/v1/namespaces/stellar-tenant-{name}/secrets/engine-db")).await;
        (hash, secret.map(|secret| decode(&secret["data"]["url"])))
    }

    /// Asserts that both are others than before: the capability of before is good for a while yet, the password is not.
    pub(super) async fn assert_rotated(&mut self, name: &str, id: Uuid, (hash, login): &Credentials) {
        let overlaps = "SELECT capability_hash <> $2 AND capability_hash_previous = $2
            AND capability_previous_until > now() FROM stellar.users WHERE id = $1";
        let overlaps = sqlx::query_scalar(overlaps).bind(id).bind(hash.as_slice());
        let overlaps: Option<bool> = overlaps.fetch_one(&mut self.database).await.unwrap();
        assert_eq!(overlaps, Some(true), "{name}: the capability before overlaps with another");
        let (_, new_login) = self.credentials(name, id).await;
        for (login, works) in [(login, false), (&new_login, true)] {
            let connected = PgConnection::connect(login.as_ref().unwrap()).await;
            assert_eq!(connected.is_ok(), works, "{name}: only the new password works");
        }
    }
}

pub(super) async fn is_settled(api: &Api, name: &str) -> bool {
    api.get(&format!("{TENANTS}/{name}")).await.is_some_and(|tenant| settled(&tenant))
}

pub(super) async fn is_gone(api: &Api, name: &str) -> bool {
    api.get(&format!("{TENANTS}/{name}")).await.is_none()
}
