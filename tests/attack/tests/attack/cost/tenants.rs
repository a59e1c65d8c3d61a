//! Tenants whose memories are many words: ever new ones, and ideographs, of which each pair is one.

use std::time::Duration;

use attack::tries;
use futures::future::join_all;
use harness::{Answer, Client};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    lasting, nothing,
    stage::{Setting, Stage},
    text::{self, LONGEST},
    watch::metric,
};
use crate::ground::Dice;

const INDEX_BYTES: &str = "stellar_engine_index_memory_bytes";
/// How often what was replaced may be in the index beside what is there.
const DEAD_MOST: f64 = 3.0;
/// Memories that are replaced at a time.
const REPLACED: usize = 10;
const RECALL_PAUSE: Duration = Duration::from_secs(1);

/// Asks again as often as the tenant's rate makes it wait.
async fn patiently(ask: impl AsyncFn() -> anyhow::Result<Answer>) -> Answer {
    loop {
        let answer = ask().await.unwrap();
        if answer.status != 429 {
            return answer;
        }
        let wait = answer.header("retry-after").and_then(|seconds| seconds.parse().ok()).unwrap_or(1);
        sleep(Duration::from_secs(wait)).await;
    }
}

/// Memories that are replaced and recalled again and again: rewritten, or removed and others stored. Returns the bytes of
/// indexes after each round, and what went wrong.
async fn replace(stage: &Stage, client: &Client, rounds: usize) -> (Vec<f64>, Vec<String>) {
    let (mut dice, mut bytes, mut wrong) = (Dice::new(5), Vec::new(), Vec::new());
    let mut ids: Vec<Uuid> = Vec::new();
    let end = Instant::now() + lasting();
    while bytes.len() < rounds || Instant::now() < end {
        let contents: Vec<String> = (0..REPLACED).map(|_| text::words(&mut dice, LONGEST)).collect();
        let mut operations: Vec<Value> = Vec::new();
        let rewrites = bytes.len() % 2 == 1;
        if !rewrites {
            operations.extend(ids.iter().map(|id| json!({ "op": "remove", "id": id })));
            ids = (0..REPLACED).map(|_| Uuid::new_v4()).collect();
        }
        let op = if rewrites { "update" } else { "store" };
        let written = ids.iter().zip(&contents);
        operations.extend(written.map(|(id, content)| json!({ "op": op, "id": id, "content": content })));
        let batch = json!({ "operations": operations });
        let written = patiently(async || client.post("/batch", &batch).await).await;
        let word = contents[0].split(' ').next().unwrap();
        let recalled = patiently(async || client.recall(word).await).await;
        if written.status != 200 || recalled.body[0]["content"] != *contents[0] {
            wrong.push(format!("{} {:.200}; {} {:.200}", written.status, written.text, recalled.status, recalled.text));
        }
        bytes.push(metric(stage.engine_health, INDEX_BYTES, "").await);
    }
    (bytes, wrong)
}

async fn ever_new_words(stage: &Stage) -> Vec<String> {
    let rounds = tries(12, 30);
    let what = format!("{REPLACED} memories of ever new words, replaced and recalled at the tier's rate");
    let (_, client) = stage.attacker("words").await;
    let (cost, (bytes, wrong)) = stage.endure(&what, replace(stage, &client, rounds)).await;
    let mut found = cost.of_indexes();
    found.extend(wrong);
    let (first, last) = (bytes[0], bytes[bytes.len() - 1]);
    if last > DEAD_MOST * first {
        found.push(format!("{what}: the index has {last} bytes after {} rounds, and had {first}", bytes.len()));
    }
    found
}

/// Tenants within their quota whose index is as large as a quota can make it.
pub async fn ideographs(stage: &Stage) -> Vec<String> {
    let (tenants, memories) = (2, tries(600, 1_000));
    let what = format!("{tenants} free tenants with {memories} memories of {LONGEST} ideographs recall");
    let mut dice = Dice::new(17);
    let contents: Vec<String> = (0..memories).map(|_| text::han(&mut dice, LONGEST)).collect();
    let words: String = contents[0].chars().take(2).collect();
    let mut clients = Vec::new();
    for n in 0..tenants {
        let (tenant, client) = stage.attacker(&format!("han-{n}")).await;
        stage.plane().fill(&tenant, &contents).await.unwrap();
        clients.push(client);
    }
    let (cost, answers) = stage
        .endure(&what, async {
            let end = Instant::now() + lasting();
            join_all(clients.iter().map(|client| async {
                let mut answers = Vec::new();
                while answers.is_empty() || Instant::now() < end {
                    answers.push(client.recall(&words).await.unwrap());
                    sleep(RECALL_PAUSE).await;
                }
                answers
            }))
            .await
        })
        .await;
    let helpless = |answer: &&Answer| {
        answer.status != 200 && (answer.status == 504 || answer.body["detail"].as_str().is_none_or(str::is_empty))
    };
    let helpless: Vec<&Answer> = answers.iter().flatten().filter(helpless).collect();
    let mut found = cost.of_indexes();
    if let Some(answer) = helpless.first() {
        let (status, text) = (answer.status, &answer.text);
        found.push(format!("{what}: {} answers say nothing to do, as {status} {text:.200}", helpless.len()));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn words_without_an_end() {
    let stage = Stage::start(Setting::default()).await;
    nothing(&[ever_new_words(&stage).await]);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_words_than_an_index_holds() {
    let stage = Stage::start(Setting::default()).await;
    nothing(&[ideographs(&stage).await]);
}
