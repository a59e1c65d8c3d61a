//! The same stream as server-sent events, and both in local mode.

use harness::{Client, DataPlane, Postgres, Program, Socket, TenantSpec, Workdir, eventually, is_root};
use reqwest::Method;
use serde_json::{Value, json};

use super::{ROOMY, enter, roomy};
use crate::shared;

/// Reads events until there are so many: id, name and data.
async fn read(mut stream: reqwest::Response, count: usize) -> Vec<(i64, String, Value)> {
    let (mut text, mut events) = (String::new(), Vec::new());
    while events.len() < count {
        let chunk = tokio::time::timeout(std::time::Duration::from_secs(30), stream.chunk()).await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk.expect("the stream goes on")).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n") {
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            if let (Some(id), Some(name), Some(data)) = (field("id"), field("event"), field("data")) {
                events.push((id.parse().unwrap(), name.to_owned(), serde_json::from_str(data).unwrap()));
            }
            text = rest.to_owned();
        }
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_tells_the_same_and_resumes_after_the_last_event() {
    let client = shared().await.client(&roomy("events-same").await);
    for n in 0..3 {
        assert_eq!(client.store(&format!("note {n}")).await.unwrap().status, 201);
    }
    let stream = client.request(Method::GET, "/events?since=0").send().await.unwrap();
    assert_eq!(stream.status(), 200);
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let events = read(stream, 3).await;
    for (n, (id, name, data)) in events.iter().enumerate() {
        assert_eq!((*id, name.as_str(), data["seq"].as_i64()), (n as i64 + 1, "change", Some(*id)));
        assert_eq!(data["memory"]["content"], format!("note {n}"));
    }
    let resumed = client.request(Method::GET, "/events").header("last-event-id", "2").send().await.unwrap();
    let live = tokio::spawn(read(resumed, 2));
    assert_eq!(client.store("live").await.unwrap().status, 201);
    let events = live.await.unwrap();
    assert_eq!(events.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), [3, 4]);
    let ahead = client.request(Method::GET, "/events?since=77").send().await.unwrap();
    assert_eq!(read(ahead, 1).await[0].1, "resync");
}

#[tokio::test(flavor = "multi_thread")]
async fn event_streams_count_with_the_sockets_of_their_tenant() {
    // Further gateways, which other tests start, would share the sockets.
    let plane = &DataPlane::start().await.unwrap();
    let tenant = plane.tenant("events-full", TenantSpec { max_sockets: 2, ..ROOMY }).await.unwrap();
    let client = plane.client(&tenant);
    let (_socket, _) = enter(plane, &tenant, None).await;
    let stream = client.request(Method::GET, "/events").send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let refused = client.get("/events").await.unwrap();
    assert_eq!((refused.status, refused.problem()), (429, Some("too-many-sockets")), "{}", refused.text);
    assert!(refused.header("retry-after").is_some());
    assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains("2 sockets")), "{}", refused.text);
    assert!(Socket::enter(&plane.url(), &tenant.key, None).await.is_err(), "a socket is the same");
    drop(stream);
    eventually("the place is free again", || async {
        let stream = client.request(Method::GET, "/events").send().await.unwrap();
        (stream.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_far_behind_ends_when_its_key_is_revoked() {
    let plane = shared().await;
    let tenant = roomy("events-revoked").await;
    let client = plane.client(&tenant);
    let text = "x".repeat(9_000);
    // Far more than the kernel and both ends keep for one that does not read.
    for round in 0..40 {
        let operations: Vec<Value> =
            (0..50).map(|n| json!({ "op": "store", "content": format!("{round} {n} {text}") })).collect();
        assert_eq!(client.post("/batch", &json!({ "operations": operations })).await.unwrap().status, 200);
    }
    let made = client.post("/auth/api-keys", &json!({ "agent": "second" })).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text);
    let key = made.body["api_key"].as_str().or(made.body["key"].as_str()).expect("the key's text");
    let second = Client::new(&plane.url(), key);
    eventually("the new key opens", || async { (second.get("/stats").await.unwrap().status == 200).then_some(()) })
        .await;
    let mut stream = second.request(Method::GET, "/events?since=0").send().await.unwrap();
    assert_eq!(stream.status(), 200);
    stream.chunk().await.unwrap().expect("it begins");
    let id = made.body["id"].as_str().expect("the key's id");
    assert_eq!(client.delete(&format!("/auth/api-keys/{id}")).await.unwrap().status, 200);
    eventually("the key opens no more", || async { (second.get("/stats").await.unwrap().status == 401).then_some(()) })
        .await;
    let mut last = String::new();
    while let Ok(Some(chunk)) = stream.chunk().await {
        last.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(!last.contains("id: 2000\n"), "it goes on to the end of the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_place_in_the_log_is_refused() {
    let client = shared().await.client(&roomy("events-wrong").await);
    for query in ["since=-1", "since=x", "since=1&since=2", "from=1"] {
        let answer = client.get(&format!("/events?{query}")).await.unwrap();
        assert_eq!((answer.status, answer.problem()), (400, Some("invalid-request")), "{query}: {}", answer.text);
    }
    let bad = client.request(Method::GET, "/events").header("last-event-id", "x").send().await.unwrap();
    assert_eq!(bad.status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_local_mode_everybody_is_in_one_room_without_a_key() {
    let workdir = Workdir::new().unwrap();
    let postgres = Postgres::start(&workdir).await.unwrap();
    let binaries = postgres.binaries().display().to_string();
    let args: Vec<String> = ["--mode", "local", "--postgres-bin", &binaries].map(str::to_owned).into();
    let engine = if is_root() {
        Program::start_unprivileged(&workdir, "engine", &args).await.unwrap()
    } else {
        Program::start(&workdir, "engine", &args).await.unwrap()
    };
    let url = format!("http://127.0.0.1:{}", engine.port);
    let health: Value = reqwest::get(format!("{url}/health")).await.unwrap().json().await.unwrap();
    assert_eq!(health["room"], "__local__");
    let mut sockets = Vec::new();
    for hello in [json!({}), json!({ "api_key": "whatever" })] {
        let mut socket = Socket::connect(&url).await.unwrap();
        socket.send(&hello).await.unwrap();
        assert_eq!(socket.frame().await.unwrap()["authenticated"], true);
        sockets.push(socket);
    }
    sockets[0].send(&json!({ "op": "store", "op_id": "1", "content": "for all here" })).await.unwrap();
    for socket in &mut sockets {
        assert_eq!(socket.frame_of("change").await.unwrap()["memory"]["content"], "for all here");
    }
    assert_eq!(read(reqwest::get(format!("{url}/api/v1/events?since=0")).await.unwrap(), 1).await.len(), 1);
    let half = r#"{"op":"store","op_id":"2","content":"cut \ud83d"}"#;
    sockets[0].message(tokio_tungstenite::tungstenite::Message::Text(half.into())).await.unwrap();
    let refused = sockets[0].frame().await.unwrap();
    assert_eq!((&refused["op_id"], &refused["error"]), (&json!("2"), &json!("invalid-request")), "{refused}");
    engine.terminate().unwrap();
    assert_eq!(sockets[1].closed().await.unwrap(), Some(1012));
}
