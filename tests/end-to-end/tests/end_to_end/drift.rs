//! Whatever somebody removes or edits by hand comes back. Each kind is harmed once; the times are printed.

use std::time::{Duration, Instant};

use end_to_end::cluster::{SYSTEM, Tenant, done, get, kubectl, sql};
use harness::{Client, eventually_within};
use serde_json::{Value, json};

/// Far more than it takes: how long it took is printed, the bound only ends a test that waits in vain.
const BACK: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_object_that_is_deleted_comes_back() {
    let tenant = Tenant::ready("drifting", &json!({ "tier": "pro" }));
    let namespace = tenant.namespace();
    for (kind, name) in [
        ("secret", "engine-db"),
        ("deployment", "engine"),
        ("service", "engine"),
        ("serviceaccount", "engine"),
        ("resourcequota", "engine"),
        ("limitrange", "engine"),
        ("networkpolicy", "default-deny"),
        ("networkpolicy", "engine"),
        ("rolebinding", "stellar-operator"),
    ] {
        let uid = |object: Value| object["metadata"]["uid"].as_str().map(str::to_owned);
        let before =
            get(kind, name, Some(&namespace)).and_then(uid).unwrap_or_else(|| panic!("{kind}/{name} is there"));
        done(&["delete", kind, name, "-n", &namespace, "--wait=false"]);
        let start = Instant::now();
        eventually_within(BACK, &format!("{kind}/{name} is back"), || async {
            get(kind, name, Some(&namespace)).and_then(uid).filter(|uid| *uid != before)
        })
        .await;
        println!("{kind}/{name} was back after {:.1} s", start.elapsed().as_secs_f64());
    }
    tenant.placed("dedicated").await;
    let client = tenant.client();
    eventually_within(BACK, "the tenant is served", || async {
        (client.store("still served").await.unwrap().status == 201).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_edited_is_put_right_and_what_others_added_is_left() {
    let tenant = Tenant::ready("edited", &json!({ "tier": "pro" }));
    let namespace = tenant.namespace();
    done(&["label", "deployment", "engine", "-n", &namespace, "team=payments"]);
    done(&["scale", "deployment", "engine", "-n", &namespace, "--replicas=0"]);
    done(&[
        "patch",
        "networkpolicy",
        "default-deny",
        "-n",
        &namespace,
        "--type=merge",
        "-p",
        r#"{"spec":{"policyTypes":["Ingress"]}}"#,
    ]);
    let start = Instant::now();
    eventually_within(BACK, "the deployment and the policy are put right", || async {
        let deployment = get("deployment", "engine", Some(&namespace))?;
        let policy = get("networkpolicy", "default-deny", Some(&namespace))?;
        (deployment["spec"]["replicas"] == 1 && policy["spec"]["policyTypes"].as_array()?.len() == 2).then_some(())
    })
    .await;
    println!("edits were put right after {:.1} s", start.elapsed().as_secs_f64());
    let deployment = get("deployment", "engine", Some(&namespace)).unwrap();
    assert_eq!(deployment["metadata"]["labels"]["team"], "payments", "a foreign label is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_secret_makes_a_new_key_and_the_old_one_still_opens_for_a_while() {
    let tenant = Tenant::ready("rotating", &json!({ "tier": "free" }));
    let old = tenant.client();
    let secret = format!("{}-api-key", tenant.name);
    let text = || get("secret", &secret, Some(SYSTEM)).map(|secret| secret["data"]["api-key"].clone());
    let before = text().unwrap();
    done(&["delete", "secret", &secret, "-n", SYSTEM]);
    eventually_within(BACK, "a new key is in a new Secret", || async { text().filter(|after| *after != before) }).await;
    let new = tenant.client();
    eventually_within(BACK, "the new key opens", || async { (status(&new).await == 200).then_some(()) }).await;
    assert_eq!(status(&old).await, 200, "rotation overlaps");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_roles_and_grants_that_are_changed_by_hand_are_put_right() {
    let tenant = Tenant::ready("rows", &json!({ "tier": "pro" }));
    let (id, client) = (tenant.user_id(), tenant.client());
    let role = format!("t_{}", id.replace('-', ""));
    let cases = [
        (
            "the membership",
            format!("REVOKE stellar_tenants FROM {role}"),
            format!("SELECT pg_has_role('{role}', 'stellar_tenants', 'MEMBER')"),
            "t",
        ),
        (
            "the login",
            format!("ALTER ROLE {role} NOLOGIN"),
            format!("SELECT rolcanlogin FROM pg_roles WHERE rolname = '{role}'"),
            "t",
        ),
        (
            "the tier",
            format!("UPDATE stellar.users SET tier = 'free' WHERE id = '{id}'"),
            format!("SELECT tier FROM stellar.users WHERE id = '{id}'"),
            "pro",
        ),
        (
            "the placement",
            format!("UPDATE stellar.users SET placement = 'pooled', endpoint = NULL WHERE id = '{id}'"),
            format!("SELECT placement FROM stellar.users WHERE id = '{id}'"),
            "dedicated",
        ),
        (
            "the suspension",
            format!("UPDATE stellar.users SET suspended = true WHERE id = '{id}'"),
            format!("SELECT suspended FROM stellar.users WHERE id = '{id}'"),
            "f",
        ),
        (
            "the quota",
            format!("UPDATE stellar.usage SET memory_limit = 7 WHERE user_id = '{id}'"),
            format!("SELECT memory_limit FROM stellar.usage WHERE user_id = '{id}'"),
            "50000",
        ),
        (
            "the limits of sockets",
            format!("UPDATE stellar.users SET max_sockets = 1, socket_messages_per_second = 1 WHERE id = '{id}'"),
            format!("SELECT max_sockets + socket_messages_per_second FROM stellar.users WHERE id = '{id}'"),
            "100",
        ),
        (
            "the key",
            format!("UPDATE stellar.api_keys SET revoked_at = now() WHERE user_id = '{id}'"),
            format!("SELECT count(*) FROM stellar.api_keys WHERE user_id = '{id}' AND revoked_at IS NULL"),
            "1",
        ),
    ];
    for (what, harm, look, right) in &cases {
        sql(harm);
        let start = Instant::now();
        eventually_within(BACK, &format!("{what} is put right"), || async { (sql(look) == *right).then_some(()) })
            .await;
        println!("{what} was put right after {:.1} s", start.elapsed().as_secs_f64());
    }
    tenant.placed("dedicated").await;
    eventually_within(BACK, "the tenant is served", || async { (status(&client).await == 200).then_some(()) }).await;
    // The sessions that its engine holds belong to the dead role: they serve nobody, and are replaced.
    sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    let back = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{role}' AND rolcanlogin");
    eventually_within(BACK, "the role is back", || async { (sql(&back) == "1").then_some(()) }).await;
    eventually_within(BACK, "the tenant is served", || async { (status(&client).await == 200).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_nothing_is_written() {
    let tenant = Tenant::ready("resting", &json!({ "tier": "free" }));
    let version = || tenant.object()["metadata"]["resourceVersion"].clone();
    let row = || sql(&format!("SELECT xmin FROM stellar.users WHERE id = '{}'", tenant.user_id()));
    let before = (version(), row());
    // Enough for several of the operator's rounds; other tests keep it busy meanwhile.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        assert_eq!((version(), row()), before);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(kubectl(&["get", "tenant", &tenant.name], None).status.success());
}

async fn status(client: &Client) -> u16 {
    client.get("/stats").await.unwrap().status
}
