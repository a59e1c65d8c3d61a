//! Clients that ask and do not take the answers, or hardly.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use attack::tries;
use futures::future::join_all;
use harness::raw;
use serde_json::json;
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, sleep, timeout},
};

use super::{
    lasting, nothing,
    stage::{Setting, Stage, WRITE_TIMEOUT},
    watch::{Held, metric, peaks, resident},
    wire::{ask_and_not_hear, get, hold, open},
};

const DOCUMENT: &str = "/openapi.json";
const EXPORT: &str = "/api/v1/export";
/// Some 1.4 MB.
const PAGE_FILE: &str = "/docs/swagger-ui-bundle.js";
/// Answers of [`PAGE_FILE`] on one connection: more than the kernel takes for it.
const PAGE_FILES: usize = 4;
const PIPELINED: usize = 3_000;
/// Pages of metrics, which are smaller than the document.
const METRICS_PIPELINED: usize = 10_000;
/// As many as a client of HTTP/2 begins before it has heard of the server's own bound.
const STREAMS: usize = 100;
/// What a compressing connection takes beside the others' part, in such parts: the window and the tables of its encoder.
const ENCODER: usize = 8;
/// Beyond the write timeout, for a machine that is busy.
const GRACE: Duration = Duration::from_secs(8);
/// Bytes that a slow reader takes at a time.
const SIP: usize = 16;

/// What is wrong with how many of so many connections were answered.
fn unanswered(what: &str, answered: usize, connections: usize) -> Option<String> {
    (answered < connections).then(|| format!("{what}: {answered} of {connections} connections were answered"))
}

/// Sends each text over a connection and reads no answer.
async fn unread(stage: &Stage, what: &str, port: u16, texts: Vec<String>) -> Vec<String> {
    let connections = texts.len();
    let (cost, (_held, answered)) = stage.endure(what, hold(port, &texts, Instant::now() + lasting())).await;
    let mut found = cost.of_connections(connections);
    found.extend(unanswered(what, answered, connections));
    found
}

fn pipelined() -> Vec<String> {
    vec![get(DOCUMENT, None, "").repeat(PIPELINED)]
}

async fn documents(stage: &Stage) -> Vec<String> {
    let what = format!("{PIPELINED} documents pipelined, without a key");
    unread(stage, &what, stage.gateway.port, pipelined()).await
}

/// The same as [`documents`], of any server. `pid`: its process.
pub async fn documents_of(port: u16, pid: u32) -> Vec<String> {
    let (rest, stop) = (resident(pid), AtomicBool::new(false));
    let behaviour = async {
        let texts = pipelined();
        let held = hold(port, &texts, Instant::now() + lasting()).await;
        stop.store(true, Ordering::Relaxed);
        held
    };
    let ((_held, answered), [peak]) = tokio::join!(behaviour, peaks(|| [pid], &stop));
    let held = Held { rest, peak };
    held.over_connections("server", 1).into_iter().chain(unanswered("documents", answered, 1)).collect()
}

async fn documents_over_http2(stage: &Stage) -> Vec<String> {
    let connections = tries(4, 40);
    let what = format!("{STREAMS} documents on each of {connections} connections of HTTP/2, without a key");
    let of_documents = format!("route=\"{DOCUMENT}\"");
    let answered = || metric(stage.gateway.health_port, "stellar_gateway_requests_total", &of_documents);
    let before = answered().await;
    let (cost, ()) = stage
        .endure(&what, async {
            let asking = (0..connections).map(|_| ask_and_not_hear(stage.gateway.port, DOCUMENT, None, STREAMS));
            let _under_way = join_all(asking).await;
            sleep(lasting()).await;
        })
        .await;
    let mut found = cost.of_connections(connections);
    found.extend(unanswered(&what, (answered().await - before) as usize, connections));
    found
}

/// Connections whose answers nobody reads come to an end.
pub async fn page_files(stage: &Stage) -> Vec<String> {
    let connections = tries(40, 400);
    let what = format!("{PAGE_FILES} files of the page on each of {connections} connections, without a key");
    let texts = vec![get(PAGE_FILE, None, "").repeat(PAGE_FILES); connections];
    let open = || metric(stage.gateway.health_port, "stellar_gateway_connections", "");
    let (before, port) = (open().await, stage.gateway.port);
    let (cost, (answered, left)) = stage
        .endure(&what, async {
            let (held, answered) = hold(port, &texts, Instant::now()).await;
            let end = Instant::now() + WRITE_TIMEOUT + GRACE;
            // The bystanders and the writer may have opened one of their own meanwhile.
            let left = async || (open().await - before - 3.0).max(0.0);
            while left().await > 0.0 && Instant::now() < end {
                sleep(Duration::from_millis(100)).await;
            }
            let left = left().await;
            drop(held);
            (answered, left)
        })
        .await;
    let mut found = cost.of_connections(connections);
    found.extend(unanswered(&what, answered, connections));
    if left > 0.0 {
        found.push(format!("{what}: {left} are still open long after the write timeout"));
    }
    found
}

async fn metrics(stage: &Stage) -> Vec<String> {
    let asked = || vec![get("/metrics", None, "").repeat(METRICS_PIPELINED)];
    let what = |program: &str| format!("{METRICS_PIPELINED} pages of metrics pipelined, health port of the {program}");
    let mut found = unread(stage, &what("gateway"), stage.gateway.health_port, asked()).await;
    found.extend(unread(stage, &what("pooled engine"), stage.engine_health, asked()).await);
    found
}

async fn exports(stage: &Stage) -> Vec<String> {
    let connections = 20;
    let what = format!("{connections} exports of 1,000 memories of 10,000 characters");
    let texts = vec![get(EXPORT, Some(&stage.full().key), ""); connections];
    unread(stage, &what, stage.gateway.port, texts).await
}

async fn exports_compressed(stage: &Stage) -> Vec<String> {
    let connections = 10;
    let what = format!("{connections} of these exports, compressed");
    let texts = vec![get(EXPORT, Some(&stage.full().key), "accept-encoding: br\r\n"); connections];
    let (cost, (_held, answered)) =
        stage.endure(&what, hold(stage.gateway.port, &texts, Instant::now() + lasting())).await;
    let mut found = cost.of_connections(connections * ENCODER);
    found.extend(unanswered(&what, answered, connections));
    found
}

async fn exports_over_http2(stage: &Stage) -> Vec<String> {
    let exports = 15;
    let what = format!("{exports} of these exports on one connection of HTTP/2");
    let of_exports = format!("route=\"{EXPORT}\"");
    let answered = || metric(stage.gateway.health_port, "stellar_gateway_requests_total", &of_exports);
    let before = answered().await;
    let (cost, ()) = stage
        .endure(&what, async {
            let _under_way = ask_and_not_hear(stage.gateway.port, EXPORT, Some(&stage.full().key), exports).await;
            sleep(lasting()).await;
        })
        .await;
    // Each stream is as good as a connection of its own.
    let mut found = cost.of_connections(exports);
    found.extend(unanswered(&what, (answered().await - before) as usize, exports));
    found
}

async fn changes(stage: &Stage) -> Vec<String> {
    let (streams, sockets) = (3, 2);
    let what = format!("{streams} event streams and {sockets} sockets from the first of 1,000 long changes on");
    let (port, key) = (stage.gateway.port, &stage.full().key);
    let texts = vec![get("/api/v1/events?since=0", Some(key), ""); streams];
    let (cost, answered) = stage
        .endure(&what, async {
            let mut entered = Vec::new();
            for _ in 0..sockets {
                let mut socket = open(port).await;
                raw::enter(&mut socket, &json!({ "api_key": key, "since": 0 })).await.unwrap();
                entered.push(socket);
            }
            let (_held, answered) = hold(port, &texts, Instant::now() + lasting()).await;
            answered
        })
        .await;
    let mut found = cost.of_connections(streams + sockets);
    found.extend(unanswered(&what, answered, streams));
    found
}

async fn sips(stage: &Stage) -> Vec<String> {
    let (exports, files) = (5, 20);
    let what = format!("{exports} of these exports and {files} files of the page, read by {SIP} bytes at a time");
    let (export, file) = (get(EXPORT, Some(&stage.full().key), ""), get(PAGE_FILE, None, ""));
    let texts: Vec<String> = std::iter::repeat_n(export, exports).chain(std::iter::repeat_n(file, files)).collect();
    let (cost, answered) = stage
        .endure(&what, async {
            let (mut held, answered) = hold(stage.gateway.port, &texts, Instant::now()).await;
            let end = Instant::now() + lasting();
            while Instant::now() < end {
                for stream in &mut held {
                    // Nothing comes where the server has had enough of it.
                    let _ = timeout(Duration::from_millis(1), stream.read(&mut [0; SIP])).await;
                }
                sleep(Duration::from_millis(250)).await;
            }
            answered
        })
        .await;
    let mut found = cost.of_connections(exports + files);
    found.extend(unanswered(&what, answered, exports + files));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_key_that_nobody_reads() {
    let stage = Stage::start(Setting::default()).await;
    nothing(&[
        documents(&stage).await,
        documents_over_http2(&stage).await,
        page_files(&stage).await,
        metrics(&stage).await,
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn memories_that_nobody_reads() {
    let stage = Stage::start(Setting::default()).await;
    nothing(&[
        exports(&stage).await,
        exports_compressed(&stage).await,
        exports_over_http2(&stage).await,
        changes(&stage).await,
        sips(&stage).await,
    ]);
}
