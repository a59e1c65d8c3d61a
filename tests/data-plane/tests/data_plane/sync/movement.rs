//! The socket outlives what is behind it.

use std::time::Duration;

use harness::{DataPlane, Heard, Program, Socket, Tenant, eventually};
use serde_json::{Value, json};

use super::{enter, roomy_at};

/// Sends operations one after another and checks what comes back: each acknowledged, each change once and in order.
struct Writer {
    socket: Socket,
    seq: i64,
    sent: u32,
    acknowledged: u32,
}

impl Writer {
    async fn enter(plane: &DataPlane, tenant: &Tenant) -> Self {
        let (socket, seq) = enter(plane, tenant, None).await;
        Self { socket, seq, sent: 0, acknowledged: 0 }
    }

    async fn send(&mut self, count: u32) {
        for n in self.sent..self.sent + count {
            let store = json!({ "op": "store", "op_id": format!("op-{n}"), "content": format!("note {n}") });
            self.socket.send(&store).await.unwrap();
        }
        self.sent += count;
    }

    /// Hears until everything that was sent is acknowledged and seen.
    async fn settle(&mut self) {
        let mut seen = 0;
        let outstanding = self.sent - self.acknowledged;
        while self.acknowledged < self.sent || seen < outstanding {
            match self.socket.hear().await.unwrap() {
                Heard::Frame(frame) if frame["type"] == "ack" => {
                    assert_eq!(frame["op_id"], format!("op-{}", self.acknowledged), "in order: {frame}");
                    assert_eq!(frame["applied"], true, "{frame}");
                    self.acknowledged += 1;
                }
                Heard::Frame(frame) if frame["type"] == "change" => {
                    self.seq += 1;
                    assert_eq!(frame["seq"].as_i64(), Some(self.seq), "once and in order: {frame}");
                    seen += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn total(plane: &DataPlane, tenant: &Tenant) -> Value {
    eventually("the engine answers", || async {
        let answer = plane.client(tenant).get("/stats").await.unwrap();
        (answer.status == 200).then(|| answer.body["total_memories"].clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_is_killed_in_the_middle_and_the_client_notices_a_delay_at_most() {
    let mut plane = DataPlane::start().await.unwrap();
    let tenant = roomy_at(&plane, "sync-killed").await;
    let mut writer = Writer::enter(&plane, &tenant).await;
    for _ in 0..3 {
        writer.send(200).await;
        plane.engine.kill().unwrap();
        writer.send(50).await;
        plane.engine.restart().unwrap();
        writer.settle().await;
    }
    assert_eq!(total(&plane, &tenant).await, 750, "each stored once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tenant_moves_there_and_back_and_the_socket_stays() {
    let plane = DataPlane::start().await.unwrap();
    let tenant = roomy_at(&plane, "sync-moves").await;
    let mut writer = Writer::enter(&plane, &tenant).await;
    writer.send(50).await;
    let engine = plane.dedicated_engine(&tenant).await.unwrap();
    for drain in ["30 s", "0 s"] {
        writer.send(50).await;
        plane.place(&tenant, Some(&engine), drain).await.unwrap();
        writer.send(50).await;
        writer.settle().await;
        plane.place(&tenant, None, drain).await.unwrap();
        writer.send(50).await;
        writer.settle().await;
        plane.admit(&tenant).await.unwrap();
    }
    assert_eq!(total(&plane, &tenant).await, 350, "each stored once");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_restarts_and_the_socket_goes_on() {
    let mut plane = DataPlane::start().await.unwrap();
    let tenant = roomy_at(&plane, "sync-postgres").await;
    let mut writer = Writer::enter(&plane, &tenant).await;
    writer.send(20).await;
    writer.settle().await;
    plane.postgres.stop().unwrap();
    writer.send(20).await;
    plane.postgres.start_again().await.unwrap();
    writer.settle().await;
    assert_eq!(total(&plane, &tenant).await, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_leaves_answers_what_it_was_sent_says_1012_and_another_goes_on() {
    let plane = DataPlane::start_with(&[], &["--pre-stop-lag", "0s"]).await.unwrap();
    let tenant = roomy_at(&plane, "sync-leaves").await;
    let other: Program = plane.another_gateway().await.unwrap();
    let mut writer = Writer::enter(&plane, &tenant).await;
    writer.send(30).await;
    writer.settle().await;
    plane.gateway.terminate().unwrap();
    assert_eq!(writer.socket.closed().await.unwrap(), Some(1012));
    let url = format!("http://127.0.0.1:{}", other.port);
    let client = harness::Client::new(&url, &tenant.key);
    assert_eq!(client.store("meanwhile").await.unwrap().status, 201);
    let (mut socket, seq) = Socket::enter(&url, &tenant.key, Some(writer.seq)).await.unwrap();
    assert!(seq >= writer.seq);
    let change = tokio::time::timeout(Duration::from_secs(10), socket.frame_of("change")).await.unwrap().unwrap();
    assert_eq!((change["seq"].as_i64(), &change["memory"]["content"]), (Some(writer.seq + 1), &json!("meanwhile")));
}
