//! A pooled engine that ends, by force and when it is asked to, while a tenant keeps it busy: it ends soon, and every tenant is
//! served again.

use std::time::Duration;

use attack::tries;
use futures::future::join_all;
use harness::{Client, TenantSpec, eventually_within};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    bystander::memory,
    nothing,
    stage::{Setting, Stage},
    text::{self, LONGEST},
};
use crate::ground::{self, Dice};

const TENANTS: usize = 20;
/// Seconds that requests under way may go on when the engine is asked to end.
const DRAIN: &str = "3";
const ENDS_WITHIN: Duration = Duration::from_secs(10);
const SERVES_WITHIN: Duration = Duration::from_secs(30);
/// After which an index is being built for whom one is asked.
const BUILD_BEGINS: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug)]
enum End {
    Forced,
    Asked,
}

/// Ends the engine and starts it again. Returns false if it took too long to end.
async fn restart(stage: &Stage, end: End) -> bool {
    let mut engine = stage.engine.lock().await;
    let began = Instant::now();
    match end {
        End::Forced => engine.kill().unwrap(),
        End::Asked => engine.terminate().unwrap(),
    }
    while engine.exited().is_none() && began.elapsed() < ENDS_WITHIN {
        sleep(Duration::from_millis(20)).await;
    }
    let ended = engine.exited().is_some();
    if !ended {
        engine.kill().unwrap();
    }
    engine.restart().unwrap();
    engine.ready().await;
    drop(engine);
    stage.engine_began().await;
    ended
}

async fn serves(client: &Client) {
    eventually_within(SERVES_WITHIN, "a tenant is served again", || async {
        let answer = client.recall("subject7").await.ok()?;
        (answer.status == 200 && answer.body[0]["content"] == *memory(7)).then_some(())
    })
    .await;
}

async fn ends(stage: &Stage) -> Vec<String> {
    let tenants = ground::tenants(stage.plane(), "served-again", TENANTS, TenantSpec::default()).await;
    let memories: Vec<String> = (0..10).map(memory).collect();
    for tenant in &tenants {
        stage.plane().fill(tenant, &memories).await.unwrap();
    }
    let clients: Vec<Client> = tenants.iter().map(|tenant| stage.client(tenant)).collect();
    let (busy, busy_client) = stage.attacker("busy").await;
    let mut dice = Dice::new(23);
    let contents: Vec<String> = (0..tries(300, 1_000)).map(|_| text::han(&mut dice, LONGEST)).collect();
    stage.plane().fill(&busy, &contents).await.unwrap();
    let mut found = Vec::new();
    for end in [End::Forced, End::Asked] {
        let what =
            format!("the pooled engine ends ({end:?}) while an index is built, and serves {TENANTS} tenants again");
        let (cost, ended) = stage
            .endure(&what, async {
                let mut asking = JoinSet::new();
                let client = busy_client.clone();
                // It is answered by nobody, or by the engine that comes next.
                asking.spawn(async move { drop(client.recall("any").await) });
                sleep(BUILD_BEGINS).await;
                let ended = restart(stage, end).await;
                join_all(clients.iter().map(serves)).await;
                ended
            })
            .await;
        found.extend(cost.of_indexes());
        if !ended {
            found.push(format!("{what}: it did not end within {ENDS_WITHIN:?}"));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_engine_ends_and_serves_again() {
    let stage = Stage::start(Setting { ends: true, ..Setting::default() }.engine("--drain", DRAIN)).await;
    nothing(&[ends(&stage).await]);
}
