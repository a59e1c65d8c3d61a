//! Whatever somebody removes or edits by hand comes back. Each kind is harmed once; the times are printed.

use std::time::{Duration, Instant};

use end_to_end::cluster::{BACK, POD, SYSTEM, Tenant, done, get, secret, sql};
use harness::{Client, eventually_within};
use serde_json::{Value, json};

/// Engines that begin anew take longer than that, and gateways learn of it after them.
const SERVED: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_object_that_is_deleted_comes_back_as_it_was_asked_for_even_the_namespace() {
    // Only who has several replicas has a disruption budget.
    let size = json!({
        "requests": { "cpu": "40m", "memory": "80Mi" },
        "limits": { "cpu": "900m", "memory": "448Mi" },
    });
    let tenant = Tenant::ready("drifting", &json!({ "tier": "pro", "engine": { "replicas": 2, "resources": size } }));
    let namespace = tenant.namespace();
    let is_as_asked_for = || {
        let deployment = get("deployment", "engine", Some(&namespace)).expect("it has an engine");
        assert_eq!(deployment["spec"]["replicas"], 2);
        assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["resources"], size);
    };
    is_as_asked_for();
    let uid = |object: Value| object["metadata"]["uid"].as_str().map(str::to_owned);
    for (kind, name) in [
        ("secret", "engine-db"),
        ("deployment", "engine"),
        ("service", "engine"),
        ("serviceaccount", "engine"),
        ("resourcequota", "engine"),
        ("limitrange", "engine"),
        ("networkpolicy", "default-deny"),
        ("networkpolicy", "engine"),
        ("poddisruptionbudget", "engine"),
        ("rolebinding", "stellar-operator"),
    ] {
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
    is_as_asked_for();
    until_it_is_served(&tenant).await;

    let before = get("namespace", &namespace, None).and_then(uid).unwrap();
    done(&["delete", "namespace", &namespace, "--wait=false"]);
    let start = Instant::now();
    // Until all that was in it is gone the API server keeps the name.
    eventually_within(POD, "the namespace is back", || async {
        get("namespace", &namespace, None).and_then(uid).filter(|uid| *uid != before)
    })
    .await;
    println!("the namespace was back after {:.1} s", start.elapsed().as_secs_f64());
    tenant.placed("dedicated").await;
    is_as_asked_for();
    until_it_is_served(&tenant).await;
    println!("and its tenant was served after {:.1} s", start.elapsed().as_secs_f64());
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

    // With the URL its password is lost: the operator makes another one, and engines roll.
    let url = || secret("engine-db", "url", &namespace);
    let login = || {
        let deployment = get("deployment", "engine", Some(&namespace)).unwrap();
        deployment["spec"]["template"]["metadata"]["annotations"]["stellar-memory.dev/database-login"].clone()
    };
    let (url_before, login_before) = (url(), login());
    edit_secret("engine-db", "url", &namespace);
    let start = Instant::now();
    let role = format!("://t_{}:", tenant.user_id().replace('-', ""));
    eventually_within(BACK, "the Secret holds a URL again", || async { url().filter(|url| url.contains(&role)) }).await;
    println!("the URL was put right after {:.1} s", start.elapsed().as_secs_f64());
    assert!(url() != url_before, "with another password");
    eventually_within(BACK, "engines roll", || async { (login() != login_before).then_some(()) }).await;
    done(&["rollout", "status", "deployment/engine", "-n", &namespace, "--timeout=180s"]);
    tenant.placed("dedicated").await;
    until_it_is_served(&tenant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_secret_that_is_deleted_or_edited_holds_a_new_key_and_the_old_one_still_opens_for_a_while() {
    let tenant = Tenant::ready("rotating", &json!({ "tier": "free" }));
    let name = format!("{}-api-key", tenant.name);
    let text = || secret(&name, "api-key", SYSTEM);
    for edited in [false, true] {
        let (old, before) = (tenant.client(), text().unwrap());
        if edited {
            edit_secret(&name, "api-key", SYSTEM);
        } else {
            done(&["delete", "secret", &name, "-n", SYSTEM]);
        }
        let start = Instant::now();
        eventually_within(BACK, "a new key is in the Secret", || async {
            text().filter(|after| after.starts_with("sk-stellar-") && *after != before)
        })
        .await;
        println!("a new key was there after {:.1} s", start.elapsed().as_secs_f64());
        let new = tenant.client();
        eventually_within(SERVED, "the new key opens", || async { (status(&new).await == 200).then_some(()) }).await;
        assert_eq!(status(&old).await, 200, "rotation overlaps");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_roles_and_grants_that_are_changed_by_hand_are_put_right() {
    let tenant = Tenant::ready("rows", &json!({ "tier": "pro" }));
    let id = tenant.user_id();
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
            "the end of the login",
            format!("ALTER ROLE {role} VALID UNTIL '2001-01-01'"),
            format!("SELECT rolvaliduntil < now() FROM pg_roles WHERE rolname = '{role}'"),
            "f",
        ),
        (
            "the rights of the group",
            format!("ALTER ROLE {role} NOINHERIT"),
            format!("SELECT rolinherit FROM pg_roles WHERE rolname = '{role}'"),
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
        // Of this one no other test of this suite asks which tier comes next.
        (
            "the tiers",
            "DELETE FROM stellar.tiers WHERE name = 'promax'".to_owned(),
            "SELECT placement FROM stellar.tiers WHERE name = 'promax'".to_owned(),
            "dedicated",
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
    until_it_is_served(&tenant).await;
    // The sessions that its engine holds belong to the dead role: they serve nobody, and are replaced.
    sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    let start = Instant::now();
    let back = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{role}' AND rolcanlogin");
    eventually_within(BACK, "the role is back", || async { (sql(&back) == "1").then_some(()) }).await;
    println!("the role was back after {:.1} s", start.elapsed().as_secs_f64());
    until_it_is_served(&tenant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_nothing_is_written() {
    let tenants = [
        Tenant::apply("resting", &json!({ "tier": "free" })),
        Tenant::apply("resting-alone", &json!({ "tier": "pro" })),
    ];
    tenants.iter().for_each(Tenant::wait_ready);
    let namespace = tenants[1].namespace();
    let versions =
        |of: &[&str]| done(&[&["get", "-o", "jsonpath={.items[*].metadata.resourceVersion}"][..], of].concat());
    let own = [
        "deployment/engine",
        "service/engine",
        "networkpolicy/default-deny",
        "networkpolicy/engine",
        "secret/engine-db",
        "-n",
        &*namespace,
    ];
    let ids = tenants.each_ref().map(|tenant| format!("'{}'", tenant.user_id())).join(", ");
    let rows = format!(
        "SELECT (SELECT array_agg(xmin::text ORDER BY id) FROM stellar.users WHERE id IN ({ids})),
            (SELECT array_agg(xmin::text ORDER BY user_id) FROM stellar.usage WHERE user_id IN ({ids})),
            (SELECT array_agg(xmin::text ORDER BY user_id, id) FROM stellar.api_keys WHERE user_id IN ({ids}))"
    );
    let written = || (versions(&["tenant/resting", "tenant/resting-alone"]), versions(&own), sql(&rows));
    let before = written();
    assert_eq!(before.1.split_whitespace().count(), 5, "each object has a version: {before:?}");
    assert_eq!(before.2.matches(',').count(), 3, "each tenant has a row in each table: {before:?}");
    // Enough for several of the operator's rounds; other tests keep it busy meanwhile.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        assert_eq!(written(), before);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Puts rubbish where a Secret holds a text.
fn edit_secret(name: &str, key: &str, namespace: &str) {
    let patch = json!({ "stringData": { key: "rubbish" } }).to_string();
    done(&["patch", "secret", name, "-n", namespace, "--type=merge", "-p", &patch]);
}

async fn until_it_is_served(tenant: &Tenant) {
    let client = tenant.client();
    eventually_within(SERVED, "the tenant is served", || async {
        (client.store("still served").await.unwrap().status == 201).then_some(())
    })
    .await;
}

async fn status(client: &Client) -> u16 {
    client.get("/stats").await.unwrap().status
}
