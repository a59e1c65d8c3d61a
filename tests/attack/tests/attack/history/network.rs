//! The way between a client and the gateways, which can break: each client has a link of its own, on loopback.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What can happen to what goes over a link.
#[derive(Clone, Copy, Default)]
struct Weather {
    /// Nothing passes, and nobody is told.
    stalled: bool,
    /// How often all connections were cut.
    cuts: usize,
    /// How often one direction was closed: to the server, to the client.
    closed: [usize; 2],
}

/// See the module.
pub struct Link {
    port: u16,
    weather: watch::Sender<Weather>,
    accepting: JoinHandle<()>,
}

/// A direction.
#[derive(Clone, Copy)]
pub enum To {
    Server = 0,
    Client = 1,
}

impl Link {
    /// A link to one of the ports for each connection, in turn.
    pub async fn to(ports: Vec<u16>, first: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (weather, forecast) = watch::channel(Weather::default());
        let turn = Arc::new(AtomicUsize::new(first));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let port = ports[turn.fetch_add(1, Ordering::Relaxed) % ports.len()];
                tokio::spawn(carry(client, port, forecast.clone()));
            }
        });
        Self { port, weather, accepting }
    }

    /// The address for clients.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Breaks every connection off.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Lets nothing through until [`Self::heal`].
    pub fn stall(&self) {
        self.weather.send_modify(|weather| weather.stalled = true);
    }

    /// Lets everything through, also what was held back.
    pub fn heal(&self) {
        self.weather.send_modify(|weather| weather.stalled = false);
    }

    /// Ends one direction of every connection; the other goes on.
    pub fn close(&self, to: To) {
        self.weather.send_modify(|weather| weather.closed[to as usize] += 1);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn carry(client: TcpStream, port: u16, mut weather: watch::Receiver<Weather>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let begun = *weather.borrow();
    let ((client_reads, client_writes), (server_reads, server_writes)) = (client.into_split(), server.into_split());
    let to_server = pass(client_reads, server_writes, To::Server, begun, weather.clone());
    let to_client = pass(server_reads, client_writes, To::Client, begun, weather.clone());
    tokio::select! {
        _ = async { tokio::join!(to_server, to_client) } => {}
        _ = weather.wait_for(|now| now.cuts != begun.cuts) => {}
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut into: impl AsyncWrite + Unpin,
    to: To,
    begun: Weather,
    mut weather: watch::Receiver<Weather>,
) {
    let (mut closing, mut buffer) = (weather.clone(), vec![0; 16 * 1024]);
    let passing = async {
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if weather.wait_for(|now| !now.stalled).await.is_err() || into.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = passing => {}
        _ = closing.wait_for(|now| now.closed[to as usize] != begun.closed[to as usize]) => {}
    }
    let _ = into.shutdown().await;
}
