//! A request's body on its way to the engine: small ones are kept for a retry, larger ones stream; all are bounded.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::{HeaderMap, header::CONTENT_LENGTH};
use tokio::time::{Instant, timeout_at};

use crate::{encoding::Overlong, error::Error};

/// Bodies up to this size are kept in memory, so that they can be sent again.
pub const KEPT: usize = 64 * 1024;

/// A body that can be sent, perhaps more than once.
pub enum Outgoing {
    /// All of it.
    Whole(Bytes),
    /// Its begin, and the rest as it comes.
    Streamed(Arc<Streamed>),
}

/// A body that is passed on as it arrives. Once a part was taken it cannot be sent again.
pub struct Streamed {
    rest: Mutex<Rest>,
    state: AtomicU8,
    limit: usize,
}

struct Rest {
    kept: Option<Bytes>,
    stream: BodyDataStream,
    taken: usize,
}

const UNTOUCHED: u8 = 0;
const TAKEN: u8 = 1;
const COMPLETE: u8 = 2;
const TOO_LARGE: u8 = 3;
const BROKEN: u8 = 4;

/// Reads a body until it ends or is too large to keep.
///
/// # Errors
/// [`Error::BodyTooLarge`] over `limit`, [`Error::BodyTooSlow`] at the deadline, [`Error::BodyBroken`].
pub async fn take(body: Body, headers: &HeaderMap, limit: usize, deadline: Instant) -> Result<Outgoing, Error> {
    let declared = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(Error::BodyTooLarge(limit));
    }
    let mut stream = body.into_data_stream();
    let mut kept = BytesMut::new();
    loop {
        match timeout_at(deadline, stream.next()).await {
            Err(_) => return Err(Error::BodyTooSlow),
            Ok(None) => return Ok(Outgoing::Whole(kept.freeze())),
            Ok(Some(Err(error))) => return Err(fault_of(error, limit)),
            Ok(Some(Ok(part))) => kept.extend_from_slice(&part),
        }
        if kept.len() > limit {
            return Err(Error::BodyTooLarge(limit));
        }
        if kept.len() > KEPT {
            let rest = Rest { kept: Some(kept.freeze()), stream, taken: 0 };
            return Ok(Outgoing::Streamed(Arc::new(Streamed {
                rest: Mutex::new(rest),
                state: AtomicU8::new(UNTOUCHED),
                limit,
            })));
        }
    }
}

impl Outgoing {
    /// The body, for one attempt.
    pub fn attempt(&self) -> Body {
        match self {
            Self::Whole(bytes) => Body::from(bytes.clone()),
            Self::Streamed(streamed) => Body::from_stream(Attempt(streamed.clone())),
        }
    }

    /// Whether another attempt would send the same.
    pub fn is_repeatable(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Streamed(streamed) => streamed.state.load(Ordering::Acquire) == UNTOUCHED,
        }
    }

    /// Whether an attempt failed because of the client.
    pub fn fault(&self) -> Option<Error> {
        let Self::Streamed(streamed) = self else { return None };
        match streamed.state.load(Ordering::Acquire) {
            TOO_LARGE => Some(Error::BodyTooLarge(streamed.limit)),
            BROKEN => Some(Error::BodyBroken(axum::Error::new("the client's body broke off"))),
            _ => None,
        }
    }

    /// Whether the client still owes a part of it.
    pub fn is_unfinished(&self) -> bool {
        matches!(self, Self::Streamed(streamed) if streamed.state.load(Ordering::Acquire) != COMPLETE)
    }
}

/// A compressed body may turn out to be too long before there are too many plain bytes.
fn fault_of(error: axum::Error, limit: usize) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(one) = cause {
        if one.is::<Overlong>() {
            return Error::BodyTooLarge(limit);
        }
        cause = one.source();
    }
    Error::BodyBroken(error)
}

struct Attempt(Arc<Streamed>);

impl Stream for Attempt {
    type Item = Result<Bytes, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Streamed { rest, state, limit } = &*self.0;
        let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
        let part = if let Some(kept) = rest.kept.take() {
            kept
        } else {
            match std::task::ready!(rest.stream.poll_next_unpin(context)) {
                Some(Ok(part)) => part,
                Some(Err(error)) => {
                    let fault = fault_of(error, *limit);
                    let now = if matches!(fault, Error::BodyTooLarge(_)) { TOO_LARGE } else { BROKEN };
                    state.store(now, Ordering::Release);
                    return Poll::Ready(Some(Err(fault)));
                }
                None => {
                    state.store(COMPLETE, Ordering::Release);
                    return Poll::Ready(None);
                }
            }
        };
        rest.taken += part.len();
        if rest.taken > *limit {
            state.store(TOO_LARGE, Ordering::Release);
            return Poll::Ready(Some(Err(Error::BodyTooLarge(*limit))));
        }
        state.store(TAKEN, Ordering::Release);
        Poll::Ready(Some(Ok(part)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn chunks(sizes: &[usize]) -> Body {
        let parts: Vec<Result<Bytes, std::io::Error>> = sizes.iter().map(|n| Ok(Bytes::from(vec![b'x'; *n]))).collect();
        Body::from_stream(futures::stream::iter(parts))
    }

    async fn read(body: Body, limit: usize) -> Result<Outgoing, Error> {
        take(body, &HeaderMap::new(), limit, Instant::now() + Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn a_small_body_can_be_sent_twice() {
        let body = read(chunks(&[10, 20]), 100).await.expect("it fits");
        for _ in 0..2 {
            assert!(body.is_repeatable());
            assert_eq!(axum::body::to_bytes(body.attempt(), 1000).await.expect("readable").len(), 30);
        }
    }

    #[tokio::test]
    async fn a_chunked_body_is_bounded_too() {
        assert!(matches!(read(chunks(&[60, 60]), 100).await, Err(Error::BodyTooLarge(100))));
        let limit = KEPT * 2;
        let body = read(chunks(&[KEPT + 1, KEPT, 1]), limit).await.expect("too large is seen later");
        assert!(axum::body::to_bytes(body.attempt(), usize::MAX).await.is_err());
        assert!(matches!(body.fault(), Some(Error::BodyTooLarge(_))));
    }

    #[tokio::test]
    async fn a_large_body_streams_once() {
        let body = read(chunks(&[KEPT, 1000]), KEPT * 2).await.expect("it fits");
        assert!(body.is_repeatable());
        drop(body.attempt());
        assert!(body.is_repeatable(), "an attempt that took nothing costs nothing");
        assert_eq!(axum::body::to_bytes(body.attempt(), usize::MAX).await.expect("readable").len(), KEPT + 1000);
        assert!(!body.is_repeatable() && !body.is_unfinished());
    }

    #[tokio::test]
    async fn a_body_that_never_comes_is_given_up() {
        let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let deadline = Instant::now() + Duration::from_millis(20);
        assert!(matches!(take(body, &HeaderMap::new(), 100, deadline).await, Err(Error::BodyTooSlow)));
    }

    #[tokio::test]
    async fn a_declared_length_is_believed_when_too_large() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, "101".parse().expect("a value"));
        let deadline = Instant::now() + Duration::from_secs(5);
        assert!(matches!(take(Body::empty(), &headers, 100, deadline).await, Err(Error::BodyTooLarge(100))));
    }
}
