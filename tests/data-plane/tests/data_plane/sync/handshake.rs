//! Who is let in, and what the others are told.

use std::net::Ipv4Addr;

use harness::{DataPlane, Heard, Socket, TenantSpec, eventually, raw};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{ROOMY, enter, roomy};
use crate::shared;

/// The first byte of a text frame that is all of its message.
const TEXT: u8 = 0x81;

/// Sends a first frame; the answer, and the code of the close that follows.
async fn refused(frame: Option<&str>) -> (Value, Option<u16>) {
    refused_by(shared().await, frame).await
}

async fn refused_by(plane: &DataPlane, frame: Option<&str>) -> (Value, Option<u16>) {
    let mut socket = Socket::connect(&plane.url()).await.unwrap();
    if let Some(frame) = frame {
        socket.message(tokio_tungstenite::tungstenite::Message::Text(frame.into())).await.unwrap();
    }
    let Heard::Frame(answer) = socket.hear().await.unwrap() else { panic!("no answer before the close") };
    (answer, socket.closed().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_key_is_let_in_and_told_where_the_log_is() {
    let plane = shared().await;
    let tenant = roomy("sync-hello").await;
    let client = plane.client(&tenant);
    assert_eq!(client.store("before").await.unwrap().status, 201);
    let (_first, seq) = enter(plane, &tenant, None).await;
    assert_eq!(seq, 1);
    let mut socket = Socket::connect(&plane.url()).await.unwrap();
    socket.send(&json!({ "api_key": tenant.key, "agent": "default", "since": 0 })).await.unwrap();
    let answer = socket.frame().await.unwrap();
    assert_eq!(answer, json!({ "authenticated": true, "seq": 1, "agent": "default" }));
    assert_eq!(socket.frame().await.unwrap()["seq"], 1, "what it has not seen follows");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_good_key_is_refused_with_a_reason_and_1008() {
    let tenant = roomy("sync-refused").await;
    let other_agent = json!({ "api_key": tenant.key, "agent": "somebody" }).to_string();
    let cases = [
        (r#"{"api_key":"sk-stellar-00000000000000000000000000000000"}"#, "invalid-api-key"),
        (r#"{"api_key":"hunter2"}"#, "invalid-api-key"),
        ("{}", "missing-api-key"),
        ("[]", "invalid-request"),
        ("rubbish", "invalid-request"),
        (r#"{"api_key":"hunter2","since":-1}"#, "invalid-request"),
        (r#"{"api_key":"hunter2","sinse":1}"#, "invalid-request"),
        (&other_agent, "invalid-api-key"),
    ];
    for (frame, error) in cases {
        let (answer, code) = refused(Some(frame)).await;
        assert_eq!((&answer["authenticated"], &answer["error"]), (&json!(false), &json!(error)), "{frame}");
        assert!(answer["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{answer}");
        assert!(!answer.to_string().contains("hunter2"), "an answer repeats no key: {answer}");
        assert_eq!(code, Some(1008), "{frame}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_refused_after_five_seconds_for_now() {
    let start = std::time::Instant::now();
    let (answer, code) = refused(None).await;
    assert_eq!((&answer["error"], code), (&json!("request-timeout"), Some(1013)));
    assert!(start.elapsed().as_secs() >= 5, "not before its time: {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_no_upgrade_is_told_so() {
    let answer = reqwest::get(format!("{}/api/v1/sync", shared().await.url())).await.unwrap();
    assert_eq!(answer.status(), 426);
    assert_eq!(answer.headers()["upgrade"], "websocket");
    assert_eq!(answer.headers()["sec-websocket-version"], "13");
    assert!(answer.text().await.unwrap().contains("upgrade-required"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_socket_too_many_is_refused_and_a_closed_one_gives_its_place_back() {
    // Further gateways, which other tests start, would share the sockets.
    let plane = &DataPlane::start().await.unwrap();
    let tenant = plane.tenant("sync-full", TenantSpec { max_sockets: 2, ..ROOMY }).await.unwrap();
    let (first, _) = enter(plane, &tenant, None).await;
    let (_second, _) = enter(plane, &tenant, None).await;
    let (answer, code) = refused_by(plane, Some(&json!({ "api_key": tenant.key }).to_string())).await;
    assert_eq!((&answer["error"], code), (&json!("too-many-sockets"), Some(4003)), "{answer}");
    assert!(answer["detail"].as_str().is_some_and(|detail| detail.contains("2 sockets and event streams")), "{answer}");
    drop(first);
    eventually("the place is free again", || async {
        Socket::enter(&plane.url(), &tenant.key, None).await.ok().map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_a_tier_without_any_leave_no_room() {
    let plane = &DataPlane::start().await.unwrap();
    let tenant = plane.tenant("sync-none", TenantSpec { max_sockets: 0, ..ROOMY }).await.unwrap();
    let (answer, code) = refused_by(plane, Some(&json!({ "api_key": tenant.key }).to_string())).await;
    assert_eq!((&answer["error"], code), (&json!("too-many-sockets"), Some(4003)), "{answer}");
    assert!(answer["detail"].as_str().is_some_and(|detail| detail.contains("no sockets")), "{answer}");
    let metrics = plane.gateway.metrics().await.unwrap();
    assert!(metrics.contains("stellar_gateway_sync_rooms 0\n"), "a room stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_frames_over_4_kib_cost_no_memory() {
    const SOCKETS: u32 = 200;
    let plane = &DataPlane::start().await.unwrap();
    let (port, pid) = (plane.gateway.port, plane.gateway.pid());
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        let mut stream = raw::connect(port, Ipv4Addr::LOCALHOST, None).await.unwrap();
        raw::upgrade(&mut stream).await.unwrap();
        sockets.push(stream);
    }
    let before = harness::resident(pid).unwrap();
    // All but the last byte of the longest message.
    let begun = [raw::head(TEXT, 256 * 1024), vec![b' '; 256 * 1024 - 1]].concat();
    let mut most = before;
    for stream in &mut sockets {
        // It is closed before it is taken.
        let _ = stream.write_all(&begun).await;
        most = most.max(harness::resident(pid).unwrap());
    }
    let each = (most - before) / f64::from(SOCKETS);
    assert!(each < 20.0, "{each} KiB of memory for each socket that has shown no key");
    let (mut told, mut last) = (Vec::new(), sockets.pop().expect("a socket"));
    // Reset in the end, perhaps, for not all that it sent was read.
    let _ = last.read_to_end(&mut told).await;
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.contains("the first frame has at most 4 KiB"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_and_a_suspended_tenant_end_open_sockets() {
    let plane = shared().await;
    let tenant = roomy("sync-ended").await;
    let client = plane.client(&tenant);
    let made = client.post("/auth/api-keys", &json!({ "agent": "second" })).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text);
    let key = made.body["api_key"].as_str().or(made.body["key"].as_str()).expect("the key's text");
    let mut second = eventually("the new key opens", || async {
        Socket::enter(&plane.url(), key, None).await.ok().map(|(socket, _)| socket)
    })
    .await;
    let (mut first, _) = enter(plane, &tenant, None).await;
    let id = made.body["id"].as_str().expect("the key's id");
    assert_eq!(client.delete(&format!("/auth/api-keys/{id}")).await.unwrap().status, 200);
    assert_eq!(second.closed().await.unwrap(), Some(4001), "the key was revoked");
    let suspend = "UPDATE stellar.users SET suspended = true WHERE id = $1";
    let mut admin = plane.postgres.superuser("stellar").await.unwrap();
    sqlx::query(suspend).bind(tenant.id.uuid()).execute(&mut admin).await.unwrap();
    assert_eq!(first.closed().await.unwrap(), Some(4002), "the tenant is suspended");
    let (answer, code) = refused(Some(&json!({ "api_key": tenant.key }).to_string())).await;
    assert_eq!((&answer["error"], code), (&json!("tenant-suspended"), Some(4002)), "{answer}");
}
