//! What happens on one client connection, so that its server can tell an idle one from one that stalls.
//!
//! hyper's header timeout also counts the rest between two requests and does not count the first bytes of a
//! connection; here the three are apart: a head that was begun must end soon, a connection at rest may rest longer.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{body::Incoming, rt::Executor};
use tokio_util::sync::CancellationToken;

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
    /// Milliseconds since `opened` at which the client took something last.
    taken: AtomicU64,
    /// Answers over HTTP/2, where a client may stop reading one of many while the connection itself does not stall.
    answers: Mutex<Vec<Weak<Held>>>,
}

/// How long a client has not taken what comes next of an answer.
#[derive(Default)]
struct Held {
    /// Milliseconds since the connection was opened, plus one; 0 while the answer waits for its source.
    since: AtomicU64,
    /// Ends the answer, and nothing else of its connection.
    end: CancellationToken,
}

/// Answers after which those that have ended are forgotten.
const ANSWERS_KEPT: usize = 256;

tokio::task_local! {
    /// Ends the stream of HTTP/2 that this task serves.
    static STREAM_END: CancellationToken;
}

/// Runs each stream of HTTP/2 as a task that can be ended by itself: the client is sent a reset of that stream.
#[derive(Clone, Copy)]
pub(super) struct StreamExecutor;

impl<F> Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let end = CancellationToken::new();
        tokio::spawn(STREAM_END.scope(end.clone(), async move { drop(end.run_until_cancelled(stream).await) }));
    }
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
            taken: AtomicU64::new(0),
            answers: Mutex::default(),
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

    /// The client took something of what it is sent.
    pub(super) fn sent(&self) {
        self.taken.store(self.opened.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Returns for how long the client has taken nothing.
    pub(super) fn untaken(&self) -> Duration {
        self.opened.elapsed().saturating_sub(Duration::from_millis(self.taken.load(Ordering::Relaxed)))
    }

    /// A request's head is complete. Its end is the guard's drop.
    pub(super) fn request(self: &Arc<Self>, multiplexed: bool) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.begun.store(false, Ordering::Release);
        self.multiplexed.store(multiplexed, Ordering::Relaxed);
        let held = multiplexed.then(|| {
            // Outside of a stream's task, which only tests are, nothing ends.
            let end = STREAM_END.try_with(CancellationToken::clone).unwrap_or_default();
            let held = Arc::new(Held { end, ..Held::default() });
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            if answers.len() >= ANSWERS_KEPT {
                answers.retain(|answer| answer.strong_count() > 0);
            }
            answers.push(Arc::downgrade(&held));
            held
        });
        InFlight { activity: self.clone(), held }
    }

    /// Ends answers over HTTP/2 of which the client has not taken what comes next for so long. Returns how many.
    pub(super) fn end_unread(&self, write_timeout: Duration) -> usize {
        let now = self.opened.elapsed();
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let unread = |answer: &Arc<Held>| {
            let since = answer.since.load(Ordering::Relaxed);
            since > 0 && now.saturating_sub(Duration::from_millis(since)) >= write_timeout
        };
        let unread = answers.iter().filter_map(Weak::upgrade).filter(unread);
        unread.filter(|answer| !answer.end.is_cancelled()).inspect(|answer| answer.end.cancel()).count()
    }

    /// Whether a client may still be writing a body that nobody reads.
    pub(super) fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Acquire)
    }

    /// Decides what the connection deserves now.
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
pub(super) struct InFlight {
    activity: Arc<Activity>,
    held: Option<Arc<Held>>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.activity.mark();
        self.activity.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An answer's body, which keeps its request in flight and notes while its client does not take what comes next.
pub(super) struct Answering {
    body: Body,
    in_flight: InFlight,
}

impl Answering {
    pub(super) fn new(body: Body, in_flight: InFlight) -> Self {
        Self { body, in_flight }
    }
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let InFlight { activity, held: Some(held) } = &self.in_flight {
            // Asked for again, it is taken: a body is asked only when there is room for more.
            let now = activity.opened.elapsed().as_millis() as u64 + 1;
            held.since.store(if frame.is_ready() { now } else { 0 }, Ordering::Relaxed);
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
    use std::future::poll_fn;

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

    #[tokio::test]
    async fn answer_held_by_client_is_ended() {
        async fn part(answer: &mut Answering) -> Option<usize> {
            let frame = poll_fn(|context| Pin::new(&mut *answer).poll_frame(context)).await?;
            Some(frame.ok()?.into_data().ok()?.len())
        }
        let activity = Activity::new();
        let parts = futures::stream::iter([Ok::<_, std::io::Error>("part"), Ok("part")]);
        let endless = futures::StreamExt::chain(parts, futures::stream::pending());
        let mut answer = Answering::new(Body::from_stream(endless), activity.request(true));
        assert_eq!(activity.end_unread(SOON), 0, "nothing was sent yet");
        assert_eq!(part(&mut answer).await, Some(4));
        assert_eq!(activity.end_unread(LATER), 0);
        assert_eq!(part(&mut answer).await, Some(4));
        assert!(futures::FutureExt::now_or_never(part(&mut answer)).is_none());
        assert_eq!(activity.end_unread(SOON), 0, "it is the source that owes the next part");
        drop(answer);
        let parts = futures::stream::iter([Ok::<_, std::io::Error>("part"), Ok("part")]);
        let mut held = Answering::new(Body::from_stream(parts), activity.request(true));
        assert_eq!(part(&mut held).await, Some(4));
        assert_eq!((activity.end_unread(SOON), activity.end_unread(SOON)), (1, 0), "an answer ends once");
    }
}
