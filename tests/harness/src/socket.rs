//! A sync socket, as a client would write one, with nothing hidden: no reconnect, no queue.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, Utf8Bytes},
};

/// Longer than anything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(40);

/// An open socket.
pub struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// What came over a socket.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// A frame.
    Frame(Value),
    /// The end, with the server's code if it gave one.
    Closed(Option<u16>),
}

impl Socket {
    /// Connects to `base` (as `http://127.0.0.1:8080`), without the first frame.
    ///
    /// # Errors
    /// When it is no WebSocket.
    pub async fn connect(base: &str) -> Result<Self> {
        let url = format!("{}/api/v1/sync", base.replacen("http", "ws", 1));
        let (stream, _) = connect_async(url).await.context("connect")?;
        Ok(Self(stream))
    }

    /// Connects and is let in. Also the number that the server answers.
    ///
    /// # Errors
    /// When it is not let in.
    pub async fn enter(base: &str, key: &str, since: Option<i64>) -> Result<(Self, i64)> {
        let mut socket = Self::connect(base).await?;
        let mut hello = json!({ "api_key": key });
        if let Some(since) = since {
            hello["since"] = since.into();
        }
        socket.send(&hello).await?;
        match socket.hear().await? {
            Heard::Frame(answer) if answer["authenticated"] == true => {
                let seq = answer["seq"].as_i64().context("a number")?;
                Ok((socket, seq))
            }
            other => bail!("not let in: {other:?}"),
        }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn send(&mut self, frame: &Value) -> Result<()> {
        self.message(Message::Text(frame.to_string().into())).await
    }

    /// Sends frames with one write.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn send_all(&mut self, frames: &[Value]) -> Result<()> {
        for frame in frames {
            self.0.feed(Message::Text(frame.to_string().into())).await?;
        }
        Ok(self.0.flush().await?)
    }

    /// Sends any message.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn message(&mut self, message: Message) -> Result<()> {
        Ok(self.0.send(message).await?)
    }

    /// What comes next, pings aside.
    ///
    /// # Errors
    /// When nothing comes for very long, or no JSON.
    pub async fn hear(&mut self) -> Result<Heard> {
        Ok(match self.next().await? {
            Ok(text) => Heard::Frame(serde_json::from_str(&text)?),
            Err(code) => Heard::Closed(code),
        })
    }

    /// The next frame as text, for whoever reads very many; `None`: the end.
    ///
    /// # Errors
    /// When nothing comes for very long.
    pub async fn text(&mut self) -> Result<Option<Utf8Bytes>> {
        Ok(self.next().await?.ok())
    }

    async fn next(&mut self) -> Result<Result<Utf8Bytes, Option<u16>>> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.context("nothing came")? {
                Some(Ok(Message::Text(text))) => return Ok(Ok(text)),
                Some(Ok(Message::Close(frame))) => return Ok(Err(frame.map(|frame| frame.code.into()))),
                Some(Ok(_)) => {}
                None
                | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_) | Error::Protocol(_))) => {
                    return Ok(Err(None));
                }
                Some(Err(error)) => bail!(error),
            }
        }
    }

    /// The next frame, which must come.
    ///
    /// # Errors
    /// When the socket closes instead.
    pub async fn frame(&mut self) -> Result<Value> {
        match self.hear().await? {
            Heard::Frame(frame) => Ok(frame),
            Heard::Closed(code) => bail!("closed with {code:?}"),
        }
    }

    /// The next frame of a type; others are passed over.
    ///
    /// # Errors
    /// When the socket closes instead.
    pub async fn frame_of(&mut self, kind: &str) -> Result<Value> {
        loop {
            let frame = self.frame().await?;
            if frame["type"] == kind {
                return Ok(frame);
            }
        }
    }

    /// The code that it is closed with; frames before are passed over.
    ///
    /// # Errors
    /// When it is not closed.
    pub async fn closed(&mut self) -> Result<Option<u16>> {
        loop {
            if let Heard::Closed(code) = self.hear().await? {
                return Ok(code);
            }
        }
    }
}
