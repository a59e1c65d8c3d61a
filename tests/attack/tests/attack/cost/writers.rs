//! Clients that send slowly, that send what has no end, or too much before they have shown who they are.

use std::time::Duration;

use attack::tries;
use futures::future::join_all;
use harness::{Answer, Socket, raw};
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

use super::{
    lasting, nothing,
    stage::{FREE, Setting, Stage},
    watch::metric,
    wire::{open, push},
};
use crate::ground;

const HEADER_TIMEOUT: Duration = Duration::from_secs(3);
/// Beyond the header timeout, for a machine that is busy.
const GRACE: Duration = Duration::from_secs(10);
/// Of a head that does not end.
const HALF_HEAD: usize = 16 * 1024;
/// As long as a frame may be.
const FRAME_MOST: usize = 256 * 1024;
/// MiB that a socket may take of the gateway before it has shown a key.
const UNKNOWN_SOCKET: f64 = 32.0 / 1024.0;
/// As long as a batch may be.
const BATCH_MOST: usize = 4 * 1024 * 1024;
/// Longer than any socket that sends frames without an end is borne.
const PATIENCE: Duration = Duration::from_secs(20);
/// First bytes of frames (RFC 6455 §5.2): a text that goes on, more of it that goes on, a ping.
const TEXT_BEGINS: u8 = 0x01;
const TEXT_GOES_ON: u8 = 0x00;
const TEXT: u8 = 0x81;
const PING: u8 = 0x89;

async fn half_heads(stage: &Stage) -> Vec<String> {
    let connections = tries(200, 400);
    let what = format!("{connections} heads of {HALF_HEAD} bytes that do not end");
    let head = format!("GET /health HTTP/1.1\r\nhost: a\r\nx-begun: {}", "a".repeat(HALF_HEAD));
    let count = || metric(stage.gateway.health_port, "stellar_gateway_connections", "");
    let before = count().await;
    let (cost, left) = stage
        .endure(&what, async {
            let sending = (0..connections).map(|_| begun(stage.gateway.port, head.as_bytes()));
            let held = join_all(sending).await;
            let end = Instant::now() + HEADER_TIMEOUT + GRACE;
            // The bystanders and the writer may have opened one of their own meanwhile.
            let left = async || (count().await - before - 3.0).max(0.0);
            while left().await > 0.0 && Instant::now() < end {
                sleep(Duration::from_millis(100)).await;
            }
            let left = left().await;
            drop(held);
            left
        })
        .await;
    let mut found = cost.of_connections(connections);
    if left > 0.0 {
        found.push(format!("{what}: {left} are still open long after the header timeout"));
    }
    found
}

/// A connection on which this was sent.
async fn begun(port: u16, bytes: &[u8]) -> TcpStream {
    let mut stream = open(port).await;
    push(&mut stream, bytes, Instant::now() + Duration::from_secs(2)).await;
    stream
}

fn head(path: &str, key: &str, media_type: &str, length: usize) -> String {
    format!(
        "POST /api/v1/{path} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\ncontent-type: {media_type}\r\n\
         content-length: {length}\r\n\r\n"
    )
}

/// Bodies that begin and then come by a byte at a time. Those of imports hold memories that could be stored already.
async fn slow_bodies(stage: &Stage) -> Vec<String> {
    const EACH: usize = 15;
    const LENGTH: usize = 250_000;
    let what = format!("{} bodies of stores, batches and imports by a byte at a time", 3 * EACH);
    let (tenant, _) = stage.attacker("slow").await;
    let line = |n| json!({ "id": Uuid::new_v4(), "content": format!("of an import, {n} {:200}", "") }).to_string();
    let lines = (0..300).map(line).collect::<Vec<_>>().join("\n");
    let begins = [
        ("store", "application/json", " ".repeat(70_000)),
        ("batch", "application/json", " ".repeat(70_000)),
        ("import", "application/x-ndjson", lines),
    ];
    let begins: Vec<String> = begins
        .iter()
        .map(|(path, media_type, begin)| format!("{}{begin}", head(path, &tenant.key, media_type, LENGTH)))
        .collect();
    let (cost, held_connections) = stage
        .endure(&what, async {
            let mut held = join_all((0..3 * EACH).map(|n| begun(stage.gateway.port, begins[n % 3].as_bytes()))).await;
            let end = Instant::now() + lasting().max(Duration::from_secs(2));
            while Instant::now() < end {
                for stream in &mut held {
                    push(stream, b" ", Instant::now() + Duration::from_millis(1)).await;
                }
                sleep(Duration::from_millis(100)).await;
            }
            let transactions = "SELECT count(*) FROM pg_stat_activity
                WHERE usename = 'stellar_pool' AND state LIKE 'idle in transaction%' AND xact_start < now() - interval '1 s'";
            ground::ask::<i64>(stage.plane(), transactions).await
        })
        .await;
    let mut found = cost.of_connections(3 * EACH);
    if held_connections > 0 {
        found.push(format!("{what}: {held_connections} connections to Postgres wait for them in a transaction"));
    }
    found
}

/// Batches that lack their last byte: as much as a batch may hold is read of each.
async fn batches_held_back(stage: &Stage) -> Vec<String> {
    let batches = 15;
    let what = format!("{batches} batches of 4 MiB without the last byte");
    let (tenant, _) = stage.attacker("held-back").await;
    let head = head("batch", &tenant.key, "application/json", BATCH_MOST);
    let batch = format!("{head}{}", " ".repeat(BATCH_MOST - 1));
    let (cost, ()) = stage
        .endure(&what, async {
            let _held = join_all((0..batches).map(|_| begun(stage.gateway.port, batch.as_bytes()))).await;
            sleep(lasting()).await;
        })
        .await;
    // The engine reads a batch whole; the gateway passes it on as it comes.
    let mut found = cost.found;
    found.extend(cost.gateway.over_connections("gateway", batches));
    found.extend(cost.engine.over_connections("pooled engine", batches * 16));
    found
}

async fn before_a_key(stage: &Stage) -> Vec<String> {
    let sockets = tries(200, 400);
    let what = format!("{sockets} sockets that send 256 KiB before their key");
    let frame = [raw::head(TEXT, FRAME_MOST), vec![b' '; FRAME_MOST - 1]].concat();
    let (cost, ()) = stage
        .endure(&what, async {
            let entering = (0..sockets).map(|_| async {
                let mut stream = open(stage.gateway.port).await;
                raw::upgrade(&mut stream).await.unwrap();
                push(&mut stream, &frame, Instant::now() + lasting()).await;
                stream
            });
            let _held = join_all(entering).await;
            sleep(lasting().min(Duration::from_secs(4))).await;
        })
        .await;
    let over = cost.gateway.over("gateway", sockets as f64 * UNKNOWN_SOCKET);
    cost.found.into_iter().chain(over).collect()
}

/// Frames that say nothing, as fast as they are taken, by a socket that reads.
async fn endless_frames(stage: &Stage) -> Vec<String> {
    let mut found = Vec::new();
    let cases = [
        ("empty fragments", raw::frame(TEXT_BEGINS, b""), raw::frame(TEXT_GOES_ON, b"")),
        ("pings", Vec::new(), raw::frame(PING, b"")),
    ];
    for (name, begin, again) in cases {
        let what = format!("{name} without an end");
        let (tenant, _) = stage.attacker("endless").await;
        let (cost, ended) = stage
            .endure(
                &what,
                Box::pin(async {
                    let mut stream = open(stage.gateway.port).await;
                    raw::enter(&mut stream, &json!({ "api_key": tenant.key })).await.unwrap();
                    let (mut reads, mut writes) = stream.into_split();
                    let again = again.repeat(1_000);
                    let writing = async {
                        let mut sent = writes.write_all(&begin).await;
                        while sent.is_ok() {
                            sent = writes.write_all(&again).await;
                        }
                    };
                    let reading = async {
                        let mut some = [0; 4096];
                        while reads.read(&mut some).await.is_ok_and(|length| length > 0) {}
                    };
                    let either = async {
                        tokio::select! {
                            () = writing => {}
                            () = reading => {}
                        }
                    };
                    timeout(PATIENCE, either).await.is_ok()
                }),
            )
            .await;
        found.extend(cost.of_connections(1));
        if !ended {
            found.push(format!("{what}: the socket goes on"));
        }
    }
    found
}

/// A tenant opens more event streams than its tier has, and then a socket.
pub async fn too_many_streams(stage: &Stage) -> Vec<String> {
    let (tried, allowed) = (20, FREE.max_sockets as usize);
    let what = format!("{tried} event streams of a tenant that may have {allowed} open");
    let (tenant, client) = stage.attacker("streams").await;
    let (cost, (open, refused, socket)) = stage
        .endure(&what, async {
            let (mut open, mut refused) = (Vec::new(), 0);
            for _ in 0..tried {
                let answer = client.request(Method::GET, "/events").send().await.unwrap();
                if answer.status() == 200 {
                    open.push(answer);
                } else {
                    let answer = Answer::read(answer).await.unwrap();
                    refused += usize::from(answer.status == 429 && answer.problem() == Some("too-many-sockets"));
                }
            }
            let socket = Socket::enter(&stage.url(), &tenant.key, None).await;
            (open.len(), refused, socket.is_ok())
        })
        .await;
    let mut found = cost.of_connections(tried);
    if (open, refused) != (allowed, tried - allowed) {
        found.push(format!("{what}: {open} were opened and {refused} refused as too many"));
    }
    if socket {
        found.push(format!("{what}: and a socket is let in beside them"));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_do_not_end() {
    let header_timeout = HEADER_TIMEOUT.as_secs().to_string();
    let stage = Stage::start(Setting::default().gateway("--header-timeout", &header_timeout)).await;
    nothing(&[half_heads(&stage).await, slow_bodies(&stage).await, batches_held_back(&stage).await]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_send_too_much() {
    let stage = Stage::start(Setting::default()).await;
    nothing(&[before_a_key(&stage).await, endless_frames(&stage).await, too_many_streams(&stage).await]);
}
