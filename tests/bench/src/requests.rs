//! Stores, recalls, what the gateway adds to them, and what a tenant notices of a change in the control plane.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Client, DataPlane, Program, Tenant, TenantSpec};

use crate::{
    table::{Sample, ratio, row, timed},
    text::Words,
};

const ROUNDS: usize = 5;
const REQUESTS_A_ROUND: usize = 300;

pub async fn measure() -> Result<()> {
    let plane = DataPlane::start().await?;
    let unlimited = TenantSpec { max_memories: -1, ..TenantSpec::default() };
    let tenant = plane.tenant("bench", unlimited).await?;
    let client = plane.client(&tenant);
    client.opens().await;

    let alone = stores(&client, 1, 300).await?;
    let together = stores(&client, 32, 3000).await?;
    row("store, one after another", &alone);
    row("store, 32 at a time", &together);
    ratio("rate of stores at 32 to one at a time", together.rate() / alone.rate());

    let mut words = Words::new(7);
    for size in [1_000, 10_000, 50_000] {
        fill(&plane, &tenant, size).await?;
        let _warm = recalls(&client, &mut words, 20).await?;
        row(
            &format!("recall through the gateway, {size} memories"),
            &recalls(&client, &mut words, REQUESTS_A_ROUND).await?,
        );
    }

    let direct = direct_client(&plane, &plane.engine, &tenant);
    let (mut through, mut straight) = (Sample::default(), Sample::default());
    for _ in 0..ROUNDS {
        through.add(recalls(&client, &mut words, REQUESTS_A_ROUND).await?);
        straight.add(timed(REQUESTS_A_ROUND, || direct_recall(&direct, &mut words)).await?);
    }
    row("recall through the gateway, 50000 memories", &through);
    row("recall at the engine itself, 50000 memories", &straight);
    ratio("median through the gateway to median at the engine", through.quantile(0.5) / straight.quantile(0.5));

    row("from a key's commit to its first accepted request", &notice(&plane).await?);
    flip(&plane, &tenant, &client).await
}

async fn stores(client: &Client, at_once: usize, count: usize) -> Result<Sample> {
    let start = Instant::now();
    let workers = (0..at_once).map(|worker| {
        let (client, mut words) = (client.clone(), Words::new(worker as u64 + 100));
        async move {
            timed(count / at_once, || {
                let (client, content) = (client.clone(), words.sentence(14));
                async move {
                    let answer = client.store(&content).await?;
                    ensure!(answer.status == 201, "{}", answer.text);
                    Ok(())
                }
            })
            .await
        }
    });
    let mut all = Sample::default();
    for sample in futures::future::join_all(workers).await {
        all.add(sample?);
    }
    all.wall = start.elapsed().as_secs_f64();
    Ok(all)
}

async fn recalls(client: &Client, words: &mut Words, count: usize) -> Result<Sample> {
    timed(count, || {
        let (client, q) = (client.clone(), words.sentence(4));
        async move {
            let answer = client.recall(&q).await?;
            ensure!(answer.status == 200, "{}", answer.text);
            Ok(())
        }
    })
    .await
}

fn direct_client(
    plane: &DataPlane,
    engine: &Program,
    tenant: &Tenant,
) -> (reqwest::Client, String, [(&'static str, String); 2]) {
    let headers = [
        (tenancy::TENANT_HEADER, tenant.id.to_string()),
        (tenancy::CAPABILITY_HEADER, plane.master().capability(tenant.id, 1).expose()),
    ];
    (reqwest::Client::new(), format!("http://127.0.0.1:{}/api/v1/recall", engine.port), headers)
}

fn direct_recall(
    (http, url, headers): &(reqwest::Client, String, [(&'static str, String); 2]),
    words: &mut Words,
) -> impl Future<Output = Result<()>> + use<> {
    let mut request = http.get(url).query(&[("q", words.sentence(4))]);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    async move {
        let answer = request.send().await?;
        ensure!(answer.status() == 200, "the engine answers {}", answer.status());
        answer.bytes().await?;
        Ok(())
    }
}

/// Fills the tenant up to `size` memories.
async fn fill(plane: &DataPlane, tenant: &Tenant, size: i64) -> Result<()> {
    let mut superuser = plane.postgres.superuser("stellar").await?;
    let mut words = Words::new(size as u64);
    let (have,): (i64,) = sqlx::query_as("SELECT count(*) FROM stellar.memories WHERE user_id = $1")
        .bind(tenant.id.uuid())
        .fetch_one(&mut superuser)
        .await?;
    let contents: Vec<String> = (have..size).map(|_| words.sentence(14)).collect();
    plane.fill(tenant, &contents).await
}

/// How soon the gateway acts on a change in Postgres: the time from the commit that makes a tenant's key to the first
/// request that it opens, asked without a pause.
async fn notice(plane: &DataPlane) -> Result<Sample> {
    let mut sample = Sample::default();
    for n in 0..40 {
        let tenant = plane.tenant(&format!("notice-{n}"), TenantSpec::default()).await?;
        let (client, start) = (plane.client(&tenant), Instant::now());
        while client.get("/auth/usage").await?.status != 200 {
            ensure!(start.elapsed() < Duration::from_secs(5), "the gateway never heard of the key");
        }
        sample.seconds.push(start.elapsed().as_secs_f64());
    }
    sample.wall = sample.seconds.iter().sum();
    Ok(sample)
}

/// Moves the tenant to an engine of its own and back under load, and counts what failed.
async fn flip(plane: &DataPlane, tenant: &Tenant, client: &Client) -> Result<()> {
    let engine = plane.dedicated_engine(tenant).await?;
    let mut words = Words::new(3);
    let (mut asked, mut failed) = (0_usize, 0_usize);
    for place in [Some(&engine), None, Some(&engine), None] {
        let flip = plane.place(tenant, place, "30 s");
        tokio::pin!(flip);
        let (mut placed, mut after) = (false, 0);
        while after < 100 {
            let q = words.sentence(4);
            tokio::select! {
                biased;
                done = &mut flip, if !placed => { done?; placed = true; }
                answer = client.recall(&q) => {
                    asked += 1;
                    failed += usize::from(answer.context("recall during a flip").map_or(true, |answer| answer.status != 200));
                    after += usize::from(placed);
                }
            }
        }
    }
    println!("{:<82} {failed:>10} of {asked}", "requests that failed during four flips of placement");
    Ok(())
}
