//! Codings and web pages, through all of it.

use std::time::Duration;

use harness::{DataPlane, TenantSpec};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{shared, tenant};

#[tokio::test(flavor = "multi_thread")]
async fn a_large_list_is_compressed_and_an_event_stream_is_not() {
    let client = shared().await.client(&tenant("compressed").await);
    client.opens().await;
    for n in 0..20 {
        let text = format!("note {n}: {}", "all work and no play ".repeat(20));
        assert_eq!(client.store(&text).await.unwrap().status, 201);
    }
    let plain = client.get("/memories").await.unwrap().text.len();
    for coding in ["gzip", "br"] {
        let list = client.request(Method::GET, "/memories").header("accept-encoding", coding).send().await.unwrap();
        assert_eq!(list.headers()["content-encoding"], coding);
        assert_eq!(list.headers()["vary"], "accept-encoding");
        let packed = list.bytes().await.unwrap().len();
        assert!(packed * 5 < plain, "{coding}: {packed} of {plain} bytes");
    }
    let small =
        client.request(Method::GET, "/recall?q=nothing").header("accept-encoding", "gzip").send().await.unwrap();
    assert!(!small.headers().contains_key("content-encoding"));
    let events = client.request(Method::GET, "/events?since=19").header("accept-encoding", "gzip, br");
    let mut events = events.send().await.unwrap();
    assert!(!events.headers().contains_key("content-encoding"));
    let mut heard = String::new();
    while !heard.contains("id: 20\n") {
        let more = tokio::time::timeout(Duration::from_secs(10), events.chunk()).await.expect("it comes at once");
        heard += &String::from_utf8_lossy(&more.unwrap().expect("the stream goes on"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_of_a_compressed_list_tells_no_other_length_than_get() {
    let plane = shared().await;
    let spec = TenantSpec { max_api_keys: 20, ..TenantSpec::default() };
    let client = plane.client(&plane.tenant("head", spec).await.unwrap());
    client.opens().await;
    for n in 0..12 {
        let made = client.post("/auth/api-keys", &json!({ "agent": "default" })).await.unwrap();
        assert_eq!(made.status, 201, "{}", made.text);
        assert_eq!(client.store(&format!("note {n}")).await.unwrap().status, 201);
    }
    for path in ["/auth/api-keys", "/memories"] {
        let ask = |method| client.request(method, path).header("accept-encoding", "br").send();
        let (get, head) = (ask(Method::GET).await.unwrap(), ask(Method::HEAD).await.unwrap());
        assert_eq!((get.status().as_u16(), head.status().as_u16()), (200, 200), "{path}");
        assert_eq!(get.headers()["content-encoding"], "br", "{path}");
        let length = head.headers().get("content-length");
        assert!(length.is_none() || length == get.headers().get("content-length"), "{path}: {length:?}");
    }
}

/// `{"content": "remembered in gzip"}`, by gzip.
const PACKED: &str = "H4sIAAAAAAAC/6tWSs7PK0nNK1GyUlAqSs1NzU1KLUpNUcjMU0ivyixQqgUAwAztICEAAAA=";

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_memory_is_stored_plain() {
    let client = shared().await.client(&tenant("packed").await);
    client.opens().await;
    let body = base64_of(PACKED);
    let store = || client.request(Method::POST, "/store").header("content-type", "application/json");
    let stored = store().header("content-encoding", "gzip").body(body.clone()).send().await.unwrap();
    assert_eq!(stored.status(), 201, "{}", stored.text().await.unwrap());
    let found = client.recall("remembered gzip").await.unwrap();
    assert_eq!(found.body[0]["content"], json!("remembered in gzip"), "{}", found.text);
    let undeclared = store().body(body).send().await.unwrap();
    assert_eq!(undeclared.status(), 400);
}

/// Few bytes, so by hand.
fn base64_of(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(value).collect();
    let mut bytes = Vec::new();
    for part in digits.chunks(4) {
        let bits = part.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit)) << (6 * (4 - part.len()));
        bytes.extend(&bits.to_be_bytes()[1..part.len()]);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_configured_origin_uses_the_api() {
    let plane = DataPlane::start_with(&[], &["--cors-origin", "https://app.example.org"]).await.unwrap();
    let client = plane.client(&plane.tenant("page", TenantSpec::default()).await.unwrap());
    client.opens().await;
    let asked = reqwest::Client::new()
        .request(Method::OPTIONS, format!("{}/api/v1/store", plane.url()))
        .header("origin", "https://app.example.org")
        .header("access-control-request-method", "POST")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (asked.status().as_u16(), &asked.headers()["access-control-allow-methods"]),
        (204, &"POST".parse().unwrap())
    );
    let stored = client.request(Method::POST, "/store").header("origin", "https://app.example.org");
    let stored = stored.json(&json!({ "content": "from a page" })).send().await.unwrap();
    assert_eq!(stored.headers()["access-control-allow-origin"], "https://app.example.org");
    assert!(stored.json::<Value>().await.unwrap()["id"].is_string());
}
