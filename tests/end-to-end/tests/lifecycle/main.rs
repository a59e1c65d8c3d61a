//! The chart's life on a cluster: upgrade, rollback, uninstall, and an installation that finds everything again.

#![allow(missing_docs, clippy::unwrap_used)]

use std::process::Command;

use end_to_end::cluster::{POD, SYSTEM, Tenant, done, get};
use harness::eventually_within;
use serde_json::json;

const RELEASE: &str = "stellar-memory";
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/stellar-memory");

fn helm(args: &[&str]) -> String {
    let output = Command::new("helm").args(args).args(["-n", SYSTEM]).output().expect("helm is on the PATH");
    assert!(output.status.success(), "helm {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_rollback_uninstall_and_install_again_lose_nothing() {
    let tenant = Tenant::ready("long-lived", &json!({ "tier": "pro" }));
    assert_eq!(tenant.client().store("older than the release").await.unwrap().status, 201);
    let remembers = async || {
        let client = tenant.client();
        eventually_within(POD, "the memory is recalled", || async {
            let answer = client.recall("older release").await.ok()?;
            (answer.body[0]["content"] == "older than the release").then_some(())
        })
        .await;
    };
    let replicas =
        || get("deployment", "stellar-memory-gateway", Some(SYSTEM)).unwrap()["status"]["readyReplicas"].clone();

    helm(&[
        "upgrade",
        RELEASE,
        CHART,
        "--reuse-values",
        "--set",
        "gateway.replicas=2",
        "--set",
        "tests.tenant=long-lived",
        "--wait",
        "--timeout",
        "4m",
    ]);
    assert_eq!(replicas(), 2);
    remembers().await;
    helm(&["test", RELEASE]);

    helm(&["rollback", RELEASE, "--wait", "--timeout", "4m"]);
    eventually_within(POD, "one gateway is left", || async { (replicas() == 1).then_some(()) }).await;
    remembers().await;

    let values = std::env::temp_dir().join(format!("stellar-values-{}.yaml", std::process::id()));
    std::fs::write(&values, helm(&["get", "values", RELEASE, "-o", "yaml"])).unwrap();
    helm(&["uninstall", RELEASE, "--wait", "--timeout", "4m"]);
    assert!(get("crd", "tenants.stellar-memory.dev", None).is_some(), "the CRDs stay");
    assert!(get("tenant", &tenant.name, None).is_some(), "and with them the Tenants");
    assert!(get("pvc", "data-stellar-memory-postgres-0", Some(SYSTEM)).is_some(), "and the volume");
    assert!(get("deployment", "stellar-memory-gateway", Some(SYSTEM)).is_none());

    helm(&["install", RELEASE, CHART, "-f", values.to_str().unwrap(), "--wait", "--timeout", "4m"]);
    std::fs::remove_file(values).unwrap();
    tenant.wait_ready();
    remembers().await;
    done(&["delete", "tenant", &tenant.name, "--timeout=180s"]);
}
