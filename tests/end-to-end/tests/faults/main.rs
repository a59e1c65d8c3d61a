//! What users see when a part of the installation fails, and that it heals without a hand. These tests disturb each
//! other and everybody else, so one runs at a time.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use end_to_end::cluster::{POD, SYSTEM, Tenant, condition, done, get, node};
use harness::{Client, eventually_within};
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};

const MINUTE: Duration = Duration::from_mins(1);
const POSTGRES: &str = "statefulset/stellar-memory-postgres";

async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_away_for_a_minute() {
    let _alone = alone().await;
    let (free, pro) =
        (Tenant::ready("pg-free", &json!({ "tier": "free" })), Tenant::ready("pg-pro", &json!({ "tier": "pro" })));
    let clients = [free.client(), pro.client()];
    for client in &clients {
        assert_eq!(client.store("from before the outage").await.unwrap().status, 201);
    }
    done(&["scale", POSTGRES, "-n", SYSTEM, "--replicas=0"]);
    eventually_within(POD, "the Postgres pod is gone", || async {
        get("pod", "stellar-memory-postgres-0", Some(SYSTEM)).is_none().then_some(())
    })
    .await;
    let start = Instant::now();
    let mut told = false;
    while start.elapsed() < MINUTE {
        for client in &clients {
            let answer = client.store("from within the outage").await.unwrap();
            assert_eq!((answer.status, answer.problem()), (503, Some("unavailable")), "{}", answer.text);
            assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
        }
        told |= condition(&free.object(), "DatabaseReady") == Some("False");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(told, "kubectl tells that the database is away: {}", free.object()["status"]);
    done(&["scale", POSTGRES, "-n", SYSTEM, "--replicas=1"]);
    for (tenant, client) in [&free, &pro].into_iter().zip(&clients) {
        eventually_within(POD, "stores work again", || async {
            (client.store("from after the outage").await.unwrap().status == 201).then_some(())
        })
        .await;
        tenant.wait_ready();
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
    let (free, pro) =
        (Tenant::ready("api-free", &json!({ "tier": "free" })), Tenant::ready("api-pro", &json!({ "tier": "pro" })));
    let clients = [free.client(), pro.client()];
    node("stop", "apiserver");
    let start = Instant::now();
    while start.elapsed() < MINUTE {
        for client in &clients {
            assert_eq!(client.recall("anything").await.unwrap().status, 200);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    node("start", "apiserver");
    eventually_within(POD, "the API server answers", || async {
        std::panic::catch_unwind(|| get("tenant", "api-free", None)).ok().flatten()
    })
    .await;
    drop(Tenant::ready("api-later", &json!({ "tier": "pro" })));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_is_killed_in_the_middle_of_its_work() {
    let _alone = alone().await;
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
            (get("deployment", "stellar-memory-operator", Some(SYSTEM))?["status"]["readyReplicas"] == 1).then_some(())
        })
        .await;
    }
    for tenant in &tenants {
        tenant.wait_ready();
        let stored = tenant.client().store("made by two operators").await.unwrap();
        assert_eq!(stored.status, 201, "{}: {}", tenant.name, stored.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_the_pooled_engine_fails_no_request() {
    let _alone = alone().await;
    let tenant = Tenant::ready("rolling", &json!({ "tier": "free" }));
    let client = tenant.client();
    assert_eq!(client.store("kept while rolling").await.unwrap().status, 201);
    let load = Load::start(&client);
    done(&["rollout", "restart", "deployment/stellar-memory-engine", "-n", SYSTEM]);
    done(&["rollout", "status", "deployment/stellar-memory-engine", "-n", SYSTEM, "--timeout=180s"]);
    let answered = load.end().await;
    assert!(answered > 10, "the load went on: {answered}");
}

/// One client that recalls without a pause; every answer must be right.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(client: &Client) -> Self {
        let (stop, answered, client) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), client.clone());
        let (until, counted) = (stop.clone(), answered.clone());
        let task = tokio::spawn(async move {
            while !until.load(Ordering::Relaxed) {
                let answer = client.recall("rolling").await.unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text);
                assert_eq!(answer.body[0]["content"], "kept while rolling", "{}", answer.text);
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, answered, task }
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.answered.load(Ordering::Relaxed)
    }
}
