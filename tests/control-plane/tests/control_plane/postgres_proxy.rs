//! Stands between an operator and Postgres and tells a [`Crash`] of every call of a function that was done. It reads as
//! much of the protocol as that takes: <https://www.postgresql.org/docs/current/protocol-message-formats.html>.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::crash::Crash;

const SSL_REQUEST: u32 = 80_877_103;
/// Reads only, though a function.
const READS: &str = "stellar.tenant_owned";

/// Starts it; its port on 127.0.0.1.
pub async fn start(port: u16, crash: Arc<Crash>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            let called = Arc::new(Mutex::new(None));
            tokio::spawn(requests(from_client, to_server, called.clone()));
            tokio::spawn(answers(from_server, to_client, called, crash.clone()));
        }
    });
    own
}

/// A function that was called and not yet answered: its name, and the arguments.
type Called = Arc<Mutex<Option<(String, Vec<u8>)>>>;

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, called: Called) -> Option<()> {
    let mut typed = false;
    let mut statements: HashMap<Vec<u8>, String> = HashMap::new();
    loop {
        let (kind, bytes) = message(&mut from, typed).await?;
        let content = &bytes[if typed { 5 } else { 4 }..];
        match kind {
            None => typed = u32::from_be_bytes(content[..4].try_into().ok()?) != SSL_REQUEST,
            Some(b'P') => {
                let mut words = content.split(|byte| *byte == 0);
                let (name, query) = (words.next()?.to_vec(), String::from_utf8_lossy(words.next()?).into_owned());
                statements.insert(name, query);
            }
            Some(b'B') => {
                let mut words = content.split(|byte| *byte == 0);
                let query = words.nth(1).and_then(|name| statements.get(name));
                let function = query.and_then(|query| query.trim_start().strip_prefix("SELECT stellar."));
                if let Some(function) = function.and_then(|call| call.split('(').next()) {
                    let function = format!("stellar.{function}");
                    if function != READS {
                        *called.lock().unwrap() = Some((function, content.to_vec()));
                    }
                }
            }
            Some(_) => {}
        }
        to.write_all(&bytes).await.ok()?;
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, called: Called, crash: Arc<Crash>) -> Option<()> {
    // The answer to a request for TLS is one byte without a length; the driver is told not to ask.
    loop {
        let (kind, bytes) = message(&mut from, true).await?;
        // An error: the function did nothing.
        if kind == Some(b'E') {
            called.lock().unwrap().take();
        }
        if kind == Some(b'Z')
            && let Some((function, arguments)) = called.lock().unwrap().take()
        {
            crash.step(&function, &[&arguments]);
        }
        to.write_all(&bytes).await.ok()?;
    }
}

/// One message with its length and, except at the start of a connection, its kind.
async fn message(from: &mut OwnedReadHalf, typed: bool) -> Option<(Option<u8>, Vec<u8>)> {
    let mut bytes = vec![0; if typed { 5 } else { 4 }];
    from.read_exact(&mut bytes).await.ok()?;
    let head = bytes.len();
    let length = u32::from_be_bytes(bytes[head - 4..].try_into().ok()?) as usize;
    bytes.resize(head + length - 4, 0);
    from.read_exact(&mut bytes[head..]).await.ok()?;
    Some((typed.then(|| bytes[0]), bytes))
}
