//! A collector of traces that keeps whatever it is sent.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::status::StatusCode,
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Takes OTLP over HTTP on a port of 127.0.0.1, as long as the runtime lives that it was started in.
#[derive(Clone)]
pub struct Collector {
    endpoint: String,
    received: Arc<Mutex<Received>>,
}

#[derive(Default)]
struct Received {
    /// Heads and bodies of all requests.
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

/// A span that has arrived.
#[derive(Clone, Debug)]
pub struct Span {
    /// What the program that sent it is called.
    pub service: String,
    /// Its name.
    pub name: String,
    /// The trace that it is part of, 16 bytes.
    pub trace: Vec<u8>,
    /// Its own id, 8 bytes.
    pub id: Vec<u8>,
    /// The id of the span that it is part of; empty when it begins the trace.
    pub parent: Vec<u8>,
    /// Those of its attributes that are text.
    pub attributes: BTreeMap<String, String>,
    /// What its status says, if that is an error.
    pub error: Option<String>,
}

impl Collector {
    /// Begins to listen.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen as a collector")?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let collector = Self { endpoint, received: Arc::default() };
        let accepting = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().receive(stream));
            }
        });
        Ok(collector)
    }

    /// The variables with which a program sends its traces here, soon after they end.
    pub fn environment(&self) -> [(&str, &str); 2] {
        [("OTEL_EXPORTER_OTLP_ENDPOINT", &*self.endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "50")]
    }

    /// The spans that have arrived.
    pub fn spans(&self) -> Vec<Span> {
        self.received.lock().expect("nobody panics with it").spans.clone()
    }

    /// All that has arrived, as it was sent.
    pub fn bytes(&self) -> Vec<u8> {
        self.received.lock().expect("nobody panics with it").bytes.clone()
    }

    /// Whether a text is anywhere in what has arrived.
    pub fn contains(&self, text: &str) -> bool {
        self.bytes().windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// Requests of one connection; all of them have a Content-Length.
    async fn receive(self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let whole = end + 4 + length.unwrap_or(0_usize);
            if bytes.len() >= whole {
                assert!(head.starts_with("post /v1/traces ") && head.contains("application/x-protobuf"), "{head}");
                let request: Vec<u8> = bytes.drain(..whole).collect();
                self.keep(&request, spans(&request[end + 4..]));
                if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                    return;
                }
            }
        }
    }

    fn keep(&self, request: &[u8], spans: Vec<Span>) {
        let mut received = self.received.lock().expect("nobody panics with it");
        received.bytes.extend_from_slice(request);
        received.spans.extend(spans);
    }
}

fn spans(body: &[u8]) -> Vec<Span> {
    let export = ExportTraceServiceRequest::decode(body).expect("a body of OTLP");
    let mut spans = Vec::new();
    for sent in export.resource_spans {
        let resource = texts(sent.resource.unwrap_or_default().attributes);
        let service = resource.get("service.name").cloned().unwrap_or_default();
        spans.extend(sent.scope_spans.into_iter().flat_map(|scope| scope.spans).map(|span| Span {
            service: service.clone(),
            name: span.name,
            trace: span.trace_id,
            id: span.span_id,
            parent: span.parent_span_id,
            attributes: texts(span.attributes),
            error: span.status.filter(|status| status.code() == StatusCode::Error).map(|status| status.message),
        }));
    }
    spans
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |attribute: KeyValue| {
        let Value::StringValue(text) = attribute.value?.value? else { return None };
        Some((attribute.key, text))
    };
    attributes.into_iter().filter_map(text).collect()
}
