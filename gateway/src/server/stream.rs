//! A client's connection as hyper sees it: reports what it reads, ends when its client takes nothing of what it is sent, and
//! closes gently.
//!
//! A connection that closes while its client still writes is reset, and the client may never see the answer that was
//! sent before. So when a body was refused unread, the rest is read and dropped for a bounded time after the last byte
//! of the answer.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_io_timeout::TimeoutWriter;

use super::activity::Activity;

/// Bytes that wait in the kernel for a client that does not read: enough for full speed, and few for ten thousand of them.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 * 1024 * 1024;
const SCRATCH: usize = 16 * 1024;

/// See the module.
pub(super) struct ClientStream {
    stream: Pin<Box<TimeoutWriter<TcpStream>>>,
    activity: Arc<Activity>,
    lingering: Option<Lingering>,
}

struct Lingering {
    end: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl ClientStream {
    /// Wraps a connection. A write that brings no byte further within `write_timeout` fails.
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>, write_timeout: Duration) -> Self {
        // Without these, small answers wait for the client's acknowledgement, and the kernel keeps megabytes of an answer
        // that nobody reads; a failure only costs that.
        let _ = stream.set_nodelay(true);
        #[cfg(target_os = "linux")]
        {
            let socket = socket2::SockRef::from(&stream);
            let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES);
            // A client that vanished acknowledges nothing: what it held is free again before the kernel gives up by itself.
            let _ = socket.set_tcp_user_timeout(Some(write_timeout));
        }
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(write_timeout));
        Self { stream: Box::pin(stream), activity, lingering: None }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = self.stream.as_mut().poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.received();
        }
        done
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.stream.as_mut().poll_write(context, bytes);
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.activity.sent();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, activity, lingering } = self.get_mut();
        ready!(stream.as_mut().poll_shutdown(context))?;
        if !activity.is_unread() {
            return Poll::Ready(Ok(()));
        }
        let lingering =
            lingering.get_or_insert_with(|| Lingering { end: Box::pin(sleep(LINGER_TIME)), bytes_left: LINGER_BYTES });
        let mut scratch = [0; SCRATCH];
        while lingering.bytes_left > 0 && lingering.end.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(stream.as_mut().poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    lingering.bytes_left = lingering.bytes_left.saturating_sub(buffer.filled().len());
                }
                // The client closed too, one way or another.
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream.as_mut().poll_write_vectored(context, parts);
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.activity.sent();
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
