//! RFC 6455's messages over a stream of bytes. Its bounds are small until [`Frames::widen`], for whoever has shown no key
//! may cost nothing worth telling; `tokio_tungstenite`'s own stream cannot change them.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{
    Error as SocketError, Message,
    protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext},
};

use crate::{
    allowance::Allowance,
    wire::{FRAME_MOST, HELLO_MOST},
};

/// Sockets at rest are many: small buffers that grow when needed.
const READ_BUFFER: usize = 4 * 1024;
const WRITE_BUFFER: usize = 16 * 1024;
/// Bytes without a message, before and after the bounds were widened.
const ALLOWANCE_FIRST: usize = HELLO_MOST + 12 * 1024;
const ALLOWANCE: usize = FRAME_MOST + 512 * 1024;

/// Too many bytes came without a message.
#[derive(Debug, thiserror::Error)]
#[error("too many bytes came without a message")]
pub(crate) struct NothingBrought;

/// The server's side of a WebSocket.
pub(crate) struct Frames<I> {
    context: WebSocketContext,
    stream: I,
    allowance: Allowance,
    /// Nothing can be read any more.
    ended: bool,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Frames<I> {
    pub(crate) fn new(stream: I) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            .max_write_buffer_size(WRITE_BUFFER + 4 * FRAME_MOST)
            .max_message_size(Some(HELLO_MOST))
            .max_frame_size(Some(HELLO_MOST));
        let context = WebSocketContext::new(Role::Server, Some(config));
        Self { context, stream, allowance: Allowance::new(ALLOWANCE_FIRST, Instant::now()), ended: false }
    }

    /// Takes messages of any length that the protocol has from now on.
    pub(crate) fn widen(&mut self) {
        self.context.set_config(|config| {
            config.max_message_size = Some(FRAME_MOST);
            config.max_frame_size = Some(FRAME_MOST);
        });
        self.allowance = Allowance::new(ALLOWANCE, Instant::now());
    }

    /// The next message; `None`: none follows.
    pub(crate) async fn next(&mut self) -> Option<Result<Message, SocketError>> {
        if self.ended {
            return None;
        }
        let read = poll_fn(|context| self.poll(context, |protocol, stream| protocol.read(stream))).await;
        match &read {
            Ok(Message::Text(text)) => self.allowance.give_back(text.len(), Instant::now()),
            Ok(_) => {}
            Err(error) => {
                self.ended = true;
                if matches!(error, SocketError::ConnectionClosed | SocketError::AlreadyClosed) {
                    return None;
                }
            }
        }
        Some(read)
    }

    /// Puts a message behind those that are still to be written.
    pub(crate) async fn feed(&mut self, message: Message) -> Result<(), SocketError> {
        // When the stream would block the message is in the buffer already: there is nothing left for a second poll.
        let mut message = Some(message);
        poll_fn(|context| {
            self.poll(context, |protocol, stream| {
                message.take().map_or(Ok(()), |message| protocol.write(stream, message))
            })
        })
        .await
    }

    /// Writes all that was fed, and answers to pings.
    pub(crate) async fn flush(&mut self) -> Result<(), SocketError> {
        match poll_fn(|context| self.poll(context, |protocol, stream| protocol.flush(stream))).await {
            // Both sides have closed, and the last of it is written.
            Err(SocketError::ConnectionClosed) => Ok(()),
            flushed => flushed,
        }
    }

    /// Begins the closing handshake.
    pub(crate) async fn close(&mut self, frame: CloseFrame) -> Result<(), SocketError> {
        self.feed(Message::Close(Some(frame))).await?;
        self.flush().await
    }

    /// The stream itself, for whoever writes or reads past the protocol.
    pub(crate) fn stream(&mut self) -> &mut I {
        &mut self.stream
    }

    fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        step: impl FnOnce(&mut WebSocketContext, &mut Polled<'_, '_, I>) -> Result<T, SocketError>,
    ) -> Poll<Result<T, SocketError>> {
        let mut polled = Polled { stream: &mut self.stream, allowance: &mut self.allowance, context };
        match step(&mut self.context, &mut polled) {
            Err(SocketError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            done => Poll::Ready(done),
        }
    }
}

/// The stream within one poll, as the protocol wants it: it does not wait, it says that it would block.
struct Polled<'a, 'b, I> {
    stream: &'a mut I,
    allowance: &'a mut Allowance,
    context: &'a mut Context<'b>,
}

fn now_or_would_block<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(done) => done,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl<I: AsyncRead + Unpin> io::Read for Polled<'_, '_, I> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(bytes);
        now_or_would_block(Pin::new(&mut *self.stream).poll_read(self.context, &mut buffer))?;
        let read = buffer.filled().len();
        if self.allowance.take(read, Instant::now()) { Ok(read) } else { Err(io::Error::other(NothingBrought)) }
    }
}

impl<I: AsyncWrite + Unpin> io::Write for Polled<'_, '_, I> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        now_or_would_block(Pin::new(&mut *self.stream).poll_write(self.context, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        now_or_would_block(Pin::new(&mut *self.stream).poll_flush(self.context))
    }
}
