//! Connections of a client elsewhere, which takes of its answers what its kernel cannot help taking.

use std::{
    io,
    net::Ipv4Addr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use harness::raw;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

/// Bytes that the kernel takes for a connection that is not read.
const RECEIVES: u32 = 4 * 1024;
/// Where the attacker connects from.
const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 7);
/// Longer than a server that is not asked for more than it does takes to begin an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest window that HTTP/2 knows (RFC 9113 §6.9.1).
const WINDOW_MOST: u32 = i32::MAX as u32;

pub async fn open(port: u16) -> TcpStream {
    raw::connect(port, SOURCE, Some(RECEIVES)).await.unwrap()
}

/// A GET as bytes, with a key or without one, and further lines, each with its end.
pub fn get(path: &str, key: Option<&str>, further: &str) -> String {
    let key = key.map(|key| format!("x-api-key: {key}\r\n")).unwrap_or_default();
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n{key}{further}\r\n")
}

/// Sends what the server takes of these bytes until then.
pub async fn push(stream: &mut TcpStream, bytes: &[u8], until: Instant) {
    // A server that has had enough takes no more, or closes: both are as good.
    let _ = timeout_at(until, stream.write_all(bytes)).await;
}

/// The status of the answer that has begun, which is not read.
pub async fn status(stream: &TcpStream) -> Option<u16> {
    let mut begin = [0; 12];
    let peeking = async {
        while stream.peek(&mut begin).await.ok()? < begin.len() {
            sleep(Duration::from_millis(10)).await;
        }
        Some(())
    };
    timeout(PATIENCE, peeking).await.ok()??;
    std::str::from_utf8(begin.strip_prefix(b"HTTP/1.1 ")?).ok()?.parse().ok()
}

/// Sends each of the texts over a connection of its own, reads nothing, and stays until then. Returns the connections, and how
/// many were answered 200.
pub async fn hold(port: u16, texts: &[String], until: Instant) -> (Vec<TcpStream>, usize) {
    let held = join_all(texts.iter().map(|text| async move {
        let mut stream = open(port).await;
        let (reads, mut writes) = stream.split();
        // A server that has had enough takes no more, or closes: both are as good.
        let pushing = timeout_at(until, writes.write_all(text.as_bytes()));
        let (_, status) = tokio::join!(pushing, status(reads.as_ref()));
        (stream, status == Some(200))
    }))
    .await;
    sleep_until(until).await;
    let answered = held.iter().filter(|(_, answered)| *answered).count();
    (held.into_iter().map(|(stream, _)| stream).collect(), answered)
}

/// A connection of HTTP/2 that allows its server to send everything, and reads nothing of it. The requests are under way for as
/// long as what is returned is kept.
pub async fn ask_and_not_hear(port: u16, path: &str, key: Option<&str>, requests: usize) -> JoinSet<()> {
    let stream = TokioIo::new(Deaf(open(port).await));
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW_MOST)
        .initial_connection_window_size(WINDOW_MOST)
        .handshake::<_, Empty<Bytes>>(stream)
        .await
        .unwrap();
    let mut under_way = JoinSet::new();
    // It ends when the server closes, which is an answer, too.
    under_way.spawn(async move { drop(connection.await) });
    for _ in 0..requests {
        let mut request = Request::get(format!("http://a{path}"));
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        let answer = sender.send_request(request.body(Empty::new()).unwrap());
        under_way.spawn(async move { drop(answer.await) });
    }
    under_way
}

/// A connection that is written and never read.
struct Deaf(TcpStream);

impl AsyncRead for Deaf {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
