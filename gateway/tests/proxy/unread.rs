//! Answers that a client does not read: they wait with whoever makes them, and not without end.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use clap::Parser;
use futures::stream;
use gateway::{
    config::Config,
    metrics::Metrics,
    server::{self, Ending, Handler, Rules},
};
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

const PART: usize = 64 * 1024;
/// More than the kernel keeps of an answer for a client on this machine.
const KERNEL_BYTES: usize = 16 * 1024 * 1024;
/// Parts of a long answer.
const PARTS: usize = 4 * KERNEL_BYTES / PART;
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers at great length, and counts the bytes that were taken.
#[derive(Clone, Default)]
struct Long(Arc<AtomicUsize>);

impl Long {
    fn body(&self) -> Body {
        let taken = self.0.clone();
        Body::from_stream(stream::iter((0..PARTS).map(move |_| {
            taken.fetch_add(PART, Ordering::Relaxed);
            Ok::<_, Infallible>(Bytes::from(vec![b'x'; PART]))
        })))
    }

    /// Bytes that were taken once no more are.
    async fn taken(&self) -> usize {
        let settled = async {
            loop {
                let before = self.0.load(Ordering::Relaxed);
                sleep(Duration::from_millis(500)).await;
                let now = self.0.load(Ordering::Relaxed);
                if now == before && now > 0 {
                    return now;
                }
            }
        };
        timeout(PATIENCE, settled).await.expect("bytes settle")
    }
}

impl Handler for Long {
    async fn answer(&self, _: Request<Body>, _: IpAddr) -> Response<Body> {
        Response::new(self.body())
    }
}

/// Answers at once with a part, and counts the requests.
#[derive(Clone, Default)]
struct Prompt(Arc<AtomicUsize>);

impl Handler for Prompt {
    async fn answer(&self, _: Request<Body>, _: IpAddr) -> Response<Body> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Response::new(Body::from(vec![b'x'; PART]))
    }
}

async fn serve(handler: impl Handler, flags: &[&str]) -> (SocketAddr, Arc<Metrics>) {
    let own = ["gateway", "--master-key-file", "unused", "--pooled-engine", "unused"];
    let Config { clients, times, .. } = Config::parse_from(own.iter().chain(flags));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let metrics = Arc::new(Metrics::default());
    let rules = Rules { limits: clients, times, metrics: Some(metrics.clone()) };
    tokio::spawn(server::serve(listener, Arc::new(handler), rules, Ending::default()));
    (address, metrics)
}

async fn ask(address: SocketAddr, times: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let requests = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(times);
    // Where the server reads no further, the rest stays here.
    let _ = timeout(Duration::from_secs(1), stream.write_all(requests.as_bytes())).await;
    stream
}

#[tokio::test]
async fn unread_answer_waits_with_its_source() {
    let long = Long::default();
    let (address, _) = serve(long.clone(), &[]).await;
    let _unread = ask(address, 1).await;
    let taken = long.taken().await;
    assert!(taken < KERNEL_BYTES, "{taken} bytes were taken for a client that reads none");
}

#[tokio::test]
async fn unread_answers_hold_back_pipelined_requests() {
    let prompt = Prompt::default();
    let (address, _) = serve(prompt.clone(), &[]).await;
    let _unread = ask(address, 3000).await;
    let settled = async {
        loop {
            let before = prompt.0.load(Ordering::Relaxed);
            sleep(Duration::from_millis(500)).await;
            if before > 0 && prompt.0.load(Ordering::Relaxed) == before {
                return before * PART;
            }
        }
    };
    let answered = timeout(PATIENCE, settled).await.expect("answers settle");
    assert!(answered < KERNEL_BYTES, "{answered} bytes were answered ahead");
}

/// The seeded fault: with `pipeline_flush` a server takes whatever its source gives.
#[tokio::test]
async fn pipeline_flush_takes_unread_answer_without_bound() {
    let long = Long::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let _unread = ask(listener.local_addr().expect("an address"), 2).await;
    let (stream, _) = listener.accept().await.expect("a connection");
    let source = long.clone();
    let service = hyper::service::service_fn(move |_| {
        let response = Response::new(source.body());
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.pipeline_flush(true);
    let serving = tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
    let taken = long.taken().await;
    serving.abort();
    assert!(taken > KERNEL_BYTES, "{taken} bytes: this test would not notice a server without a bound");
}

#[tokio::test]
async fn unread_answer_ends_its_connection() {
    let (address, metrics) = serve(Long::default(), &["--write-timeout", "300ms"]).await;
    let _unread = ask(address, 1).await;
    let ended = async {
        while metrics.connections.get() == 0 {
            sleep(Duration::from_millis(10)).await;
        }
        while metrics.connections.get() > 0 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, ended).await.expect("the connection ends");
}
