//! What happens on one client connection, so that its server can tell an idle one from one that stalls.
//!
//! hyper's header timeout also counts the rest between two requests and does not count the first bytes of a
//! connection; here the three are apart: a head that was begun must end soon, a connection at rest may rest longer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

/// See the module.
pub(super) struct Activity {
    opened: Instant,
    in_flight: AtomicUsize,
    /// Milliseconds since `opened` at which the present state began.
    since: AtomicU64,
    /// Bytes came that are no whole request yet.
    begun: AtomicBool,
    multiplexed: AtomicBool,
    /// The last request's body was not read to its end, so the client may still be writing.
    unread: AtomicBool,
}

/// What to do with a connection.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Judgement {
    /// All is well.
    Keep,
    /// It is at rest for long: end it politely.
    Idle,
    /// A head does not come to its end: cut it off.
    Stalled,
}

impl Activity {
    /// A connection that was just opened owes a request, as if one had begun.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            in_flight: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            begun: AtomicBool::new(true),
            multiplexed: AtomicBool::new(false),
            unread: AtomicBool::new(false),
        })
    }

    fn mark(&self) {
        self.since.store(self.opened.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Bytes came.
    pub(super) fn received(&self) {
        if self.in_flight.load(Ordering::Acquire) == 0 && !self.begun.swap(true, Ordering::AcqRel) {
            self.mark();
        }
    }

    /// A request's head is complete. Its end is the guard's drop.
    pub(super) fn request(self: &Arc<Self>, multiplexed: bool) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.begun.store(false, Ordering::Release);
        self.multiplexed.store(multiplexed, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// Whether a client may still be writing a body that nobody reads.
    pub(super) fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Acquire)
    }

    /// What the connection deserves now.
    pub(super) fn judge(&self, header_timeout: Duration, keep_alive: Duration) -> Judgement {
        if self.in_flight.load(Ordering::Acquire) > 0 {
            return Judgement::Keep;
        }
        let since = Duration::from_millis(self.since.load(Ordering::Relaxed));
        let lasts = self.opened.elapsed().saturating_sub(since);
        // On HTTP/2 bytes between requests are pings and settings, not a head.
        let stalls = self.begun.load(Ordering::Acquire) && !self.multiplexed.load(Ordering::Relaxed);
        if stalls && lasts >= header_timeout {
            Judgement::Stalled
        } else if lasts >= keep_alive {
            Judgement::Idle
        } else {
            Judgement::Keep
        }
    }
}

/// A request that is being answered: from its head to the last byte of its answer.
pub(super) struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.mark();
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An answer's body, which keeps its request in flight.
pub(super) struct Answering {
    pub(super) body: Body,
    pub(super) _in_flight: InFlight,
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request's body, which notes whether it was read to its end.
pub(super) struct Asking {
    body: Incoming,
    activity: Arc<Activity>,
}

impl Asking {
    pub(super) fn new(body: Incoming, activity: Arc<Activity>) -> Self {
        activity.unread.store(!body.is_end_stream(), Ordering::Release);
        Self { body, activity }
    }
}

impl http_body::Body for Asking {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.activity.unread.store(false, Ordering::Release);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::ZERO;
    const LATER: Duration = Duration::from_mins(1);

    #[test]
    fn a_connection_owes_its_first_request() {
        let activity = Activity::new();
        assert_eq!(activity.judge(SOON, LATER), Judgement::Stalled);
    }

    #[test]
    fn a_request_in_flight_is_left_alone_and_its_end_begins_the_rest() {
        let activity = Activity::new();
        let request = activity.request(false);
        activity.received();
        assert_eq!(activity.judge(SOON, SOON), Judgement::Keep);
        drop(request);
        assert_eq!(activity.judge(SOON, LATER), Judgement::Keep);
        assert_eq!(activity.judge(LATER, SOON), Judgement::Idle);
    }

    #[test]
    fn half_a_head_after_a_rest_stalls() {
        let activity = Activity::new();
        drop(activity.request(false));
        activity.received();
        assert_eq!(activity.judge(SOON, LATER), Judgement::Stalled);
        drop(activity.request(true));
        activity.received();
        assert_eq!(activity.judge(SOON, LATER), Judgement::Keep, "HTTP/2 also pings");
    }
}
