//! How many connections a gateway takes: of one client, and in all.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::support::{Wanted, gateway};

/// Ends a vain wait.
const PATIENCE: Duration = Duration::from_secs(30);
/// HEAD: the answer is one line after another and no body, so one read takes all of it.
const HEALTH: &str = "HEAD /health HTTP/1.1\r\nhost: a\r\n\r\n";
const SOCKET: &str = "GET /api/v1/sync HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                      sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The nth client.
const fn client(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, n)
}

async fn connect(client: Ipv4Addr, gateway: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((client, 0))).expect("a loopback address");
    socket.connect(gateway).await.expect("connected")
}

/// The status that a request is answered with; nothing if the connection ends instead.
async fn ask(stream: &mut TcpStream, request: &str) -> String {
    let asking = async {
        stream.write_all(request.as_bytes()).await?;
        let mut answer = [0; 4096];
        let read = stream.read(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        Ok::<_, io::Error>(answer.get(9..12).unwrap_or_default().to_owned())
    };
    timeout(PATIENCE, asking).await.expect("an answer or an end").unwrap_or_default()
}

/// Connects until it is let in: a place is free a moment after its connection ended.
async fn let_in(client: Ipv4Addr, gateway: SocketAddr) -> TcpStream {
    let trying = async {
        loop {
            let mut stream = connect(client, gateway).await;
            if ask(&mut stream, HEALTH).await == "200" {
                return stream;
            }
        }
    };
    timeout(PATIENCE, trying).await.expect("a place is free again")
}

#[tokio::test]
async fn a_client_beyond_its_connections_is_hung_up_on_and_others_are_served() {
    let flags = ["--max-connections", "3", "--max-connections-per-client", "2"];
    let setup = gateway(Wanted { flags: &flags, ..Wanted::pooled("127.0.0.1:1") }).await;
    let mut first = connect(client(1), setup.address).await;
    let mut second = connect(client(1), setup.address).await;
    assert_eq!(ask(&mut first, HEALTH).await, "200");
    assert_eq!(ask(&mut second, HEALTH).await, "200");
    for _ in 0..5 {
        assert_eq!(ask(&mut connect(client(1), setup.address).await, HEALTH).await, "", "without a word");
    }
    // Those that were refused left their place among all.
    let mut other = connect(client(2), setup.address).await;
    for stream in [&mut first, &mut second, &mut other] {
        assert_eq!(ask(stream, HEALTH).await, "200");
    }
    drop((first, other));
    let mut third = let_in(client(1), setup.address).await;
    assert_eq!(ask(&mut connect(client(1), setup.address).await, HEALTH).await, "", "one place became free");
    for stream in [&mut second, &mut third] {
        assert_eq!(ask(stream, HEALTH).await, "200");
    }
}

#[tokio::test]
async fn beyond_all_connections_a_client_waits_until_another_one_ends() {
    let flags = ["--max-connections", "3"];
    let setup = gateway(Wanted { flags: &flags, ..Wanted::pooled("127.0.0.1:1") }).await;
    let address = setup.address;
    let mut open = Vec::new();
    for n in 1..=3 {
        let mut stream = connect(client(n), address).await;
        assert_eq!(ask(&mut stream, HEALTH).await, "200");
        open.push(stream);
    }
    let waiting = tokio::spawn(async move {
        let mut stream = connect(client(4), address).await;
        ask(&mut stream, HEALTH).await
    });
    // It would long have been answered, were there a place for it.
    for _ in 0..50 {
        for stream in &mut open {
            assert_eq!(ask(stream, HEALTH).await, "200");
        }
    }
    assert!(!waiting.is_finished(), "it waits");
    drop(open.pop());
    assert_eq!(waiting.await.expect("no panic"), "200");
    for stream in &mut open {
        assert_eq!(ask(stream, HEALTH).await, "200");
    }
}

#[tokio::test]
async fn a_trusted_proxy_brings_many_clients() {
    let flags = ["--max-connections-per-client", "1", "--trusted-proxy", "127.0.1.1"];
    let setup = gateway(Wanted { flags: &flags, ..Wanted::pooled("127.0.0.1:1") }).await;
    let (mut proxy, mut other) = (Vec::new(), connect(client(2), setup.address).await);
    for _ in 0..3 {
        proxy.push(connect(client(1), setup.address).await);
    }
    for stream in proxy.iter_mut().chain([&mut other]) {
        assert_eq!(ask(stream, HEALTH).await, "200");
    }
    assert_eq!(ask(&mut connect(client(2), setup.address).await, HEALTH).await, "", "nobody trusts this one");
}

#[tokio::test]
async fn a_socket_keeps_the_place_of_its_connection() {
    let flags = ["--max-connections-per-client", "1"];
    let setup = gateway(Wanted { flags: &flags, ..Wanted::pooled("127.0.0.1:1") }).await;
    let mut socket = connect(client(1), setup.address).await;
    assert_eq!(ask(&mut socket, SOCKET).await, "101");
    assert_eq!(ask(&mut connect(client(1), setup.address).await, HEALTH).await, "");
    drop(socket);
    let_in(client(1), setup.address).await;
}
