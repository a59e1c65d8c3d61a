//! A client's WebSocket: what it reads and writes, its bounds, and how it ends.

use std::{borrow::Cow, future::poll_fn, io::IoSlice, pin::Pin, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as SocketError, Message, Utf8Bytes,
        error::{CapacityError, ProtocolError},
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use crate::{
    outgoing::Outgoing,
    run::Run,
    wire::{FRAME_MOST, code},
};

const CLOSE: Duration = Duration::from_secs(2);
/// Sockets at rest are many: small buffers that grow when needed.
const READ_BUFFER: usize = 4 * 1024;
const WRITE_BUFFER: usize = 16 * 1024;
/// Bytes that are read and dropped after a close, so that the client reads why.
const LINGER_BYTES: usize = 1024 * 1024;
/// Parts of what one write takes.
const WRITE_PARTS: usize = 64;

/// A WebSocket over any stream of bytes.
pub(crate) struct Socket<I> {
    stream: WebSocketStream<I>,
    /// Of a frame that was begun: what comes before anything else.
    unsent: Outgoing,
}

/// How a socket ends.
pub(crate) enum End {
    /// The client is gone, or has closed.
    Gone,
    /// We close, with a code and a reason.
    Close(u16, Cow<'static, str>),
}

impl End {
    pub(crate) fn close(code: u16, reason: &'static str) -> Self {
        Self::Close(code, Cow::Borrowed(reason))
    }
}

impl From<SocketError> for End {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::Capacity(CapacityError::MessageTooLong { .. }) => {
                Self::close(code::TOO_BIG, "a message has at most 256 KiB")
            }
            SocketError::Utf8(_) => Self::close(code::NOT_UTF8, "a text frame is not UTF-8"),
            SocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Gone,
            SocketError::Protocol(_) => Self::close(code::PROTOCOL, "a frame breaks RFC 6455"),
            _ => Self::Gone,
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Socket<I> {
    pub(crate) async fn new(stream: I) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            .max_write_buffer_size(WRITE_BUFFER + 4 * FRAME_MOST)
            .max_message_size(Some(FRAME_MOST))
            .max_frame_size(Some(FRAME_MOST));
        let stream = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        Self { stream, unsent: Outgoing::default() }
    }

    /// The next text; `None` for a frame that says only that the client lives.
    pub(crate) async fn next(&mut self) -> Result<Option<Utf8Bytes>, End> {
        match self.stream.next().await {
            Some(Ok(Message::Text(text))) => Ok(Some(text)),
            Some(Ok(Message::Binary(_))) => Err(End::close(code::NO_TEXT, "frames are JSON texts")),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                // The answer to a ping waits in the buffer.
                self.stream.flush().await?;
                Ok(None)
            }
            Some(Ok(Message::Close(_))) => {
                let _ = self.stream.flush().await;
                Err(End::Gone)
            }
            Some(Err(error)) => Err(error.into()),
            None => Err(End::Gone),
        }
    }

    /// Sends all of them with as few writes as possible.
    pub(crate) async fn send(
        &mut self,
        messages: impl IntoIterator<Item = Message>,
        within: Duration,
    ) -> Result<(), End> {
        let sending = async {
            for message in messages {
                self.stream.feed(message).await?;
            }
            Ok(self.stream.flush().await?)
        };
        read_within(within, sending).await
    }

    /// Sends changes. Their bytes are the room's own, the same for every socket, and are not copied: a socket that was sent
    /// many keeps nothing of them.
    pub(crate) async fn changes(&mut self, runs: &[Run], within: Duration) -> Result<(), End> {
        self.unsent = runs.iter().collect();
        let sending = async {
            self.stream.flush().await?;
            self.finish().await
        };
        read_within(within, sending).await
    }

    /// Writes what is left of changes.
    async fn finish(&mut self) -> Result<(), End> {
        while !self.unsent.is_empty() {
            let (stream, unsent) = (&mut self.stream, &self.unsent);
            // Gathered at each poll, so that a socket at rest has no room for it.
            let write = poll_fn(|context| {
                let mut parts = [IoSlice::new(&[]); WRITE_PARTS];
                let filled = unsent.chunks_vectored(&mut parts);
                Pin::new(stream.get_mut()).poll_write_vectored(context, &parts[..filled])
            });
            match write.await {
                Ok(0) | Err(_) => return Err(End::Gone),
                Ok(written) => self.unsent.advance(written),
            }
        }
        // An empty one keeps no memory either.
        self.unsent = Outgoing::default();
        Ok(())
    }

    pub(crate) async fn text(&mut self, text: String, within: Duration) -> Result<(), End> {
        self.send([Message::Text(text.into())], within).await
    }

    /// Closes, and lets the client read why. Returns the code, if there is one.
    pub(crate) async fn end(mut self, end: End) -> Option<u16> {
        let code = match end {
            End::Gone => None,
            End::Close(code, reason) => {
                let frame = CloseFrame { code: code.into(), reason: reason.as_ref().into() };
                // One that does not read gets no further chance.
                let closing = async {
                    self.finish().await?;
                    self.stream.close(Some(frame)).await.map_err(End::from)
                };
                let _ = timeout(CLOSE, closing).await;
                Some(code)
            }
        };
        let lingering = async {
            while let Some(Ok(_)) = self.stream.next().await {}
            let stream = self.stream.get_mut();
            let _ = stream.shutdown().await;
            let (mut scratch, mut left) = ([0; 1024], LINGER_BYTES);
            while let Ok(read @ 1..) = stream.read(&mut scratch).await {
                left = left.saturating_sub(read);
                if left == 0 {
                    return;
                }
            }
        };
        let _ = timeout(CLOSE, lingering).await;
        code
    }
}

/// Bounds how long a client may take to read what is sent.
async fn read_within(within: Duration, sending: impl Future<Output = Result<(), End>>) -> Result<(), End> {
    let late = || Err(End::close(code::TOO_SLOW, "what is sent is not read"));
    timeout(within, sending).await.unwrap_or_else(|_| late())
}
