//! What a broadcast costs with nothing but the kernel in it: a program of its own, as the gateway is one, that writes the
//! same bytes to every connection, each a task that waits for no other.
//!
//! The first connection is the one that says what to send: four bytes of length, then the bytes, again and again.

use std::{
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use harness::{Workdir, free_port};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// What this program is called with to be that server, and the variable that names its port.
pub const ARGUMENT: &str = "serve-plainly";
const PORT: &str = "PLAIN_PORT";

/// The server as a process. Ends when dropped.
pub struct Plain {
    child: Child,
    orders: TcpStream,
    pub port: u16,
}

impl Plain {
    pub async fn start(workdir: &Workdir) -> Result<Self> {
        let port = free_port()?;
        let child = Command::new(std::env::current_exe()?)
            .arg(ARGUMENT)
            .env(PORT, port.to_string())
            .stdin(Stdio::null())
            .spawn()
            .context("start the plain server")?;
        workdir.adopt(&child, "TERM")?;
        let orders = harness::eventually("the plain server listens", || async {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()
        })
        .await;
        Ok(Self { child, orders, port })
    }

    /// Sends these bytes to everybody.
    pub async fn broadcast(&mut self, bytes: &[u8]) -> Result<()> {
        self.orders.write_u32(u32::try_from(bytes.len())?).await?;
        Ok(self.orders.write_all(bytes).await?)
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until the connection that gives the orders closes.
pub async fn serve() -> Result<()> {
    let port: u16 = std::env::var(PORT).context("the port is given by a variable")?.parse()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let (mut orders, _) = listener.accept().await?;
    let (news, heard) = watch::channel(bytes::Bytes::new());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, mut heard) = (accepted?.0, heard.clone());
                stream.set_nodelay(true)?;
                connections.spawn(async move { tell(stream, &mut heard).await });
            }
            length = orders.read_u32() => {
                let Ok(length) = length else { return Ok(()) };
                let mut bytes = vec![0; length as usize];
                orders.read_exact(&mut bytes).await?;
                news.send_replace(bytes.into());
            }
        }
    }
}

/// Writes all that is news. The next news come when everybody has these.
async fn tell(mut stream: TcpStream, heard: &mut watch::Receiver<bytes::Bytes>) -> Result<()> {
    loop {
        heard.changed().await?;
        let bytes = heard.borrow_and_update().clone();
        stream.write_all(&bytes).await?;
    }
}
