//! What users see when a part of the installation fails, and that it heals without a hand. These tests disturb each
//! other and everybody else, so one runs at a time.

#![allow(missing_docs, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use end_to_end::{
    cluster::{BACK, POD, SYSTEM, Tenant, condition, done, get, kubectl, node, row, since, sql, told},
    load::Load,
};
use harness::eventually_within;
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};

const MINUTE: Duration = Duration::from_mins(1);
const POSTGRES: &str = "statefulset/stellar-memory-postgres";

async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

/// A part of the node that does not run until this goes, however its test ends.
struct Stopped(&'static str);

impl Stopped {
    fn begin(part: &'static str) -> Self {
        node("stop", part);
        Self(part)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        node("start", self.0);
    }
}

/// READY and REASON of Tenants, as kubectl shows them.
fn shown(tenants: &[Tenant]) -> Vec<String> {
    tenants.iter().map(|tenant| row(&tenant.name)).map(|row| format!("{} {}", row.ready, row.reason)).collect()
}

fn ready_since(tenant: &Tenant) -> String {
    since(&tenant.object(), "Ready").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_away_for_a_minute() {
    let _alone = alone().await;
    let tenants =
        [Tenant::ready("pg-free", &json!({ "tier": "free" })), Tenant::ready("pg-pro", &json!({ "tier": "pro" }))];
    let clients = tenants.each_ref().map(Tenant::client);
    for client in &clients {
        assert_eq!(client.store("from before the outage").await.unwrap().status, 201);
    }
    done(&["scale", POSTGRES, "-n", SYSTEM, "--replicas=0"]);
    eventually_within(POD, "the Postgres pod is gone", || async {
        get("pod", "stellar-memory-postgres-0", Some(SYSTEM)).is_none().then_some(())
    })
    .await;
    let away = ["False PostgresUnavailable"; 2];
    let start = Instant::now();
    let mut seen = None;
    while start.elapsed() < MINUTE {
        for client in &clients {
            let answer = client.store("from within the outage").await.unwrap();
            assert_eq!((answer.status, answer.problem()), (503, Some("unavailable")), "{}", answer.text);
            assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
        }
        if seen.is_none() && shown(&tenants) == away {
            seen = Some(start.elapsed());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(shown(&tenants), away, "kubectl tells that Postgres is away, and until the end");
    println!("kubectl told of the outage after {:.1} s", seen.unwrap_or(MINUTE).as_secs_f64());
    for tenant in &tenants {
        assert_eq!(condition(&tenant.object(), "DatabaseReady"), Some("False"), "{}", tenant.name);
        assert!(told(&tenant.name, "Warning", "PostgresUnavailable"), "{} has no such event", tenant.name);
    }
    done(&["scale", POSTGRES, "-n", SYSTEM, "--replicas=1"]);
    for client in &clients {
        eventually_within(POD, "stores work again", || async {
            (client.store("from after the outage").await.unwrap().status == 201).then_some(())
        })
        .await;
    }
    eventually_within(POD, "kubectl shows both as served", || async {
        (shown(&tenants) == ["True Serving"; 2]).then_some(())
    })
    .await;
    for client in &clients {
        let recalled = client.recall("outage").await.unwrap();
        assert!(recalled.text.contains("from before") && recalled.text.contains("from after"), "{}", recalled.text);
        assert!(!recalled.text.contains("from within"), "what was refused is not there: {}", recalled.text);
    }
    // The operator is back at work too.
    drop(Tenant::ready("pg-later", &json!({ "tier": "free" })));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_is_away_for_a_minute_and_requests_do_not_notice() {
    let _alone = alone().await;
    let tenants =
        [Tenant::ready("api-free", &json!({ "tier": "free" })), Tenant::ready("api-pro", &json!({ "tier": "pro" }))];
    let clients = tenants.each_ref().map(Tenant::client);
    let before = tenants.each_ref().map(ready_since);
    // The cluster's controllers go with it, as they do where they elect a leader. Else, when it is back, they take the
    // node for lost before they hear from it, and all of its pods for not ready.
    let controllers = Stopped::begin("controller-manager");
    let api_server = Stopped::begin("apiserver");
    let asks = || kubectl(&["get", "tenants", "--request-timeout=2s"], None).status.success();
    assert!(!asks(), "kubectl tells nothing meanwhile");
    let start = Instant::now();
    let mut stored = 0;
    while start.elapsed() < MINUTE {
        for client in &clients {
            let answer = client.store(&format!("note {stored} from within the outage")).await.unwrap();
            assert_eq!(answer.status, 201, "{}", answer.text);
            assert_eq!(client.recall("anything").await.unwrap().status, 200);
        }
        stored += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(!asks(), "it was away all the time");
    drop(api_server);
    eventually_within(POD, "the API server answers", || async { asks().then_some(()) }).await;
    drop(controllers);
    // When this one is Ready the operator has looked at the others, too: it begins with all there are.
    drop(Tenant::ready("api-later", &json!({ "tier": "pro" })));
    assert_eq!(shown(&tenants), ["True Serving"; 2]);
    assert_eq!(tenants.each_ref().map(ready_since), before, "Ready has not changed meanwhile");
    for client in &clients {
        let stats = client.get("/stats").await.unwrap();
        assert_eq!(stats.body["total_memories"], stored, "nothing is lost: {}", stats.text);
        assert!(client.recall("outage").await.unwrap().text.contains("from within"));
    }
    println!("{stored} memories were stored for each tenant while the API server was away");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_is_killed_in_the_middle_of_its_work_and_who_is_served_does_not_notice() {
    let _alone = alone().await;
    let served = Tenant::ready("kill-served", &json!({ "tier": "pro" }));
    let (client, before) = (served.client(), ready_since(&served));
    let content = "kept while the operator is killed";
    assert_eq!(client.store(content).await.unwrap().status, 201);
    let load = Load::begin(&client, content);
    let tenants: Vec<_> = (0..3).map(|n| Tenant::apply(&format!("kill-{n}"), &json!({ "tier": "pro" }))).collect();
    for _ in 0..2 {
        done(&[
            "delete",
            "pod",
            "-n",
            SYSTEM,
            "-l",
            "app.kubernetes.io/component=operator",
            "--grace-period=0",
            "--force",
        ]);
        eventually_within(POD, "the operator is ready again", || async {
            assert_eq!(row(&served.name).ready, "True");
            (get("deployment", "stellar-memory-operator", Some(SYSTEM))?["status"]["readyReplicas"] == 1).then_some(())
        })
        .await;
        load.goes_on().await;
    }
    for tenant in &tenants {
        tenant.wait_ready();
        let stored = tenant.client().store("made by two operators").await.unwrap();
        assert_eq!(stored.status, 201, "{}: {}", tenant.name, stored.text);
        assert_eq!(row(&served.name).ready, "True");
    }
    load.goes_on().await;
    println!("{} requests were answered while the operator was killed twice, none failed", load.end().await);
    assert_eq!(ready_since(&served), before, "Ready has not changed meanwhile");
}

/// Here and not with what else is deleted by hand: an operator that is late to hold its Lease again stops all of its
/// work for a moment, and what other tests wait for would be late with it.
#[tokio::test(flavor = "multi_thread")]
async fn the_operators_lease_is_deleted_and_is_there_and_held_again() {
    let _alone = alone().await;
    let lease = || get("lease", "stellar-operator", Some(SYSTEM));
    let before = lease().expect("some operator holds it")["metadata"]["uid"].clone();
    done(&["delete", "lease", "stellar-operator", "-n", SYSTEM]);
    let start = Instant::now();
    // Its holder finds out when it renews it, every 10 s; whoever waits for it when it would have expired, after 15 s.
    eventually_within(Duration::from_secs(20), "the Lease is there again, and held", || async {
        let lease = lease()?;
        (lease["metadata"]["uid"] != before && lease["spec"]["holderIdentity"].is_string()).then_some(())
    })
    .await;
    println!("the Lease was there again after {:.1} s", start.elapsed().as_secs_f64());
    drop(Tenant::ready("lease-later", &json!({ "tier": "free" })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_the_pooled_engine_fails_no_request() {
    let _alone = alone().await;
    let tenant = Tenant::ready("rolling", &json!({ "tier": "free" }));
    let client = tenant.client();
    let content = "kept while rolling";
    assert_eq!(client.store(content).await.unwrap().status, 201);
    let load = Load::begin(&client, content);
    done(&["rollout", "restart", "deployment/stellar-memory-engine", "-n", SYSTEM]);
    done(&["rollout", "status", "deployment/stellar-memory-engine", "-n", SYSTEM, "--timeout=180s"]);
    let answered = load.end().await;
    assert!(answered > 10, "the load went on: {answered}");
}

/// Of each kind and of each owner. Here, since tenants of other tests would be refused meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn grants_of_the_schema_that_somebody_revokes_are_given_again() {
    let _alone = alone().await;
    let tenant = Tenant::ready("grants", &json!({ "tier": "pro" }));
    let grants = [
        ("USAGE ON SCHEMA stellar", "stellar_tenants", "schema", "'stellar', 'USAGE'"),
        ("SELECT ON stellar.audit", "stellar_pool", "table", "'stellar.audit', 'SELECT'"),
        (
            "UPDATE (importance) ON stellar.memories",
            "stellar_tenants",
            "column",
            "'stellar.memories', 'importance', 'UPDATE'",
        ),
        ("DELETE ON stellar.gateways", "stellar_maintainer", "table", "'stellar.gateways', 'DELETE'"),
        (
            "EXECUTE ON FUNCTION stellar.enter(uuid, bytea, text, boolean, uuid)",
            "stellar_tenants",
            "function",
            "'stellar.enter(uuid,bytea,text,boolean,uuid)', 'EXECUTE'",
        ),
        (
            "EXECUTE ON FUNCTION stellar.tenant_owned(uuid, text)",
            "stellar_operator",
            "function",
            "'stellar.tenant_owned(uuid,text)', 'EXECUTE'",
        ),
        (
            "EXECUTE ON FUNCTION stellar.role_ensure(uuid)",
            "stellar_operator",
            "function",
            "'stellar.role_ensure(uuid)', 'EXECUTE'",
        ),
    ];
    let held = grants.map(|(_, role, kind, asked)| format!("has_{kind}_privilege('{role}', {asked})")).join(" AND ");
    let revoked: Vec<_> = grants.iter().map(|(grant, role, ..)| format!("REVOKE {grant} FROM {role}")).collect();
    for revoke in &revoked {
        // Each by itself is missed.
        assert_eq!(sql(&format!("BEGIN; {revoke}; SELECT {held}; ROLLBACK")), "f", "{revoke}");
    }
    sql(&revoked.join("; "));
    let start = Instant::now();
    eventually_within(BACK, "all is granted again", || async { (sql(&format!("SELECT {held}")) == "t").then_some(()) })
        .await;
    println!("grants were given again after {:.1} s", start.elapsed().as_secs_f64());
    let client = tenant.client();
    eventually_within(MINUTE, "the tenant is served", || async {
        (client.store("after the grants").await.unwrap().status == 201).then_some(())
    })
    .await;
}
