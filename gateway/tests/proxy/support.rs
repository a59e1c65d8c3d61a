//! A scripted engine, and a gateway whose directory is built by hand.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use axum::body::Body;
use clap::Parser;
use gateway::{
    client_address::FailureLimits,
    config::Config,
    directory::{Directory, KeyHolder, Rows, Target, TenantRow},
    key_use::KeyUses,
    metrics::Metrics,
    presence::Presence,
    proxy::Proxy,
    router::Gateway,
    server::{self, Ending, Rules},
};
use http::{Request, Response};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tenancy::{ApiKey, MasterKey, TenantId};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

/// What an engine does with its nth connection or request.
#[derive(Clone, Copy)]
pub enum Deed {
    /// Answers this status.
    Answer(u16),
    /// Reads the request and closes without a word.
    BreakOff,
    /// Sends one event and keeps the stream open.
    Event,
}

/// A scripted engine: HTTP/1.1, a request a connection, deeds in order, the last one for ever.
pub struct Engine {
    pub address: SocketAddr,
    pub heads: Arc<Mutex<Vec<String>>>,
}

impl Engine {
    pub async fn start(deeds: &'static [Deed]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = heads.clone();
        let turn = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, deeds, turn.clone(), seen.clone()));
            }
        });
        Self { address, heads }
    }

    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panic").clone()
    }
}

async fn converse(
    mut stream: TcpStream,
    deeds: &'static [Deed],
    turn: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    let end = loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => request.extend_from_slice(&buffer[..n]),
        }
        if let Some(end) = request.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
    };
    let head = String::from_utf8_lossy(&request[..end]).into_owned();
    let length = field(&head, "content-length").and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
    while request.len() < end + 4 + length {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => request.extend_from_slice(&buffer[..n]),
        }
    }
    while field(&head, "transfer-encoding").is_some() && !request.ends_with(b"\r\n0\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => request.extend_from_slice(&buffer[..n]),
        }
    }
    seen.lock().expect("no panic").push(head);
    let n = turn.fetch_add(1, Ordering::SeqCst).min(deeds.len() - 1);
    if let Deed::Event = deeds[n] {
        let event =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n7\r\ndata: 1\r\n";
        let _ = stream.write_all(event.as_bytes()).await;
        let _ = stream.read(&mut buffer).await;
    }
    if let Deed::Answer(status) = deeds[n] {
        let answer = format!(
            "HTTP/1.1 {status} X\r\nserver: inside\r\nx-stellar-replica: r1\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
        );
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

pub fn field(head: &str, name: &str) -> Option<String> {
    let prefix = format!("{name}:");
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&prefix))?;
    Some(line[prefix.len()..].trim().to_owned())
}

pub struct Setup {
    pub address: SocketAddr,
    pub key: ApiKey,
    pub ending: Ending,
    pub client: Client<hyper_util::client::legacy::connect::HttpConnector, Body>,
}

pub struct Wanted<'a> {
    pub pooled: &'a str,
    pub target: Target,
    pub requests_per_minute: u32,
    pub flags: &'a [&'a str],
    /// Where Postgres says that the tenant is when it is asked again.
    pub verified: Option<Target>,
}

impl Wanted<'_> {
    pub fn pooled(pooled: &str) -> Wanted<'_> {
        Wanted { pooled, target: Target::Pooled, requests_per_minute: 1000, flags: &[], verified: None }
    }
}

pub async fn gateway(wanted: Wanted<'_>) -> Setup {
    let Wanted { pooled, target, requests_per_minute, flags, verified } = wanted;
    let arguments = ["gateway", "--master-key-file", "unused", "--pooled-engine", pooled, "--retry-budget", "500ms"];
    let config = Config::parse_from(arguments.iter().chain(flags));
    let key = ApiKey::generate();
    let id = TenantId::new(Uuid::new_v4()).expect("not nil");
    let holder = KeyHolder { tenant: id, agent: "main".into(), key_id: Uuid::new_v4(), expires_at: None };
    let rows = |target| {
        let tenant = TenantRow {
            id,
            tier: "free".to_owned(),
            target,
            suspended: false,
            requests_per_minute,
            capability_generation: 1,
        };
        Rows { tenants: vec![tenant], keys: vec![(key.hash(), holder.clone())] }
    };
    let directory = match verified {
        None => Directory::fixed(MasterKey::generate(), rows(target)),
        Some(later) => {
            let (directory, refresher) = Directory::corrected(MasterKey::generate(), rows(target), rows(later));
            tokio::spawn(refresher);
            directory
        }
    };
    let metrics = Arc::new(Metrics::default());
    let ending = Ending::default();
    let proxy =
        Proxy::new(pooled.into(), config.times.clone(), directory.clone(), metrics.clone(), ending.stop.clone());
    let nowhere = sqlx::postgres::PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:1/x").expect("a URL");
    let gateway = Gateway {
        directory,
        proxy,
        pool: nowhere,
        metrics: metrics.clone(),
        presence: Arc::new(Presence::new(metrics.clone())),
        key_uses: Arc::new(KeyUses::default()),
        failures: FailureLimits::new(5),
        started: Instant::now(),
        times: config.times.clone(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let rules = Rules { limits: config.clients, times: config.times, metrics: Some(metrics) };
    tokio::spawn(server::serve(listener, Arc::new(gateway), rules, ending.clone()));
    Setup { address, key, ending, client: Client::builder(TokioExecutor::new()).build_http() }
}

impl Setup {
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &'static str,
    ) -> Response<String> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        request = request.header("x-api-key", self.key.expose());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).expect("a request");
        let (parts, body) = self.client.request(request).await.expect("an answer").into_parts();
        let body = axum::body::to_bytes(Body::new(body), usize::MAX).await.expect("a body");
        Response::from_parts(parts, String::from_utf8_lossy(&body).into_owned())
    }

    pub async fn events(&self) -> axum::body::BodyDataStream {
        let request = Request::builder().uri(format!("http://{}/api/v1/events", self.address));
        let request = request.header("x-api-key", self.key.expose()).body(Body::empty()).expect("a request");
        Body::new(self.client.request(request).await.expect("an answer").into_body()).into_data_stream()
    }

    pub async fn get(&self, path: &str) -> Response<String> {
        self.send("GET", path, &[], "").await
    }

    pub async fn store(&self, headers: &[(&str, &str)]) -> Response<String> {
        self.send("POST", "/api/v1/store", headers, "{\"content\":\"x\"}").await
    }

    /// Sends bytes as they are and returns all that comes until the gateway closes.
    pub async fn raw(&self, bytes: &'static str) -> String {
        let address = self.address;
        let talk = move || {
            let mut stream = std::net::TcpStream::connect(address).expect("connected");
            stream.write_all(bytes.as_bytes()).expect("sent");
            let mut answer = String::new();
            // A reset after the answer is an end too.
            let _ = stream.read_to_string(&mut answer);
            answer
        };
        tokio::task::spawn_blocking(talk).await.expect("no panic")
    }
}
