//! A connection as bytes, for what no client of a library does: one that takes next to nothing of its answers, frames without
//! an end, and an upgrade after which no frame is read.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

/// The head of a text frame that is all of its message (RFC 6455 §5.2).
const TEXT: u8 = 0x81;

/// Connects to a port of this machine from a loopback address. `receives` bounds what the kernel takes for a connection that
/// is not read.
///
/// # Errors
/// When nobody listens there.
pub async fn connect(port: u16, source: Ipv4Addr, receives: Option<u32>) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(receives) = receives {
        socket.set_recv_buffer_size(receives)?;
    }
    socket.bind(SocketAddr::new(IpAddr::V4(source), 0)).context("bind to a loopback address")?;
    socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.context("connect")
}

/// Does the handshake of RFC 6455 §4.1, byte by byte, so that no frame after it is taken too.
///
/// # Errors
/// When it is no WebSocket.
pub async fn upgrade(stream: &mut TcpStream) -> Result<()> {
    let request = "GET /api/v1/sync HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.context("read the answer to an upgrade")?);
    }
    ensure!(answer.starts_with(b"HTTP/1.1 101 "), "no upgrade: {}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// Does both handshakes, that of the WebSocket and that of `docs/sync.md`. `hello` is the first frame.
///
/// # Errors
/// When the socket is not let in.
pub async fn enter(stream: &mut TcpStream, hello: &Value) -> Result<()> {
    upgrade(stream).await?;
    stream.write_all(&frame(TEXT, hello.to_string().as_bytes())).await?;
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.context("read the answer to a key")?;
    let mut told = vec![0; (head[1] & 0x7f).into()];
    stream.read_exact(&mut told).await?;
    let told = String::from_utf8_lossy(&told).into_owned();
    ensure!(told.contains(r#""authenticated":true"#), "not let in: {told}");
    Ok(())
}

/// A client's frame. `first`: its first byte, which says what it is and whether another one follows. Masked with zeros.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, payload.len());
    frame.extend_from_slice(payload);
    frame
}

/// The head of a client's frame whose payload has that many bytes.
pub fn head(first: u8, length: usize) -> Vec<u8> {
    let mut head = vec![first];
    match length {
        0..126 => head.push(0x80 | length as u8),
        126..0x1_0000 => {
            head.push(0xfe);
            head.extend((length as u16).to_be_bytes());
        }
        _ => {
            head.push(0x80 | 127);
            head.extend((length as u64).to_be_bytes());
        }
    }
    head.extend([0; 4]);
    head
}
