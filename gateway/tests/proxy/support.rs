//! A scripted engine, and a gateway whose directory is built by hand.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::body::Body;
use clap::Parser;
use gateway::{
    client_address::FailureLimits,
    config::Config,
    cors::Cors,
    directory::{Directory, KeyHolder, Rows, Target, TenantRow},
    key_use::KeyUses,
    metrics::Metrics,
    presence::Presence,
    proxy::Proxy,
    rooms::Engines,
    router::Gateway,
    server::{self, Ending, Rules},
};
use http::{Request, Response};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use sync::Rooms;
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
    /// Answers 200 to a request that carried so many operations.
    Carried(u32),
    /// Reads the request and closes without a word.
    BreakOff,
    /// Begins an answer and says no more, nor closes.
    Begin,
    /// Answers 200 with a head as given and 9,000 bytes.
    Large(&'static str),
    /// Reads the request and neither answers nor closes.
    Silent,
}

/// A scripted engine: HTTP/1.1, a request a connection, deeds in order, the last one for ever.
pub struct Engine {
    pub address: SocketAddr,
    pub heads: List<String>,
    /// Bytes of each request's body, as they came.
    pub bodies: List<Vec<u8>>,
}

impl Engine {
    pub async fn start(deeds: &'static [Deed]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let heads = List::<String>::default();
        let bodies = List::<Vec<u8>>::default();
        let seen = (heads.clone(), bodies.clone());
        let turn = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, deeds, turn.clone(), seen.clone()));
            }
        });
        Self { address, heads, bodies }
    }

    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panic").clone()
    }
}

type List<T> = Arc<Mutex<Vec<T>>>;

async fn converse(
    mut stream: TcpStream,
    deeds: &'static [Deed],
    turn: Arc<AtomicUsize>,
    (heads, bodies): (List<String>, List<Vec<u8>>),
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
    heads.lock().expect("no panic").push(head);
    bodies.lock().expect("no panic").push(request[end + 4..].to_vec());
    let n = turn.fetch_add(1, Ordering::SeqCst).min(deeds.len() - 1);
    if let Deed::Begin = deeds[n] {
        let begin = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nline 1\r\n";
        let _ = stream.write_all(begin.as_bytes()).await;
        let _ = stream.read(&mut buffer).await;
    }
    if let Deed::Silent = deeds[n] {
        // Nothing more comes: this ends when the gateway closes.
        let _ = stream.read(&mut buffer).await;
    }
    if let Deed::Large(head) = deeds[n] {
        let answer = format!(
            "HTTP/1.1 200 OK\r\n{head}\r\ncontent-length: 9000\r\nconnection: close\r\n\r\n{}",
            "x".repeat(9000)
        );
        let _ = stream.write_all(answer.as_bytes()).await;
    }
    if let Deed::Carried(operations) = deeds[n] {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nx-stellar-operations: {operations}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
        );
        let _ = stream.write_all(answer.as_bytes()).await;
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
    /// How long the key counts; for ever if `None`.
    pub key_lasts: Option<Duration>,
}

impl Wanted<'_> {
    pub fn pooled(pooled: &str) -> Wanted<'_> {
        Wanted {
            pooled,
            target: Target::Pooled,
            requests_per_minute: 1000,
            flags: &[],
            verified: None,
            key_lasts: None,
        }
    }
}

pub async fn gateway(wanted: Wanted<'_>) -> Setup {
    let Wanted { pooled, target, requests_per_minute, flags, verified, key_lasts } = wanted;
    let arguments = ["gateway", "--master-key-file", "unused", "--pooled-engine", pooled, "--retry-budget", "500ms"];
    let config = Config::parse_from(arguments.iter().chain(flags));
    let key = ApiKey::generate();
    let id = TenantId::new(Uuid::new_v4()).expect("not nil");
    let expires_at = key_lasts.map(|lasts| time::OffsetDateTime::now_utc() + lasts);
    let holder = KeyHolder { tenant: id, agent: "main".into(), key_id: Uuid::new_v4(), expires_at };
    let rows = |target| {
        let tenant = TenantRow {
            id,
            tier: "free".to_owned(),
            target,
            suspended: false,
            requests_per_minute,
            max_sockets: Some(5),
            socket_messages_per_second: 10,
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
    let proxy = Arc::new(Proxy::new(pooled.into(), config.times.clone(), directory.clone(), metrics.clone()));
    let (presence, key_uses) = (Arc::new(Presence::new(metrics.clone())), Arc::new(KeyUses::default()));
    let (failures, started) = (Arc::new(FailureLimits::new(5)), Instant::now());
    let engines = Engines {
        directory: directory.clone(),
        proxy: proxy.clone(),
        presence: presence.clone(),
        key_uses: key_uses.clone(),
        failures: failures.clone(),
        started,
    };
    let rooms = Rooms::new(engines, metrics.sync.clone(), sync::Times::default(), ending.stop.clone());
    let login = login_pool::parse("postgres://nobody@127.0.0.1:1/x").expect("a URL");
    let nowhere = login_pool::LoginPool::new(sqlx::postgres::PgPoolOptions::new(), login, None);
    let gateway = Gateway {
        directory,
        proxy,
        rooms,
        pool: nowhere,
        metrics: metrics.clone(),
        presence,
        key_uses,
        cors: Cors::new(config.cors_origins.clone()),
        failures,
        started,
        operations_per_request: config.clients.operations_per_request,
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
        let own = [headers, &[("x-api-key", self.key.expose())]].concat();
        let (parts, body) = self.send_bytes(method, path, &own, body.into()).await.into_parts();
        Response::from_parts(parts, String::from_utf8_lossy(&body).into_owned())
    }

    /// Without a key, if `headers` hold none.
    pub async fn send_bytes(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Response<Vec<u8>> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).expect("a request");
        let (parts, body) = self.client.request(request).await.expect("an answer").into_parts();
        let body = axum::body::to_bytes(Body::new(body), usize::MAX).await.expect("a body");
        Response::from_parts(parts, body.to_vec())
    }

    pub async fn get(&self, path: &str) -> Response<String> {
        self.send("GET", path, &[], "").await
    }

    pub async fn store(&self, headers: &[(&str, &str)]) -> Response<String> {
        self.send("POST", "/api/v1/store", headers, "{\"content\":\"x\"}").await
    }

    /// Sends bytes as they are and returns what comes first.
    pub async fn head_of(&self, bytes: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        stream.write_all(bytes.as_bytes()).await.expect("sent");
        let mut answer = [0; 4096];
        let read = stream.read(&mut answer).await.expect("an answer");
        String::from_utf8_lossy(&answer[..read]).into_owned()
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
