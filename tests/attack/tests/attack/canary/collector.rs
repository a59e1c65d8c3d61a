//! Servers that take whatever is sent and keep it: a collector of traces, and an API server of a cluster that nobody can
//! read.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Answers every request alike and keeps the bodies.
#[derive(Clone)]
pub struct Taker {
    pub port: u16,
    bodies: Arc<Mutex<Vec<u8>>>,
    requests: Arc<AtomicUsize>,
}

impl Taker {
    /// `answer`: a status and a body.
    pub async fn start(status: u16, answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let taker = Self { port, bodies: Arc::default(), requests: Arc::default() };
        let server = taker.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, answer) = (server.clone(), answer.clone());
                tokio::spawn(async move { server.take(stream, status, &answer).await });
            }
        });
        taker
    }

    pub fn bodies(&self) -> Vec<u8> {
        self.bodies.lock().unwrap().clone()
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// One request a connection. `None`: it broke off.
    async fn take(&self, mut stream: TcpStream, status: u16, answer: &str) -> Option<()> {
        let (mut request, mut buffer) = (Vec::new(), [0; 8192]);
        loop {
            let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
            request.extend_from_slice(&buffer[..read]);
            let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let body = &request[end + 4..];
            if body.len() < length.unwrap_or(0) {
                continue;
            }
            self.bodies.lock().unwrap().extend_from_slice(body);
            self.requests.fetch_add(1, Ordering::Relaxed);
            break;
        }
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all(format!("{head}{answer}").as_bytes()).await.ok()
    }
}
