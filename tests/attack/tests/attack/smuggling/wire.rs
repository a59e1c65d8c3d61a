//! Requests as bytes, and what comes back for them.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// One answer of a connection.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Whose answer it is: the request's own X-Request-Id comes back.
    pub request_id: String,
    pub head: String,
    pub body: String,
}

/// Sends the bytes as they are, then one honest request that asks for the connection's end; returns every answer.
pub async fn talk(port: u16, bytes: &[u8]) -> Vec<Reply> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    // Fails where the server has closed already, which is an answer too.
    let _ =
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\nx-request-id: last\r\nconnection: close\r\n\r\n").await;
    let mut answers = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answers)).await;
    let shown = String::from_utf8_lossy(bytes);
    assert!(reading.is_ok(), "neither answered nor closed: {shown:?}");
    replies(&answers)
}

/// The answers in what a connection sent. Whatever is no answer stays in a body.
fn replies(bytes: &[u8]) -> Vec<Reply> {
    let text = String::from_utf8_lossy(bytes);
    let mut found = Vec::new();
    let mut rest: &str = &text;
    while let Some((head, after)) = rest.split_once("\r\n\r\n") {
        let field = |name: &str| {
            let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let length = match field("content-length").and_then(|length| length.parse().ok()) {
            Some(length) => length,
            None if (100..200).contains(&status) => 0,
            None => after.len(),
        };
        let end = (0..=length.min(after.len())).rev().find(|at| after.is_char_boundary(*at)).unwrap_or(0);
        found.push(Reply {
            status,
            request_id: field("x-request-id").unwrap_or_default(),
            head: head.to_owned(),
            body: after[..end].to_owned(),
        });
        rest = &after[end..];
    }
    found
}

#[test]
fn answers_are_told_apart() {
    let two = "HTTP/1.1 200 OK\r\nX-Request-Id: a\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 404 Not Found\r\nx-request-id: b\r\ncontent-length: 0\r\n\r\n";
    let found = replies(two.as_bytes());
    let seen: Vec<_> = found.iter().map(|reply| (reply.status, &*reply.request_id, &*reply.body)).collect();
    assert_eq!(seen, [(200, "a", "ok"), (404, "b", "")]);
}
