//! Every word that the operator writes while it makes tenants of both kinds, at the most talkative, and every trace that
//! it sends: no secret is in it.

use std::{collections::BTreeSet, fs, time::Duration};

use attack::Search;
use harness::{Collector, eventually_within};
use serde_json::json;
use tenancy::{MasterKey, TenantId};

use crate::{
    api::{Api, TENANTS, settled},
    kubelet::Kubelet,
    program::{Operator, Start},
    stage::{SYSTEM, decode, stage},
};

const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_log_and_traces_hold_no_secret_at_any_level() {
    let stage = stage().await;
    let api = &Api::admin().await;
    let _kubelet = Kubelet::start(api);
    let collector = Collector::start().await.unwrap();
    let start = Start { log_filter: Some("trace"), traces: Some(collector.clone()), ..stage.start() };
    let operator = Operator::start(&start);
    let mut search = Search::default();
    let master_key = fs::read_to_string(&start.key_file).unwrap();
    search.add("the master key", master_key.trim());
    let master_key = MasterKey::parse(&master_key).unwrap();
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
            if let Some((_, rest)) = value.split_once("://")
                && let Some((_, password)) = rest.split_once('@').and_then(|(login, _)| login.split_once(':'))
            {
                search.add(&format!("the password of {of}"), password);
                found += 1;
            }
        }
    }
    assert!(found >= 4, "logins of three programs and of a dedicated engine: {found}");
    let log = operator.log();
    assert!(log.contains("TRACE"), "it is at its most talkative");
    search.assert_none("the operator's log", &log);
    // What is logged on purpose is found: the search would have seen the others.
    search.add("a name", "quiet-dedicated");
    assert!(search.find(&log).contains("a name"));
    for name in ["quiet-pooled", "quiet-dedicated"] {
        let path = &format!("{TENANTS}/{name}");
        api.delete(path).await;
        eventually_within(PATIENCE, "gone", || async { api.get(path).await.is_none().then_some(()) }).await;
    }
    // The last spans leave before it ends.
    assert!(operator.terminate().await);
    let (spans, found) = (collector.spans(), search.find(collector.bytes()));
    assert!(spans.iter().all(|span| span.name == "reconcile"), "it does not follow the log's level: {spans:?}");
    assert_eq!(found, BTreeSet::from(["a name".to_owned()]), "traces tell names and no secret");
}
