//! Every word that the operator writes while it makes tenants of both kinds and refuses one, at the most talkative, every
//! trace that it sends, and whatever else others may read of it and of a migration: events, statuses, what pods are started
//! with, metrics, arguments of processes. No secret is in any of it.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use attack::Search;
use harness::{Collector, Postgres, binary, eventually, eventually_within};
use serde_json::{Value, json};
use tenancy::{ApiKey, MasterKey, TenantId};

use crate::{
    api::{Api, TENANTS, TIERS, condition, settled},
    kubelet::Kubelet,
    program::{Operator, Start},
    stage::{SYSTEM, decode, stage},
};

const PATIENCE: Duration = Duration::from_secs(90);
const EVENTS: &str = "/api/v1/events";
const REFUSAL: &str = "quiet-refused-api-key exists and was not made for this Tenant";

/// A place, all that it shows, and something of it that is meant to be read there.
type Place = (&'static str, Vec<u8>, &'static str);

/// Command line and environment; nothing of a process that has ended.
fn process(pid: &str) -> [Vec<u8>; 2] {
    ["cmdline", "environ"].map(|file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default())
}

/// Migrates once more, as an upgrade does, at the most talkative.
async fn migration(postgres: &Postgres, kubeconfig: &Path) -> [Place; 3] {
    let mut child = Command::new(binary("operator").unwrap())
        .args(["migrate", "--namespace", SYSTEM, "--admin-url-file", "/proc/self/fd/0"])
        .env("RUST_LOG", "trace")
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It waits until it is told where Postgres is. A process that begins has neither for a moment.
    let pid = child.id().to_string();
    let [arguments, environment] = eventually("what the migration was started with", || async {
        Some(process(&pid)).filter(|shown| !shown.iter().any(Vec::is_empty))
    })
    .await;
    child.stdin.take().unwrap().write_all(postgres.admin_url().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "migrate: {}", String::from_utf8_lossy(&output.stderr));
    [
        ("the migration's arguments", arguments, "--admin-url-file"),
        ("the migration's environment", environment, "KUBECONFIG="),
        ("the migration's log", [output.stdout, output.stderr].concat(), "ALTER ROLE stellar_pool"),
    ]
}

/// What others may read while the operator runs: of the API server all but Secrets, of the operator its metrics, and of
/// every program that the suite has started what it was started with.
async fn shown(api: &Api, operator: &Operator, workdir: &Path) -> Vec<Place> {
    let mut places = Vec::new();
    for (place, list, meant) in [
        ("the Tenants", TENANTS, "the API key is in Secret quiet-dedicated-api-key"),
        ("the Tiers", TIERS, "requestsPerMinute"),
        ("the Events", EVENTS, REFUSAL),
        ("the Deployments", "/apis/apps/v1/deployments", "stellar-tenant-quiet-dedicated"),
        ("the Pods", "/api/v1/pods", "stellar-tenant-quiet-dedicated"),
    ] {
        places.push((place, api.get(list).await.unwrap().to_string().into_bytes(), meant));
    }
    places.push(("the metrics", operator.metrics().await.unwrap().into_bytes(), "stellar_operator_reconciles"));
    let (mut arguments, mut environments) = (Vec::new(), Vec::new());
    let started = fs::read_to_string(workdir.join("pids")).unwrap();
    for pid in started.lines().filter_map(|line| line.split(' ').nth(1)) {
        let [line, environment] = process(pid);
        arguments.extend(line);
        environments.extend(environment);
    }
    places.push(("the programs' arguments", arguments, "--master-key-file"));
    places.push(("the programs' environments", environments, "POD_NAME=operator"));
    places
}

/// The password in a URL, if it is one and has one.
fn password_in(url: &str) -> Option<&str> {
    let (login, _) = url.split_once("://")?.1.split_once('@')?;
    Some(login.split_once(':')?.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_logs_at_any_level_traces_events_statuses_metrics_or_arguments() {
    let stage = stage().await;
    let api = &Api::admin().await;
    let _kubelet = Kubelet::start(api);
    let collector = Collector::start().await.unwrap();
    let start = Start { log_filter: Some("trace"), traces: Some(collector.clone()), ..stage.start() };
    let workdir = start.workdir.path();
    let kubeconfigs = [start.kubeconfig.clone(), workdir.join("migrate.kubeconfig")];
    let mut places = Vec::from(migration(&stage.postgres, &kubeconfigs[1]).await);
    let operator = Operator::start(&start);
    let mut search = Search::default();
    let master_key = fs::read_to_string(&start.key_file).unwrap();
    search.add("the master key", master_key.trim());
    let master_key = MasterKey::parse(&master_key).unwrap();
    search.add("the administrator's URL", stage.postgres.admin_url());
    search.add("the administrator's password", password_in(&stage.postgres.admin_url()).unwrap());
    for kubeconfig in &kubeconfigs {
        let config: Value = serde_json::from_str(&fs::read_to_string(kubeconfig).unwrap()).unwrap();
        search.add("a token of the API server", config["users"][0]["user"]["token"].as_str().unwrap());
    }
    // A key that is somebody else's: the refusal tells of the Secret, and not of what is in it.
    let planted = ApiKey::generate();
    let foreign = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "quiet-refused-api-key" },
        "stringData": { "api-key": planted.expose() } });
    api.create(&format!("/api/v1/namespaces/{SYSTEM}/secrets"), &foreign).await.unwrap();
    api.tenant("quiet-refused", &json!({ "tier": "free", "deletionPolicy": "Delete" })).await;
    eventually_within(PATIENCE, "the refusal is told by the status and by an event", || async {
        let tenant = api.get(&format!("{TENANTS}/quiet-refused")).await?;
        let told = condition(&tenant, "KeyReady", "reason") == Some("SecretTaken");
        (told && api.get(EVENTS).await?.to_string().contains(REFUSAL)).then_some(())
    })
    .await;
    for (name, tier) in [("quiet-pooled", "free"), ("quiet-dedicated", "pro")] {
        api.tenant(name, &json!({ "tier": tier, "deletionPolicy": "Delete" })).await;
        let path = &format!("{TENANTS}/{name}");
        let tenant = eventually_within(PATIENCE, "Ready", || async { api.get(path).await.filter(settled) }).await;
        let id: TenantId = tenant["metadata"]["uid"].as_str().unwrap().parse().unwrap();
        let capability = master_key.capability(id, 1);
        search.add("a capability", capability.as_bytes());
        search.add("a capability as text", capability.expose());
        // The key is made once more, as when somebody rotates it.
        let secret = &format!("/api/v1/namespaces/{SYSTEM}/secrets/{name}-api-key");
        let first = api.get(secret).await.unwrap();
        search.add("the first API key", decode(&first["data"]["api-key"]));
        api.delete(secret).await;
        eventually_within(PATIENCE, "another key", || async {
            api.get(secret).await.filter(|found| found["metadata"]["uid"] != first["metadata"]["uid"]).map(drop)
        })
        .await;
    }
    // Whatever a Secret of the cluster holds, and the password in each URL among it.
    let secrets = api.get("/api/v1/secrets").await.unwrap();
    let mut found = 0;
    for secret in secrets["items"].as_array().unwrap() {
        let of = secret["metadata"]["name"].as_str().unwrap();
        for (key, value) in secret["data"].as_object().into_iter().flatten() {
            let value = decode(value);
            search.add(&format!("{key} of {of}"), value.trim());
            if let Some(password) = password_in(&value) {
                search.add(&format!("the password of {of}"), password);
                found += 1;
            }
        }
    }
    assert!(found >= 4, "logins of three programs and of a dedicated engine: {found}");
    let log = operator.log();
    assert!(log.contains("TRACE"), "it is at its most talkative");
    search.assert_none("the operator's log", &log);
    places.extend(shown(api, &operator, workdir).await);
    for (place, text, meant) in &places {
        search.assert_none(place, text);
        // What is there on purpose is found: the search would have seen the others.
        let mut search = search.clone();
        search.add("what is meant to be read", meant);
        assert!(search.find(text).contains("what is meant to be read"), "{place} tells nothing of {meant}");
    }
    search.add("a name", "quiet-dedicated");
    assert!(search.find(&log).contains("a name"));
    // And a key is, that somebody writes where others may read it.
    let note = json!({ "metadata": { "annotations": { "note": planted.expose() } } });
    api.patch(&format!("{TENANTS}/quiet-refused"), &note).await.unwrap();
    let event = json!({ "apiVersion": "v1", "kind": "Event",
        "metadata": { "generateName": "quiet-", "namespace": "default" },
        "involvedObject": { "kind": "Tenant", "name": "quiet-refused" }, "message": planted.expose() });
    api.create("/api/v1/namespaces/default/events", &event).await.unwrap();
    let mut holding = shown(api, &operator, workdir).await;
    holding.retain(|(_, text, _)| search.find(text).contains("api-key of quiet-refused-api-key"));
    let holding: Vec<_> = holding.into_iter().map(|(place, ..)| place).collect();
    assert_eq!(holding, ["the Tenants", "the Events"]);

    for name in ["quiet-refused", "quiet-pooled", "quiet-dedicated"] {
        let path = &format!("{TENANTS}/{name}");
        api.delete(path).await;
        eventually_within(PATIENCE, "gone", || async { api.get(path).await.is_none().then_some(()) }).await;
    }
    api.delete(&format!("/api/v1/namespaces/{SYSTEM}/secrets/quiet-refused-api-key")).await;
    // The last spans leave before it ends.
    assert!(operator.terminate().await);
    let (spans, found) = (collector.spans(), search.find(collector.bytes()));
    assert!(spans.iter().all(|span| span.name == "reconcile"), "it does not follow the log's level: {spans:?}");
    assert_eq!(found, BTreeSet::from(["a name".to_owned()]), "traces tell names and no secret");
}
