//! The wire between an engine and Postgres, on which SQL is injected into one tenant's open transaction: exactly there, on
//! that connection, between two messages of the engine's own.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use harness::Tenant;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// A listener that passes on what an engine and Postgres say. Ends with the test.
pub struct Wire {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    /// Into whose transaction: the bytes of its id.
    whose: [u8; 16],
    /// What is injected next, each as a query of its own, once that tenant has entered.
    armed: Mutex<Option<Vec<String>>>,
    /// All that Postgres answered to it.
    shown: Mutex<Option<String>>,
    connections: AtomicUsize,
    /// The fault: connections are not put in order when they are given back, and writes begin as the session would.
    untidy: AtomicBool,
}

/// A message after the start of a connection: its kind, and the whole of it.
type Message = (u8, Vec<u8>);

impl Wire {
    /// A wire to Postgres at this port, to inject into transactions of this tenant.
    pub async fn to(postgres: u16, whose: &Tenant) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            whose: *whose.id.uuid().as_bytes(),
            armed: Mutex::default(),
            shown: Mutex::default(),
            connections: AtomicUsize::new(0),
            untidy: AtomicBool::new(false),
        });
        let all = shared.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(("127.0.0.1", postgres)).await.unwrap();
                // Messages pass one by one: none may wait for the acknowledgement of the one before.
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                all.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(all.clone().pass(client, server));
            }
        });
        Self { port, shared }
    }

    /// Injects these queries when the tenant enters next.
    pub fn arm(&self, queries: Vec<String>) {
        *self.shared.armed.lock().unwrap() = Some(queries);
    }

    /// What Postgres answered, if the queries were injected meanwhile.
    pub fn shown(&self) -> Option<String> {
        self.shared.shown.lock().unwrap().take()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Puts the fault in: an engine that does not put its connections in order, and begins writes as the session would. Each
    /// of the two holds alone.
    pub fn untidy(&self) {
        self.shared.untidy.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    async fn pass(self: Arc<Self>, client: TcpStream, server: TcpStream) {
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        let to_server = Arc::new(tokio::sync::Mutex::new(to_server));
        let entered = Arc::new(AtomicBool::new(false));
        // Either side's end is the other's.
        tokio::select! {
            _ = self.requests(from_client, to_server.clone(), &entered) => {}
            _ = self.answers(from_server, to_client, to_server.clone(), &entered) => {}
        }
    }

    /// From the engine to Postgres.
    async fn requests(
        &self,
        mut from: OwnedReadHalf,
        to: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
        entered: &AtomicBool,
    ) -> std::io::Result<()> {
        // The first message has no kind.
        let length = from.read_u32().await?;
        let mut start = length.to_be_bytes().to_vec();
        start.resize(length as usize, 0);
        from.read_exact(&mut start[4..]).await?;
        to.lock().await.write_all(&start).await?;
        loop {
            let (kind, mut message) = read(&mut from).await?;
            if contains(&message, b"BEGIN ISOLATION") {
                entered.store(false, Ordering::Relaxed);
                if self.untidy.load(Ordering::Relaxed) {
                    blank(&mut message, b" READ WRITE");
                }
            } else if kind == b'B' && contains(&message, &self.whose) {
                entered.store(true, Ordering::Relaxed);
            } else if kind == b'Q' && contains(&message, b"RESET ALL") && self.untidy.load(Ordering::Relaxed) {
                message = query(";");
            }
            to.lock().await.write_all(&message).await?;
        }
    }

    /// From Postgres to the engine; and when the tenant has entered, what is injected and not the engine's to see.
    async fn answers(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        to_server: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
        entered: &AtomicBool,
    ) -> std::io::Result<()> {
        let mut selected = false;
        loop {
            let (kind, mut message) = read(&mut from).await?;
            selected |= kind == b'C' && contains(&message, b"SELECT");
            if kind == b'Z' {
                let in_transaction = message.last() == Some(&b'T');
                if std::mem::take(&mut selected) && in_transaction && entered.load(Ordering::Relaxed) {
                    let queries = self.armed.lock().unwrap().take();
                    if let Some(queries) = queries {
                        // Also when it ends the connection: what was shown until then is what it brought.
                        let mut shown = String::new();
                        let ready = self.inject(&mut from, &to_server, queries, &mut shown).await;
                        *self.shown.lock().unwrap() = Some(shown);
                        message = ready?;
                    }
                }
            }
            to.write_all(&message).await?;
        }
    }

    /// Runs the queries and returns Postgres' last ReadyForQuery.
    async fn inject(
        &self,
        from: &mut OwnedReadHalf,
        to: &tokio::sync::Mutex<OwnedWriteHalf>,
        queries: Vec<String>,
        shown: &mut String,
    ) -> std::io::Result<Vec<u8>> {
        let mut to = to.lock().await;
        let mut ready = Vec::new();
        for text in queries {
            to.write_all(&query(&text)).await?;
            loop {
                let (kind, message) = read(from).await?;
                shown.push_str(&String::from_utf8_lossy(&message));
                shown.push('\n');
                match kind {
                    // Postgres waits for rows to copy: there are none.
                    b'G' => to.write_all(&framed(b'f', b"no rows\0")).await?,
                    b'Z' => {
                        ready = message;
                        break;
                    }
                    _ => {}
                }
            }
        }
        Ok(ready)
    }
}

async fn read(from: &mut OwnedReadHalf) -> std::io::Result<Message> {
    let kind = from.read_u8().await?;
    let length = from.read_u32().await?;
    let mut message = vec![kind];
    message.extend(length.to_be_bytes());
    message.resize(length as usize + 1, 0);
    from.read_exact(&mut message[5..]).await?;
    Ok((kind, message))
}

fn query(text: &str) -> Vec<u8> {
    framed(b'Q', &[text.as_bytes(), b"\0"].concat())
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

fn contains(message: &[u8], part: &[u8]) -> bool {
    message.windows(part.len()).any(|window| window == part)
}

/// Puts spaces in place of a part, so that the message stays as long as it was.
fn blank(message: &mut [u8], part: &[u8]) {
    if let Some(at) = message.windows(part.len()).position(|window| window == part) {
        message[at..at + part.len()].fill(b' ');
    }
}
