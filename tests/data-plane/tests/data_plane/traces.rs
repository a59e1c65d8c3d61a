//! Traces: one request is one trace across the programs, and carries nothing that is a customer's secret.

use std::sync::{Arc, Mutex};

use harness::{DataPlane, TenantSpec, eventually, free_port};
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const TRACE: [u8; 16] = *b"\x4b\xf9\x2f\x35\x77\xb3\x4d\xa6\xa3\xce\x92\x9d\x0e\x0e\x47\x36";
const CLIENT: [u8; 8] = *b"\x00\xf0\x67\xaa\x0b\xa9\x02\xb7";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector that keeps what it gets: heads and bodies of requests, as bytes.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Vec<u8>>>>);

/// What a span of `TRACE` says of its place in it.
#[derive(Clone, Copy)]
struct Place {
    span: [u8; 8],
    parent: [u8; 8],
}

impl Collector {
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let collector = Self::default();
        let accepting = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().receive(stream));
            }
        });
        (collector, endpoint)
    }

    /// Requests of one connection; all of them have a Content-Length.
    async fn receive(self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
            let Some(head) = position(&bytes, b"\r\n\r\n") else { continue };
            let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap();
            let whole = head + 4 + length.trim().parse::<usize>().unwrap();
            if bytes.len() >= whole {
                assert!(text.starts_with("post /v1/traces ") && text.contains("application/x-protobuf"), "{text}");
                self.0.lock().unwrap().push(bytes.drain(..whole).collect());
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        }
    }

    /// The spans of `TRACE` that a service sent. In protobuf, a span begins with its fields 1 (trace), 2 (span) and
    /// 4 (parent), as field 3 (state) is empty here.
    fn places(&self, service: &str) -> Vec<Place> {
        let start = [&b"\x0a\x10"[..], &TRACE, b"\x12\x08"].concat();
        let mut places = Vec::new();
        let received = self.0.lock().unwrap();
        for request in received.iter().filter(|request| position(request, service.as_bytes()).is_some()) {
            let mut rest = &request[..];
            while let Some(at) = position(rest, &start) {
                rest = &rest[at + start.len()..];
                assert_eq!(rest[8..10], *b"\x22\x08", "a span of the trace has a parent");
                places.push(Place { span: rest[..8].try_into().unwrap(), parent: rest[10..18].try_into().unwrap() });
            }
        }
        places
    }

    fn contains(&self, text: &str) -> bool {
        self.0.lock().unwrap().iter().any(|request| position(request, text.as_bytes()).is_some())
    }
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[tokio::test]
async fn a_request_is_one_trace_from_the_client_through_gateway_and_engine_without_a_secret() {
    let (collector, endpoint) = Collector::start().await;
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    let plane = DataPlane::start_in(&environment, &[], &[]).await.unwrap();
    let tenant = plane.tenant("name-of-a-traced-tenant", TenantSpec::default()).await.unwrap();
    let content = "the orchard gate opens with the blue lever";
    let client = plane.client(&tenant);
    let request = client.request(Method::POST, "/store").header("traceparent", TRACEPARENT);
    let answer = request.json(&json!({ "content": content })).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(client.get("/recall?q=what-the-query-says").await.unwrap().status, 200);

    let (gateway, engine) = eventually("both programs' spans arrive", || async {
        Some((*collector.places("stellar-gateway").first()?, *collector.places("stellar-engine").first()?))
    })
    .await;
    assert_eq!(gateway.parent, CLIENT);
    assert_eq!(engine.parent, gateway.span);
    for told in ["POST /api/v1/store", "http.response.status_code", "free", &tenant.id.to_string(), "service.version"] {
        assert!(collector.contains(told), "{told} is in the trace");
    }
    eventually("the recall arrives too", || async { collector.contains("GET /api/v1/recall").then_some(()) }).await;
    let capability = plane.master().capability(tenant.id, 1).expose();
    for secret in [&tenant.key, &*capability, content, "orchard", "what-the-query-says", &tenant.name] {
        assert!(!collector.contains(secret), "a trace holds what nobody may read there");
    }
}

#[tokio::test]
async fn a_collector_that_is_gone_costs_no_request() {
    let endpoint = format!("http://127.0.0.1:{}", free_port().unwrap());
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    let mut plane = DataPlane::start_in(&environment, &[], &["--pre-stop-lag", "0s"]).await.unwrap();
    let tenant = plane.tenant("untraced", TenantSpec::default()).await.unwrap();
    let client = plane.client(&tenant);
    for number in 0..20 {
        let answer = client.store(&format!("memory {number} without a collector")).await.unwrap();
        assert!(answer.status < 300, "{answer:?}");
    }
    eventually("the log says so", || async { plane.gateway.log().contains("does not take traces").then_some(()) })
        .await;
    assert_eq!(client.recall("memory").await.unwrap().status, 200);
    plane.gateway.terminate().unwrap();
    let ended = eventually("the gateway ends", || {
        let ended = plane.gateway.exited();
        async move { ended }
    })
    .await;
    assert!(ended.success(), "the gateway ends well: {ended}");
}
