//! This build beside another one (`make bench BASELINE=COMMIT`): the same requests to both, in turn, in one run.

use std::path::Path;

use anyhow::{Result, ensure};
use harness::{Client, DataPlane, Tenant, TenantSpec};

use crate::{
    crowd::{Crowd, Door},
    speaker::Speaker,
    table::{Sample, figure, median, ratio, timed},
    text::Words,
};

/// The folder of the other build's programs.
const VARIABLE: &str = "BASELINE";
const AIM: &str = "(aim 0.95)";
/// The first one warms both sides up.
const ROUNDS: usize = 6;
const MEMORIES: i64 = 1_000;
const SOCKETS: usize = 500;
const CHANGES: usize = 16;
const BROADCASTS: usize = 10;

/// A kind of request, how many at one time, and how many a round.
const SHAPES: [(&str, Request, usize, usize); 8] = [
    ("recalls, 1 at a time", Request::Recall, 1, 200),
    ("recalls, 32 at a time", Request::Recall, 32, 640),
    ("lists of 20, 32 at a time", Request::List, 32, 640),
    ("stats, 32 at a time", Request::Stats, 32, 640),
    ("stores, 1 at a time", Request::Store, 1, 200),
    ("stores, 32 at a time", Request::Store, 32, 960),
    ("batches of 100 stores, 1 at a time", Request::Batch, 1, 20),
    ("recalls after a store, 1 at a time", Request::StoreAndRecall, 1, 100),
];

#[derive(Clone, Copy)]
enum Request {
    Recall,
    List,
    Stats,
    Store,
    Batch,
    StoreAndRecall,
}

/// One build, with a tenant that has some memories.
struct Side {
    plane: DataPlane,
    tenant: Tenant,
}

impl Side {
    async fn new(plane: DataPlane) -> Result<Self> {
        let unlimited = TenantSpec { max_memories: -1, ..TenantSpec::default() };
        let tenant = plane.tenant("bench", unlimited).await?;
        plane.client(&tenant).opens().await;
        let mut words = Words::new(5);
        let contents: Vec<String> = (0..MEMORIES).map(|_| words.sentence(14)).collect();
        plane.fill(&tenant, &contents).await?;
        Ok(Self { plane, tenant })
    }

    async fn run(&self, request: Request, at_once: usize, count: usize, seed: u64) -> Result<f64> {
        let start = std::time::Instant::now();
        let client = self.plane.client(&self.tenant);
        let workers = (0..at_once).map(|worker| {
            let (client, mut words) = (client.clone(), Words::new(seed * 100 + worker as u64));
            async move { timed(count / at_once, || ask(client.clone(), request, words.sentence(14))).await }
        });
        let mut all = Sample::default();
        for sample in futures::future::join_all(workers).await {
            all.add(sample?);
        }
        Ok(all.seconds.len() as f64 / start.elapsed().as_secs_f64())
    }
}

async fn ask(client: Client, request: Request, text: String) -> Result<()> {
    let query: String = text.split(' ').take(4).collect::<Vec<_>>().join(" ");
    if matches!(request, Request::Store | Request::StoreAndRecall) {
        let answer = client.store(&text).await?;
        ensure!(answer.status == 201, "{}", answer.text);
    }
    let answer = match request {
        Request::Store => return Ok(()),
        Request::Recall | Request::StoreAndRecall => client.recall(&query).await?,
        Request::List => client.get("/memories?limit=20").await?,
        Request::Stats => client.get("/stats").await?,
        Request::Batch => {
            let operations: Vec<_> =
                (0..100).map(|n| serde_json::json!({ "op": "store", "content": format!("{text} {n}") })).collect();
            client.post("/batch", &serde_json::json!({ "operations": operations })).await?
        }
    };
    ensure!(answer.status == 200, "{}", answer.text);
    Ok(())
}

pub async fn measure() -> Result<()> {
    let Ok(folder) = std::env::var(VARIABLE) else {
        println!("--- baseline: no other build was given ({VARIABLE})");
        return Ok(());
    };
    let other = Side::new(DataPlane::start_build(Path::new(&folder)).await?).await?;
    let own = Side::new(DataPlane::start().await?).await?;
    for (what, request, at_once, count) in SHAPES {
        let mut pairs = Vec::new();
        for round in 0..=ROUNDS {
            // Whoever is first changes, so that what one leaves to do (checkpoints, vacuums) is not always the other's.
            let seed = round as u64 + 1;
            let (before, now) = if round % 2 == 0 {
                let before = other.run(request, at_once, count, seed).await?;
                (before, own.run(request, at_once, count, seed).await?)
            } else {
                let now = own.run(request, at_once, count, seed).await?;
                (other.run(request, at_once, count, seed).await?, now)
            };
            if round > 0 {
                pairs.push((before, now));
            }
        }
        let rates = |side: fn(&(f64, f64)) -> f64| median(&pairs.iter().map(side).collect::<Vec<_>>());
        figure(&format!("{what}: the other build"), rates(|pair| pair.0), "/s");
        figure(&format!("{what}: this build"), rates(|pair| pair.1), "/s");
        ratio(&format!("{what}: rate to the other build's {AIM}"), rates(|pair| pair.1 / pair.0));
    }
    fan_out(&other, &own).await
}

/// What reaches a room, in thousand frames a second.
async fn fan_out(other: &Side, own: &Side) -> Result<()> {
    let mut rooms = Vec::new();
    for side in [other, own] {
        // A tenant of its own: where there are many memories a write pushes others outward, which is a change more.
        let tenant = side.plane.tenant("room", TenantSpec { max_memories: -1, ..TenantSpec::default() }).await?;
        side.plane.client(&tenant).opens().await;
        let speaker = Speaker::new(side.plane.client(&tenant), CHANGES).await?;
        let door = Door::Room(side.plane.gateway.port, tenant.key.clone());
        rooms.push((speaker, Crowd::enter(&[door], SOCKETS).await?));
    }
    let (mut words, mut ratios) = (Words::new(11), Vec::new());
    for round in 0..=ROUNDS {
        let mut times = [0.0, 0.0];
        for _ in 0..BROADCASTS {
            for (time, (speaker, room)) in times.iter_mut().zip(&rooms) {
                room.expect(CHANGES);
                speaker.say((0..CHANGES).map(|_| words.sentence(24)).collect()).await?;
                *time += room.spread().await?;
            }
        }
        if round > 0 {
            ratios.push(times[0] / times[1]);
        }
    }
    ratio(
        &format!("a room of {SOCKETS}, {CHANGES} changes a broadcast: speed to the other build's {AIM}"),
        median(&ratios),
    );
    Ok(())
}
