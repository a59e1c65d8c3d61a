//! The edge of the contract: codings of bodies, web pages of other sites, the description and its page.

use std::time::{Duration, Instant};

use async_compression::tokio::bufread::{BrotliDecoder, BrotliEncoder, GzipDecoder, GzipEncoder, ZlibEncoder};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::support::{Deed, Engine, Wanted, field, gateway};

const JSON: Deed = Deed::Large("content-type: application/json\r\netag: \"7\"");
const APP: &str = "https://app.example.org";

async fn all(mut reader: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.expect("it is sound");
    bytes
}

#[tokio::test]
async fn a_large_answer_comes_in_the_coding_that_the_client_wants() {
    let engine = Engine::start(&[JSON]).await;
    let setup = gateway(Wanted::pooled(&engine.address.to_string())).await;
    let key = ("x-api-key", setup.key.expose());
    for (accepts, coding) in [("gzip", Some("gzip")), ("gzip, br", Some("br")), ("identity", None), ("gzip;q=0", None)]
    {
        let headers = [key, ("accept-encoding", accepts)];
        let answer = setup.send_bytes("GET", "/api/v1/memories", &headers, vec![]).await;
        assert_eq!(answer.headers().get("content-encoding").map(|c| c.to_str().expect("text")), coding, "{accepts}");
        assert_eq!(answer.headers()["vary"], "accept-encoding");
        let plain = match coding {
            Some("gzip") => all(GzipDecoder::new(&answer.body()[..])).await,
            Some(_) => all(BrotliDecoder::new(&answer.body()[..])).await,
            None => answer.body().clone(),
        };
        assert!(plain == "x".repeat(9000).into_bytes(), "{accepts}");
        assert_eq!(answer.headers()["etag"], if coding.is_some() { "W/\"7\"" } else { "\"7\"" });
    }
    let head = setup.send_bytes("HEAD", "/api/v1/memories", &[key, ("accept-encoding", "br")], vec![]).await;
    assert!(!head.headers().contains_key("content-encoding"));
    assert!(!head.headers().contains_key("content-length"), "the answer to GET is compressed, and shorter");
    assert!(engine.heads().iter().all(|head| field(head, "accept-encoding").is_none()));
}

#[tokio::test]
async fn a_compressed_body_reaches_the_engine_plain() {
    let engine = Engine::start(&[Deed::Answer(201)]).await;
    let setup = gateway(Wanted::pooled(&engine.address.to_string())).await;
    let plain = format!("{{\"content\": \"{}\"}}", "remember ".repeat(1000)).into_bytes();
    let bodies = [
        ("gzip", all(GzipEncoder::new(&plain[..])).await),
        ("deflate", all(ZlibEncoder::new(&plain[..])).await),
        ("br", all(BrotliEncoder::new(&plain[..])).await),
    ];
    for (coding, body) in bodies {
        let headers = [("x-api-key", setup.key.expose()), ("content-encoding", coding)];
        assert_eq!(setup.send_bytes("POST", "/api/v1/store", &headers, body).await.status(), 201, "{coding}");
    }
    assert!(engine.bodies.lock().expect("no panic").iter().all(|body| *body == plain));
    for head in engine.heads() {
        assert_eq!(field(&head, "content-length"), Some(plain.len().to_string()));
        assert_eq!(field(&head, "content-encoding"), None);
    }
}

#[tokio::test]
async fn a_bomb_is_refused_before_it_goes_off_and_other_codings_are_told_what_is_taken() {
    let engine = Engine::start(&[Deed::Answer(201)]).await;
    let setup = gateway(Wanted::pooled(&engine.address.to_string())).await;
    let zeros = vec![0; 200 * 1024 * 1024];
    let bombs = [("gzip", all(GzipEncoder::new(&zeros[..])).await), ("br", all(BrotliEncoder::new(&zeros[..])).await)];
    let (begun, mut refused) = (Instant::now(), 0);
    for (coding, bomb) in bombs {
        assert!(bomb.len() < 256 * 1024, "{coding}: it would be refused by its own length");
        let headers = [("x-api-key", setup.key.expose()), ("content-encoding", coding)];
        let answer = setup.send_bytes("POST", "/api/v1/store", &headers, bomb).await;
        assert_eq!(answer.status(), 413, "{coding}");
        refused += 1;
    }
    // 200 MiB would take longer than this; 256 KiB take a millisecond.
    assert!(begun.elapsed() < Duration::from_secs(2) && refused == 2);
    for coding in ["zstd", "gzip, gzip", "compress"] {
        let answer = setup.store(&[("content-encoding", coding)]).await;
        assert_eq!(
            (answer.status().as_u16(), answer.headers()["accept-encoding"].as_bytes()),
            (415, &b"gzip, deflate, br"[..])
        );
        assert!(answer.body().contains("unsupported-media-type"), "{}", answer.body());
    }
    let broken = setup.store(&[("content-encoding", "gzip")]).await;
    assert_eq!(broken.status(), 400);
    assert!(engine.heads().is_empty(), "none of them reached the engine");
}

#[tokio::test]
async fn a_page_of_a_configured_origin_may_ask_and_read() {
    let engine = Engine::start(&[Deed::Answer(200)]).await;
    let flags = ["--cors-origin", APP, "--cors-origin", "http://localhost:3000"];
    let pooled = engine.address.to_string();
    let setup = gateway(Wanted { requests_per_minute: 1, flags: &flags, ..Wanted::pooled(&pooled) }).await;
    // Without a key, and more often than the rate allows.
    for _ in 0..5 {
        let asked = [
            ("origin", APP),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "x-api-key"),
        ];
        let preflight = setup.send_bytes("OPTIONS", "/api/v1/store", &asked, vec![]).await;
        assert_eq!(preflight.status(), 204);
        let told = |name: &str| preflight.headers()[name].to_str().expect("text");
        assert_eq!(told("access-control-allow-origin"), APP);
        assert_eq!(told("access-control-allow-methods"), "POST");
        let allowed = told("access-control-allow-headers").to_ascii_lowercase();
        for name in [
            "x-api-key",
            "authorization",
            "content-type",
            "idempotency-key",
            "if-none-match",
            "last-event-id",
            "x-request-id",
            "traceparent",
        ] {
            assert!(allowed.split(", ").any(|allowed| allowed == name), "{name}");
        }
        assert_eq!(told("access-control-max-age"), "7200");
    }
    let answer = setup.send("GET", "/api/v1/stats", &[("origin", APP)], "").await;
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["access-control-allow-origin"].as_bytes()),
        (200, APP.as_bytes())
    );
    let exposed = answer.headers()["access-control-expose-headers"].to_str().expect("text").to_ascii_lowercase();
    for name in ["ratelimit", "ratelimit-policy", "retry-after", "etag", "x-request-id", "idempotency-replayed"] {
        assert!(exposed.split(", ").any(|exposed| exposed == name), "{name}");
    }
    assert!(!answer.headers().contains_key("access-control-allow-credentials"));
    assert!(engine.heads().iter().all(|head| field(head, "origin").is_none()));
    // What is refused can be read too, or a page could not tell why.
    let refused = setup.send("GET", "/api/v1/stats", &[("origin", APP)], "").await;
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key("access-control-allow-origin")), (429, true));
}

#[tokio::test]
async fn a_page_of_another_origin_reads_nothing() {
    let engine = Engine::start(&[Deed::Answer(200)]).await;
    for flags in [&[][..], &["--cors-origin", APP]] {
        let setup = gateway(Wanted { flags, ..Wanted::pooled(&engine.address.to_string()) }).await;
        for origin in ["https://evil.example", "null", "https://app.example.org.evil.example", "http://app.example.org"]
        {
            let answer = setup.send("GET", "/api/v1/stats", &[("origin", origin)], "").await;
            assert!(!answer.headers().contains_key("access-control-allow-origin"), "{origin}");
            assert_eq!(answer.headers().contains_key("vary"), !flags.is_empty());
            let asked = [("origin", origin), ("access-control-request-method", "POST")];
            let preflight = setup.send_bytes("OPTIONS", "/api/v1/store", &asked, vec![]).await;
            assert_eq!(preflight.status(), if flags.is_empty() { 405 } else { 204 });
            assert!(!preflight.headers().keys().any(|name| name.as_str().starts_with("access-control-")), "{origin}");
        }
    }
}

#[tokio::test]
async fn a_preflight_of_what_does_not_exist_is_not_found() {
    let flags = ["--cors-origin", "*"];
    let setup = gateway(Wanted { flags: &flags, ..Wanted::pooled("127.0.0.1:1") }).await;
    let asked = [("origin", APP), ("access-control-request-method", "GET")];
    let preflight = setup.send_bytes("OPTIONS", "/api/v1/nothing", &asked, vec![]).await;
    assert_eq!(preflight.status(), 404);
    let plain = setup.send_bytes("OPTIONS", "/api/v1/store", &[], vec![]).await;
    assert_eq!(plain.status(), 405, "it is no preflight");
}

#[tokio::test]
async fn the_description_and_its_page_are_there_for_everybody() {
    let setup = gateway(Wanted::pooled("127.0.0.1:1")).await;
    let document = setup.send_bytes("GET", "/openapi.json", &[], vec![]).await;
    assert_eq!(
        (document.status().as_u16(), document.headers()["content-type"].as_bytes()),
        (200, &b"application/json"[..])
    );
    let document: serde_json::Value = serde_json::from_slice(document.body()).expect("JSON");
    assert_eq!(document["openapi"], "3.1.0");
    let packed = setup.send_bytes("GET", "/openapi.json", &[("accept-encoding", "gzip, br")], vec![]).await;
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    let unpacked = all(GzipDecoder::new(&packed.body()[..])).await;
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&unpacked).expect("JSON"), document);
    let tag = packed.headers()["etag"].to_str().expect("text").to_owned();
    let known = setup.send_bytes("GET", "/openapi.json", &[("if-none-match", &tag)], vec![]).await;
    assert_eq!((known.status().as_u16(), known.body().len()), (304, 0));

    let page = setup.send_bytes("GET", "/docs", &[], vec![]).await;
    assert_eq!(
        (page.status().as_u16(), page.headers()["content-type"].as_bytes()),
        (200, &b"text/html; charset=utf-8"[..])
    );
    let policy = page.headers()["content-security-policy"].to_str().expect("text");
    assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
    for (file, kind, within) in [
        ("swagger-ui-bundle.js", "text/javascript; charset=utf-8", &b"SwaggerUIBundle"[..]),
        ("swagger-ui.css", "text/css; charset=utf-8", b".swagger-ui"),
        ("start.js", "text/javascript; charset=utf-8", b"SwaggerUIBundle("),
        ("favicon-32x32.png", "image/png", b"PNG"),
    ] {
        let path = format!("/docs/{file}");
        let plain = setup.send_bytes("GET", &path, &[], vec![]).await;
        assert_eq!(
            (plain.status().as_u16(), plain.headers()["content-type"].as_bytes()),
            (200, kind.as_bytes()),
            "{file}"
        );
        assert_eq!(plain.headers()["x-content-type-options"], "nosniff");
        assert!(plain.body().windows(within.len()).any(|window| window == within), "{file}");
        let packed = setup.send_bytes("GET", &path, &[("accept-encoding", "gzip")], vec![]).await;
        let unpacked = match packed.headers().get("content-encoding") {
            Some(coding) => {
                assert_eq!(coding, "gzip");
                all(GzipDecoder::new(&packed.body()[..])).await
            }
            None => packed.body().clone(),
        };
        assert!(unpacked == *plain.body(), "{file}");
        if let Some(tag) = plain.headers().get("etag") {
            let tag = [("if-none-match", tag.to_str().expect("text"))];
            let again = setup.send_bytes("GET", &path, &tag, vec![]).await;
            assert_eq!((again.status().as_u16(), again.body().len()), (304, 0), "{file}");
        }
    }
    assert_eq!(setup.send_bytes("GET", "/docs/index.html", &[], vec![]).await.status(), 404);
}

#[tokio::test]
async fn head_tells_no_other_length_than_that_of_get() {
    let setup = gateway(Wanted::pooled("127.0.0.1:1")).await;
    for path in ["/openapi.json", "/docs", "/docs/start.js", "/docs/swagger-ui.css", "/health", "/nothing"] {
        for accepts in ["identity", "gzip", "br"] {
            let headers = [("accept-encoding", accepts)];
            let get = setup.send_bytes("GET", path, &headers, vec![]).await;
            let head = setup.send_bytes("HEAD", path, &headers, vec![]).await;
            for name in ["content-type", "cache-control", "etag"] {
                assert_eq!(head.headers().get(name), get.headers().get(name), "{path} {accepts} {name}");
            }
            let told = head.headers().get("content-length").map(|length| length.to_str().expect("text"));
            assert_eq!(head.status(), get.status(), "{path} {accepts}");
            assert!(told.is_none_or(|told| told == get.body().len().to_string()), "{path} {accepts}: {told:?}");
        }
    }
    let head = setup.raw("HEAD /openapi.json HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "no body follows: {head}");
}

#[tokio::test]
async fn a_page_opens_a_socket_when_its_origin_is_configured() {
    let socket = |origin: Option<&'static str>| {
        let mut headers = vec![
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        headers.extend(origin.map(|origin| ("origin", origin)));
        headers
    };
    for (flags, origin, status) in [
        (&[][..], None, 101),
        (&[], Some(APP), 403),
        (&["--cors-origin", APP], None, 101),
        (&["--cors-origin", APP], Some(APP), 101),
        (&["--cors-origin", APP], Some("https://evil.example"), 403),
        (&["--cors-origin", APP], Some("null"), 403),
        (&["--cors-origin", "*"], Some("https://any.example"), 101),
    ] {
        let setup = gateway(Wanted { flags, ..Wanted::pooled("127.0.0.1:1") }).await;
        let head =
            socket(origin).iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<Vec<_>>().concat();
        let answer = setup.head_of(&format!("GET /api/v1/sync HTTP/1.1\r\nhost: x\r\n{head}\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{flags:?} {origin:?}: {answer}");
        assert_eq!(answer.contains("origin-not-allowed"), status == 403, "{answer}");
    }
}
