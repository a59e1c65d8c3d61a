//! Postgres or the API server away for a while: the conditions say so as far as anybody can, and it heals by itself.

use std::{process::Command, time::Duration};

use harness::eventually_within;
use serde_json::json;

use crate::{
    api::{Api, TENANTS, condition, settled},
    program::Operator,
    stage::stage,
};

const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn postgres_away_is_told_in_the_conditions_and_heals_by_itself() {
    let mut stage = stage().await;
    let api = Api::admin().await;
    let operator = Operator::start(&stage.start());
    let path = format!("{TENANTS}/patient");
    let (api, path) = (&api, &path);
    api.tenant("patient", &json!({ "tier": "free", "deletionPolicy": "Delete" })).await;
    let ready = || async { api.get(path).await.filter(settled).map(drop) };
    eventually_within(PATIENCE, operator.brings("Ready"), ready).await;
    stage.postgres.stop().unwrap();
    eventually_within(PATIENCE, operator.brings("the conditions tell of Postgres"), || async {
        let tenant = api.get(path).await?;
        let told = condition(&tenant, "DatabaseReady", "status") == Some("False")
            && condition(&tenant, "Ready", "reason") == Some("PostgresUnavailable")
            && condition(&tenant, "Reconciling", "status") == Some("True")
            && condition(&tenant, "Stalled", "status") == Some("False");
        told.then_some(())
    })
    .await;
    stage.postgres.start_again().await.unwrap();
    eventually_within(PATIENCE, operator.brings("Ready again"), ready).await;
    api.delete(path).await;
    eventually_within(PATIENCE, operator.brings("gone"), || async { api.get(path).await.is_none().then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_away_heals_by_itself_with_what_was_asked_for_meanwhile() {
    let stage = stage().await;
    let node = std::env::var("NODE_DIR").expect("NODE_DIR is set: `. DIR/env`");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../cluster/node");
    let tell = |what: &str| assert!(Command::new(script).args([what, &node, "apiserver"]).status().unwrap().success());
    let operator = Operator::start(&stage.start());
    let before = Api::admin().await;
    let path = format!("{TENANTS}/survivor");
    before.tenant("survivor", &json!({ "tier": "free", "deletionPolicy": "Delete" })).await;
    eventually_within(PATIENCE, operator.brings("Ready"), || async {
        before.get(&path).await.filter(settled).map(drop)
    })
    .await;
    tell("stop");
    // The lease is lost after 15 s without an answer: the operator ends its work, not itself.
    let log = || operator.log_tail();
    eventually_within(PATIENCE, operator.brings("the operator has noticed"), || async {
        let log = log();
        (log.contains("interrupted") || log.contains("lease is lost")).then_some(())
    })
    .await;
    tell("start");
    let api = eventually_within(PATIENCE, "the API server answers", || async {
        let api = Api::admin().await;
        api.0.apiserver_version().await.ok().map(|_| api)
    })
    .await;
    api.patch(&path, &json!({ "spec": { "suspended": true } })).await.unwrap();
    eventually_within(PATIENCE, operator.brings("suspended, by the same operator"), || async {
        api.get(&path).await.filter(|tenant| settled(tenant) && tenant["status"]["phase"] == "Suspended").map(drop)
    })
    .await;
    assert!(!operator.has_ended(), "it lived through it: {}", operator.log_tail());
    api.delete(&path).await;
    eventually_within(PATIENCE, operator.brings("gone"), || async { api.get(&path).await.is_none().then_some(()) })
        .await;
}
