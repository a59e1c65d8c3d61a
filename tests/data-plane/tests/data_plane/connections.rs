//! Programs that have as many connections as their flags let them.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use harness::DataPlane;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::shared;

/// Ends a vain wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connects as the nth client.
async fn connect(n: u8, port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 1, n), 0))).unwrap();
    socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.unwrap()
}

/// The status that comes back; nothing if the connection ends instead. HEAD: no body, so one read takes all of it.
async fn ask(stream: &mut TcpStream) -> String {
    let asking = async {
        stream.write_all(b"HEAD /health HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        let mut answer = [0; 4096];
        let read = stream.read(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        Ok::<_, io::Error>(answer.get(9..12).unwrap_or_default().to_owned())
    };
    timeout(PATIENCE, asking).await.expect("an answer or an end").unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_gateway_stays_ready_and_tells_whom_it_refused() {
    let flags = ["--max-connections", "2", "--max-connections-per-client", "1"];
    let plane = DataPlane::start_with(&[], &flags).await.unwrap();
    let mut first = connect(1, plane.gateway.port).await;
    assert_eq!(ask(&mut first).await, "200");
    assert_eq!(ask(&mut connect(1, plane.gateway.port).await).await, "", "it is hung up on");
    let mut second = connect(2, plane.gateway.port).await;
    assert_eq!(ask(&mut second).await, "200");

    plane.gateway.ready().await;
    let page = plane.gateway.metrics().await.unwrap();
    for line in
        ["stellar_gateway_connections 2", "stellar_gateway_connections_refused_total{reason=\"client-limit\"} 1"]
    {
        assert!(page.lines().any(|shown| shown == line), "{line} is missing:\n{page}");
    }
    drop(first);
    assert_eq!(ask(&mut connect(3, plane.gateway.port).await).await, "200", "it waits for the place and gets it");
    assert_eq!(ask(&mut second).await, "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_its_clients_an_engine_stays_ready_and_lets_the_next_one_wait() {
    let engine = shared().await.another_engine(&["--max-clients", "2"]).await.unwrap();
    let (mut first, mut second) = (connect(1, engine.port).await, connect(1, engine.port).await);
    // The engine has no such route: that is an answer, too.
    assert_eq!((ask(&mut first).await, ask(&mut second).await), ("404".to_owned(), "404".to_owned()));
    let port = engine.port;
    let waiting = tokio::spawn(async move { ask(&mut connect(2, port).await).await });
    // It would long have been answered, were there a place for it.
    for _ in 0..50 {
        assert_eq!(ask(&mut first).await, "404");
        assert_eq!(ask(&mut second).await, "404");
    }
    engine.ready().await;
    assert!(!waiting.is_finished(), "it waits");
    drop(first);
    assert_eq!(waiting.await.unwrap(), "404");
    assert_eq!(ask(&mut second).await, "404");
}
