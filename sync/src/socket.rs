//! A client's WebSocket: what it reads and writes, its bounds, and how it ends.

use std::{borrow::Cow, future::poll_fn, io::IoSlice, pin::Pin, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};
use tokio_tungstenite::tungstenite::{
    Error as SocketError, Message, Utf8Bytes,
    error::{CapacityError, ProtocolError},
    protocol::CloseFrame,
};

use crate::{
    frames::{Frames, NothingBrought},
    outgoing::Outgoing,
    run::Run,
    wire::{HELLO_MOST, code},
};

const CLOSE: Duration = Duration::from_secs(2);
/// Bytes that are read and dropped after a close, so that the client reads why.
const LINGER_BYTES: usize = 1024 * 1024;
/// Parts of what one write takes.
const WRITE_PARTS: usize = 64;

/// A WebSocket over any stream of bytes.
pub(crate) struct Socket<I> {
    frames: Frames<I>,
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
            SocketError::Capacity(CapacityError::MessageTooLong { max_size, .. }) => {
                let first = "the first frame has at most 4 KiB";
                Self::close(code::TOO_BIG, if max_size == HELLO_MOST { first } else { "a message has at most 256 KiB" })
            }
            SocketError::Io(error)
                if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<NothingBrought>) =>
            {
                Self::close(code::POLICY, "too many pings or fragments without a message: send fewer")
            }
            SocketError::Utf8(_) => Self::close(code::NOT_UTF8, "a text frame is not UTF-8"),
            SocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Gone,
            SocketError::Protocol(_) => Self::close(code::PROTOCOL, "a frame breaks RFC 6455"),
            _ => Self::Gone,
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Socket<I> {
    /// A socket that takes a first frame.
    pub(crate) fn new(stream: I) -> Self {
        Self { frames: Frames::new(stream), unsent: Outgoing::default() }
    }

    /// Takes operations from now on: the client was let in.
    pub(crate) fn let_in(&mut self) {
        self.frames.widen();
    }

    /// The next text; `None` for a frame that says only that the client lives.
    pub(crate) async fn next(&mut self) -> Result<Option<Utf8Bytes>, End> {
        match self.frames.next().await {
            Some(Ok(Message::Text(text))) => Ok(Some(text)),
            Some(Ok(Message::Binary(_))) => Err(End::close(code::NO_TEXT, "frames are JSON texts")),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                // The answer to a ping waits in the buffer.
                self.frames.flush().await?;
                Ok(None)
            }
            Some(Ok(Message::Close(_))) => {
                let _ = self.frames.flush().await;
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
                self.frames.feed(message).await?;
            }
            Ok(self.frames.flush().await?)
        };
        read_within(within, sending).await
    }

    /// Sends changes. Their bytes are the room's own, the same for every socket, and are not copied: a socket that was sent
    /// many keeps nothing of them.
    pub(crate) async fn changes(&mut self, runs: &[Run], within: Duration) -> Result<(), End> {
        self.unsent = runs.iter().collect();
        let sending = async {
            self.frames.flush().await?;
            self.finish().await
        };
        read_within(within, sending).await
    }

    /// Writes what is left of changes.
    async fn finish(&mut self) -> Result<(), End> {
        while !self.unsent.is_empty() {
            let (stream, unsent) = (self.frames.stream(), &self.unsent);
            // Gathered at each poll, so that a socket at rest has no room for it.
            let write = poll_fn(|context| {
                let mut parts = [IoSlice::new(&[]); WRITE_PARTS];
                let filled = unsent.chunks_vectored(&mut parts);
                Pin::new(&mut *stream).poll_write_vectored(context, &parts[..filled])
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
                // One that does not read gets no further chance, and one that is dismissed nothing that was not begun.
                self.unsent.keep_begun();
                let closing = async {
                    self.finish().await?;
                    self.frames.close(frame).await.map_err(End::from)
                };
                let _ = timeout(CLOSE, closing).await;
                Some(code)
            }
        };
        let lingering = async {
            while let Some(Ok(_)) = self.frames.next().await {}
            let stream = self.frames.stream();
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
