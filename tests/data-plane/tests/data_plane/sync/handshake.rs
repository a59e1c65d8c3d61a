//! Who is let in, and what the others are told.

use harness::{DataPlane, Heard, Socket, TenantSpec, eventually};
use serde_json::{Value, json};

use super::{ROOMY, enter, roomy};
use crate::shared;

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
async fn silence_is_refused_after_five_seconds() {
    let start = std::time::Instant::now();
    let (answer, code) = refused(None).await;
    assert_eq!((&answer["error"], code), (&json!("missing-api-key"), Some(1008)));
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
    drop(first);
    eventually("the place is free again", || async {
        Socket::enter(&plane.url(), &tenant.key, None).await.ok().map(drop)
    })
    .await;
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
