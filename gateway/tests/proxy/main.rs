//! The gateway between a client and an engine that misbehaves, over real sockets; the directory is built by hand and
//! there is no Postgres.

mod connections;
mod edge;
mod rates;
mod support;
mod timeouts;
mod unread;

use std::{
    collections::HashMap,
    io::{Read, Write},
    time::{Duration, Instant},
};

use axum::body::Body;
use futures::StreamExt as _;
use gateway::directory::Target;
use http::Request;
use support::{Deed, Engine, Wanted, field, gateway};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn a_request_reaches_the_engine_with_its_tenant_and_without_its_key() {
    let engine = Engine::start(&[Deed::Answer(200)]).await;
    let setup = gateway(Wanted::pooled(&engine.address.to_string())).await;
    let answer =
        setup.send("GET", "/api/v1/recall?q=a%20b", &[("x-stellar-tenant", "x"), ("x-request-id", "r-1")], "").await;
    assert_eq!((answer.status().as_u16(), answer.body().as_str()), (200, "ok"));
    assert_eq!(answer.headers()["x-request-id"], "r-1");
    assert_eq!(answer.headers()["ratelimit-policy"], "\"default\";q=1000;w=60");
    assert!(!answer.headers().contains_key("server") && !answer.headers().contains_key("x-stellar-replica"));
    let heads = engine.heads();
    assert!(heads[0].starts_with("GET /api/v1/recall?q=a%20b HTTP/1.1"), "{}", heads[0]);
    assert_eq!(field(&heads[0], "x-request-id").as_deref(), Some("r-1"));
    assert_eq!(field(&heads[0], "x-stellar-agent").as_deref(), Some("main"));
    assert_eq!(field(&heads[0], "x-stellar-capability").map(|c| c.len()), Some(64));
    assert_ne!(field(&heads[0], "x-stellar-tenant").as_deref(), Some("x"));
    assert!(field(&heads[0], "x-api-key").is_none());
}

#[tokio::test]
async fn a_store_that_the_engine_broke_off_is_repeated_under_one_idempotency_key() {
    let engine = Engine::start(&[Deed::BreakOff, Deed::BreakOff, Deed::Answer(201)]).await;
    let setup = gateway(Wanted::pooled(&engine.address.to_string())).await;
    assert_eq!(setup.store(&[]).await.status(), 201);
    let keys: Vec<_> = engine.heads().iter().map(|head| field(head, "idempotency-key")).collect();
    assert_eq!(keys.len(), 3);
    assert!(keys[0].is_some() && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test]
async fn a_clients_own_idempotency_key_is_kept() {
    let engine = Engine::start(&[Deed::BreakOff, Deed::Answer(201)]).await;
    let setup = gateway(Wanted::pooled(&engine.address.to_string())).await;
    assert_eq!(setup.store(&[("idempotency-key", "mine")]).await.status(), 201);
    assert!(engine.heads().iter().all(|head| field(head, "idempotency-key").as_deref() == Some("mine")));
}

#[tokio::test]
async fn an_engine_that_always_breaks_off_is_a_bad_gateway_in_the_end() {
    let engine = Engine::start(&[Deed::BreakOff]).await;
    let setup = gateway(Wanted::pooled(&engine.address.to_string())).await;
    let answer = setup.get("/api/v1/stats").await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert_eq!(engine.heads().len(), 4);
}

#[tokio::test]
async fn a_refused_connection_goes_to_the_next_replica() {
    let engine = Engine::start(&[Deed::Answer(200)]).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.and_then(|l| l.local_addr()).expect("a port");
    let setup = gateway(Wanted::pooled(&format!("{gone},{}", engine.address))).await;
    for _ in 0..5 {
        assert_eq!(setup.store(&[]).await.status(), 200);
    }
}

#[tokio::test]
async fn nobody_there_is_unavailable_within_the_retry_budget() {
    let gone = TcpListener::bind("127.0.0.1:0").await.and_then(|l| l.local_addr()).expect("a port");
    let setup = gateway(Wanted::pooled(&gone.to_string())).await;
    let begun = Instant::now();
    let answer = setup.get("/api/v1/stats").await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_misdirected_request_never_shows_as_421() {
    let engine = Engine::start(&[Deed::Answer(421)]).await;
    let setup = gateway(Wanted::pooled(&engine.address.to_string())).await;
    // Nobody refreshes this directory, so it cannot be verified.
    let answer = setup.get("/api/v1/stats").await;
    assert_eq!(answer.status(), 503);
}

#[tokio::test]
async fn a_misdirected_request_follows_its_tenant_to_the_new_engine() {
    let (old, new) = (Engine::start(&[Deed::Answer(421)]).await, Engine::start(&[Deed::Answer(201)]).await);
    let verified = Some(Target::Dedicated(new.address.to_string().into()));
    let setup = gateway(Wanted { verified, ..Wanted::pooled(&old.address.to_string()) }).await;
    assert_eq!(setup.store(&[]).await.status(), 201);
    assert_eq!((old.heads().len(), new.heads().len()), (1, 1));
}

#[tokio::test]
async fn a_dedicated_tenant_goes_to_its_own_engine() {
    let (pool, own) = (Engine::start(&[Deed::Answer(200)]).await, Engine::start(&[Deed::Answer(200)]).await);
    let target = Target::Dedicated(own.address.to_string().into());
    let setup = gateway(Wanted { target, ..Wanted::pooled(&pool.address.to_string()) }).await;
    assert_eq!(setup.get("/api/v1/stats").await.status(), 200);
    assert_eq!((pool.heads().len(), own.heads().len()), (0, 1));
}

#[tokio::test]
async fn the_request_after_the_quota_is_refused_and_told_when_to_return() {
    let engine = Engine::start(&[Deed::Answer(200)]).await;
    let setup = gateway(Wanted { requests_per_minute: 3, ..Wanted::pooled(&engine.address.to_string()) }).await;
    for left in ["2", "1", "0"] {
        assert_eq!(setup.get("/api/v1/stats").await.headers()["x-ratelimit-remaining"], left);
    }
    let answer = setup.get("/api/v1/stats").await;
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "20");
    assert_eq!(engine.heads().len(), 3);
}

#[tokio::test]
async fn wrong_keys_answer_alike_until_there_are_too_many() {
    let engine = Engine::start(&[Deed::Answer(200)]).await;
    let setup = gateway(Wanted::pooled(&engine.address.to_string())).await;
    let mut statuses = HashMap::new();
    for _ in 0..8 {
        let answer =
            setup.raw("GET /api/v1/stats HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\nconnection: close\r\n\r\n").await;
        *statuses.entry(answer.get(9..12).unwrap_or_default().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(statuses, HashMap::from([("401".to_owned(), 5), ("429".to_owned(), 3)]));
    assert_eq!(setup.get("/api/v1/stats").await.status(), 200, "who has a key is not counted");
}

#[tokio::test]
async fn malformed_hosts_are_refused() {
    let setup = gateway(Wanted::pooled("127.0.0.1:1")).await;
    for request in [
        "GET /health HTTP/1.1\r\nconnection: close\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n",
    ] {
        assert!(setup.raw(request).await.starts_with("HTTP/1.1 400"), "{request}");
    }
    assert!(
        setup.raw("GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn half_a_head_is_cut_off_and_a_resting_connection_is_not() {
    let flags = ["--header-timeout", "200ms", "--keep-alive", "30s"];
    let setup = gateway(Wanted { flags: &flags, ..Wanted::pooled("127.0.0.1:1") }).await;
    let begun = Instant::now();
    for half in ["", "GET /health HT", "GET /health HTTP/1.1\r\nhost: a\r\n", "PRI * HT"] {
        assert_eq!(setup.raw(half).await, "", "{half}");
    }
    assert!(begun.elapsed() < Duration::from_secs(8));

    let address = setup.address;
    let rest = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).expect("connected");
        let mut buffer = [0; 4096];
        for _ in 0..2 {
            stream.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n").expect("sent");
            assert!(stream.read(&mut buffer).expect("an answer") > 0);
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    rest.await.expect("the connection lives through a rest");
}

#[tokio::test]
async fn bodies_are_bounded_with_and_without_a_length() {
    let engine = Engine::start(&[Deed::Answer(200)]).await;
    let setup = gateway(Wanted::pooled(&engine.address.to_string())).await;
    let large: &'static str = Box::leak("x".repeat(4 * 1024 * 1024).into_boxed_str());
    assert_eq!(setup.send("POST", "/api/v1/store", &[], large).await.status(), 413);
    let parts: Vec<Result<&'static str, std::io::Error>> = (0..100).map(|_| Ok(&large[..30 * 1024])).collect();
    let request = Request::builder().method("POST").uri(format!("http://{}/api/v1/store", setup.address));
    let request = request.header("x-api-key", setup.key.expose());
    let request = request.body(Body::from_stream(futures::stream::iter(parts))).expect("a request");
    assert_eq!(setup.client.request(request).await.expect("an answer").status(), 413);
    let nobody = Request::builder().method("POST").uri(format!("http://{}/api/v1/store", setup.address));
    let answer = setup.client.request(nobody.body(Body::from(large)).expect("a request")).await;
    assert_eq!(answer.expect("an answer, though the body was not read").status(), 401);
}

#[tokio::test]
async fn a_download_breaks_off_when_its_key_ends() {
    let engine = Engine::start(&[Deed::Begin]).await;
    let key_lasts = Some(Duration::from_secs(2));
    let setup = gateway(Wanted { key_lasts, ..Wanted::pooled(&engine.address.to_string()) }).await;
    let begun = Instant::now();
    let request = Request::builder()
        .uri(format!("http://{}/api/v1/export", setup.address))
        .header("x-api-key", setup.key.expose())
        .body(Body::empty())
        .expect("a request");
    let mut parts = Body::new(setup.client.request(request).await.expect("an answer").into_body()).into_data_stream();
    let first = parts.next().await.expect("a part").expect("no error");
    assert!(first.starts_with(b"line"), "{first:?}");
    let end = tokio::time::timeout(Duration::from_secs(15), parts.next()).await.expect("it ends");
    assert!(matches!(end, Some(Err(_))), "what is not whole must not look whole");
    assert!(begun.elapsed() >= Duration::from_millis(1900), "not before its time");
}

#[tokio::test]
async fn keys_and_usage_are_unavailable_without_postgres_and_memories_are_not() {
    let engine = Engine::start(&[Deed::Answer(200)]).await;
    let setup = gateway(Wanted::pooled(&engine.address.to_string())).await;
    assert_eq!(setup.get("/api/v1/auth/usage").await.status(), 503);
    assert_eq!(setup.get("/api/v1/recall?q=x").await.status(), 200);
}

#[tokio::test]
async fn a_leaving_gateway_asks_for_another_connection_and_finishes_what_it_has() {
    let engine = Engine::start(&[Deed::Answer(200)]).await;
    let setup = gateway(Wanted::pooled(&engine.address.to_string())).await;
    setup.ending.leaving.cancel();
    let answer = setup.get("/api/v1/stats").await;
    assert_eq!((answer.status().as_u16(), answer.headers()["connection"].as_bytes()), (200, &b"close"[..]));
    setup.ending.stop.cancel();
    tokio::task::yield_now().await;
    let gone = async {
        while TcpStream::connect(setup.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("nothing is accepted any more");
}
