//! What all tests share: the rights of the chart, Postgres, and what the migrate program makes of both. Operators see all
//! Tenants of a cluster, so one test at a time has the stage.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use harness::{Postgres, Workdir, binary};
use http::Method;
use kube::config::Kubeconfig;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::{
    api::{Api, TENANTS},
    program::Start,
};

pub const SYSTEM: &str = "stellar-system";
/// What of the chart is applied: who may do what, and what the API server itself refuses.
const KINDS: [&str; 7] = [
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ClusterRole",
    "ClusterRoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

pub struct Stage {
    pub postgres: Postgres,
    /// The operator's own URL.
    pub url: String,
    start: Start,
}

/// Waits for the stage; the first to come sets it up.
pub async fn stage() -> MutexGuard<'static, Stage> {
    static STAGE: OnceCell<Mutex<Stage>> = OnceCell::const_new();
    let stage = STAGE.get_or_init(|| async { Mutex::new(set_up().await) }).await.lock().await;
    stage.clear().await;
    stage
}

impl Stage {
    /// How an operator is started that talks to both servers directly, with the rights of the chart.
    pub fn start(&self) -> Start {
        self.start.clone()
    }

    /// Migrates once more, as an upgrade does that puts a pooler in front of Postgres.
    pub fn upgrade(&self) {
        migrate(&self.start.workdir, &["--pool-host", "pooler.example.org:6432"]);
    }

    /// No Tenant of an earlier test, not even one that an operator left half made.
    async fn clear(&self) {
        let api = Api::admin().await;
        let left = api.get(TENANTS).await.unwrap();
        for tenant in left["items"].as_array().into_iter().flatten() {
            let path = format!("{TENANTS}/{}", tenant["metadata"]["name"].as_str().unwrap());
            api.delete(&path).await;
            let _ = api.patch(&path, &json!({ "metadata": { "finalizers": [] } })).await;
        }
    }
}

async fn set_up() -> Stage {
    let api = Api::admin().await;
    let workdir = Workdir::new().unwrap();
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SYSTEM } });
    let _ = api.create("/api/v1/namespaces", &namespace).await;
    // The policy comes before the definitions that it speaks of, as it does when the chart is installed.
    run("kubectl", &["apply", "-f", "-"], Some(&rights()));
    let postgres = Postgres::start(&workdir).await.unwrap();

    let admin_url = workdir.path().join("admin-url");
    fs::write(&admin_url, postgres.admin_url()).unwrap();
    // Those of an earlier run are for another Postgres.
    for secret in ["stellar-operator-db", "stellar-gateway-db", "stellar-pool-db", "stellar-master-key"] {
        api.delete(&format!("/api/v1/namespaces/{SYSTEM}/secrets/{secret}")).await;
    }
    migrate(&workdir, &[]);

    let url = secret(&api, "stellar-operator-db", "url").await;
    let (url_file, key_file) = (workdir.path().join("operator-url"), workdir.path().join("master-key"));
    fs::write(&url_file, &url).unwrap();
    fs::write(&key_file, secret(&api, "stellar-master-key", "master-key").await).unwrap();
    let kubeconfig = kubeconfig(&workdir, "operator");
    let start = Start {
        workdir,
        kubeconfig,
        url_file,
        key_file,
        drain_seconds: 1,
        pod: "operator",
        log_filter: None,
        traces: None,
    };
    Stage { postgres, url, start }
}

/// `operator migrate` with the rights of the chart.
fn migrate(workdir: &Workdir, further: &[&str]) {
    let output = Command::new(binary("operator").unwrap())
        .args(["migrate", "--namespace", SYSTEM, "--admin-url-file"])
        .arg(workdir.path().join("admin-url"))
        .args(further)
        .env("KUBECONFIG", kubeconfig(workdir, "migrate"))
        .output()
        .unwrap();
    assert!(output.status.success(), "migrate: {}", String::from_utf8_lossy(&output.stderr));
}

async fn secret(api: &Api, name: &str, key: &str) -> String {
    let path = format!("/api/v1/namespaces/{SYSTEM}/secrets/{name}");
    let secret = api.call(Method::GET, &path, None).await.unwrap();
    decode(&secret["data"][key])
}

pub fn decode(value: &Value) -> String {
    String::from_utf8(BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap()
}

/// The chart's service accounts, roles, bindings and policies.
pub fn rights() -> String {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/stellar-memory");
    let args = ["template", "stellar-memory", &chart.display().to_string(), "--namespace", SYSTEM];
    let whole = run("helm", &args, None);
    let kind = |document: &&str| KINDS.iter().any(|kind| document.lines().any(|line| line == format!("kind: {kind}")));
    whole.split("\n---\n").filter(kind).collect::<Vec<_>>().join("\n---\n")
}

/// A kubeconfig with nothing but a token of the chart's service account.
fn kubeconfig(workdir: &Workdir, part: &str) -> PathBuf {
    let token =
        run("kubectl", &["create", "token", &format!("stellar-memory-{part}"), "-n", SYSTEM, "--duration", "2h"], None);
    let admin = Kubeconfig::read().unwrap();
    let cluster = admin.clusters[0].cluster.clone().unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{ "name": "it", "cluster": cluster }],
        "users": [{ "name": "it", "user": { "token": token.trim() } }],
        "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
    });
    let path = workdir.path().join(format!("{part}.kubeconfig"));
    fs::write(&path, config.to_string()).unwrap();
    path
}

/// Runs a program, which must succeed; its standard output.
pub fn run(program: &str, args: &[&str], stdin: Option<&str>) -> String {
    use std::{io::Write as _, process::Stdio};
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|_| panic!("{program} is on the PATH: `. DIR/env`"));
    child.stdin.take().unwrap().write_all(stdin.unwrap_or_default().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
