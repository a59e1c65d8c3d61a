//! One tenant's room: follows the log for all who are in it and holds the newest changes, bounded, so that each is read and
//! serialised once. Whoever is further behind reads the log by itself.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tenancy::TenantId;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;

use crate::{Change, Changes, Service, metrics::SyncMetrics};

/// How long a question to a log without news waits for some.
const WAIT: Duration = Duration::from_secs(50);
/// A room must know its place within this time.
const START: Duration = Duration::from_secs(10);
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MOST: Duration = Duration::from_secs(1);
/// Bytes that one room holds, and all of them together before each is cut to `ROOM_LEAST`.
const ROOM_MOST: usize = 512 * 1024;
const ROOM_LEAST: usize = 16 * 1024;
const ALL_MOST: usize = 256 * 1024 * 1024;
/// What one look at a room returns.
const SLICE_FRAMES: usize = 256;
const SLICE_BYTES: usize = 256 * 1024;

/// A change as sockets are sent it; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) seq: i64,
    pub(crate) text: Utf8Bytes,
}

impl From<Change> for Frame {
    fn from(change: Change) -> Self {
        Self { seq: change.seq, text: change.json.into() }
    }
}

/// What a room has for somebody at a place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Slice {
    /// The next ones, in order, without a gap.
    Frames(Vec<Frame>),
    /// Nothing yet.
    Current,
    /// The place is not within what the room holds.
    Elsewhere,
}

/// What is held: everything after `floor`, up to the last change that is known.
#[derive(Default)]
struct Ring {
    floor: i64,
    frames: VecDeque<Frame>,
    bytes: usize,
}

/// See the module.
pub(crate) struct Room {
    tenant: TenantId,
    ring: Mutex<Ring>,
    /// The last change that is known; `None` until the log was reached once.
    last: watch::Sender<Option<i64>>,
    held_by_all: Arc<AtomicUsize>,
    metrics: SyncMetrics,
}

impl Room {
    pub(crate) fn new(tenant: TenantId, held_by_all: Arc<AtomicUsize>, metrics: SyncMetrics) -> Self {
        Self { tenant, ring: Mutex::default(), last: watch::channel(None).0, held_by_all, metrics }
    }

    pub(crate) fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Tells of every change of the last number.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<i64>> {
        self.last.subscribe()
    }

    /// The last change there is, once the log was reached. `None`: it could not be within a bounded time.
    pub(crate) async fn start(&self) -> Option<i64> {
        let mut last = self.watch();
        let known = tokio::time::timeout(START, last.wait_for(Option::is_some)).await;
        known.ok()?.ok().and_then(|last| *last)
    }

    /// What follows `place`.
    pub(crate) fn after(&self, place: i64) -> Slice {
        let Some(last) = *self.last.borrow() else { return Slice::Current };
        if place == last {
            return Slice::Current;
        }
        let ring = self.lock();
        // What was pushed meanwhile may be here already; `floor` and frames belong together.
        let end = ring.frames.back().map_or(ring.floor, |frame| frame.seq);
        if place < ring.floor || place > end {
            return Slice::Elsewhere;
        }
        if place == end {
            return Slice::Current;
        }
        let mut bytes = 0;
        let frames = ring.frames.iter().skip((place - ring.floor) as usize).take(SLICE_FRAMES);
        let within = |frame: &&Frame| {
            let fits = bytes == 0 || bytes + frame.text.len() <= SLICE_BYTES;
            bytes += frame.text.len();
            fits
        };
        Slice::Frames(frames.take_while(within).cloned().collect())
    }

    /// Follows the log until stopped.
    pub(crate) async fn follow<S: Service>(&self, service: &S, stop: CancellationToken) {
        let (mut since, mut pause) = (None, PAUSE_FIRST);
        while let Some(answer) = stop.run_until_cancelled(service.changes(self.tenant, since, WAIT)).await {
            match answer {
                Ok(page) => {
                    pause = PAUSE_FIRST;
                    since = Some(self.take(page, since));
                }
                Err(error) => {
                    self.metrics.interruptions.inc();
                    tracing::debug!(tenant = %self.tenant, %error, "a log cannot be followed just now; trying again");
                    let pause_now = pause.mul_f64(rand::random_range(0.75..1.25));
                    if stop.run_until_cancelled(tokio::time::sleep(pause_now)).await.is_none() {
                        return;
                    }
                    pause = (pause * 2).min(PAUSE_MOST);
                }
            }
        }
    }

    /// Takes a page in that was asked for from `since` on. Returns where the room stands now.
    fn take(&self, page: Changes, since: Option<i64>) -> i64 {
        let Changes { seq, changes, resync } = page;
        let start_anew = resync || since.is_none_or(|since| seq < since);
        let mut ring = self.lock();
        let before = ring.bytes;
        if start_anew {
            *ring = Ring { floor: seq, frames: VecDeque::new(), bytes: 0 };
        }
        for change in changes {
            ring.bytes += change.json.len();
            ring.frames.push_back(change.into());
        }
        let all = self.held_by_all.load(Ordering::Relaxed);
        let most = if all > ALL_MOST { ROOM_LEAST } else { ROOM_MOST };
        while ring.bytes > most && ring.frames.len() > 1 {
            if let Some(frame) = ring.frames.pop_front() {
                ring.bytes -= frame.text.len();
                ring.floor = frame.seq;
            }
        }
        let end = ring.frames.back().map_or(ring.floor, |frame| frame.seq);
        self.account(before, ring.bytes);
        drop(ring);
        self.last.send_if_modified(|last| last.replace(end) != Some(end));
        end
    }

    fn account(&self, before: usize, now: usize) {
        if now >= before {
            self.held_by_all.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.held_by_all.fetch_sub(before - now, Ordering::Relaxed);
        }
        self.metrics.held_bytes.set(self.held_by_all.load(Ordering::Relaxed) as i64);
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let held = self.lock().bytes;
        self.account(held, 0);
    }
}

#[cfg(test)]
mod tests {
    use tenancy::LOCAL_TENANT;

    use super::*;

    fn room() -> Room {
        Room::new(LOCAL_TENANT, Arc::default(), SyncMetrics::default())
    }

    fn page(from: i64, to: i64, size: usize) -> Changes {
        let changes = (from..=to).map(|seq| Change { seq, json: format!("{seq}{}", "x".repeat(size)) }).collect();
        Changes { seq: to, changes, resync: false }
    }

    fn numbers(slice: Slice) -> Vec<i64> {
        match slice {
            Slice::Frames(frames) => frames.iter().map(|frame| frame.seq).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_reads_from_its_own_place_on() {
        let room = room();
        assert_eq!(room.after(0), Slice::Current, "nothing is known yet");
        assert_eq!(room.take(Changes { seq: 5, ..Changes::default() }, None), 5);
        assert_eq!(room.take(page(6, 9, 10), Some(5)), 9);
        assert_eq!(numbers(room.after(5)), [6, 7, 8, 9]);
        assert_eq!(numbers(room.after(8)), [9]);
        assert_eq!(room.after(9), Slice::Current);
        assert_eq!(room.after(4), Slice::Elsewhere, "older than what the room holds");
        assert_eq!(room.after(10), Slice::Elsewhere, "the client knows more than the room");
    }

    #[test]
    fn what_is_held_is_bounded_and_a_slice_too() {
        let room = room();
        room.take(Changes::default(), None);
        room.take(page(1, 2000, 1000), Some(0));
        assert!(room.lock().bytes <= ROOM_MOST);
        assert_eq!(room.after(0), Slice::Elsewhere);
        let floor = room.lock().floor;
        let slice = numbers(room.after(floor));
        assert_eq!(slice[0], floor + 1);
        assert!(slice.len() <= SLICE_FRAMES);
        room.take(page(2001, 2001, ROOM_MOST * 2), Some(2000));
        assert_eq!(numbers(room.after(2000)), [2001], "one large change still goes through");
        let all = room.held_by_all.clone();
        assert!(all.load(Ordering::Relaxed) > 0);
        drop(room);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_log_that_starts_anew_sends_everybody_to_look() {
        let room = room();
        room.take(Changes { seq: 5, ..Changes::default() }, None);
        room.take(page(6, 9, 10), Some(5));
        assert_eq!(room.take(Changes { seq: 3, changes: Vec::new(), resync: true }, Some(9)), 3);
        assert_eq!(room.after(9), Slice::Elsewhere);
        assert_eq!(room.after(3), Slice::Current);
    }
}
