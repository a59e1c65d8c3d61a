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
use tokio_util::sync::CancellationToken;

use crate::{
    Changes, Service,
    metrics::SyncMetrics,
    run::{RUN_BYTES, Run, runs},
};

/// How long a question to a log without news waits for some.
const WAIT: Duration = Duration::from_secs(50);
/// A room must know its place within this time.
const START: Duration = Duration::from_secs(10);
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MOST: Duration = Duration::from_secs(1);
/// Bytes that one room holds, and all of them together before each is cut to `ROOM_LEAST`.
const ROOM_MOST: usize = 512 * 1024;
const ROOM_LEAST: usize = RUN_BYTES;
const ALL_MOST: usize = 256 * 1024 * 1024;
/// What one look at a room returns.
const SLICE_RUNS: usize = 64;
const SLICE_BYTES: usize = 256 * 1024;

/// What a room has for somebody at a place.
#[derive(Debug)]
pub(crate) enum Slice {
    /// The next ones, in order, without a gap.
    Runs(Vec<Run>),
    /// Nothing yet.
    Current,
    /// The place is not within what the room holds.
    Elsewhere,
}

/// What is held: everything after `floor`, up to the last change that is known.
#[derive(Default)]
struct Ring {
    floor: i64,
    runs: VecDeque<Run>,
    bytes: usize,
}

impl Ring {
    fn end(&self) -> i64 {
        self.runs.back().map_or(self.floor, Run::last)
    }
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
        // What was pushed meanwhile may be here already; `floor` and runs belong together.
        let end = ring.end();
        if place < ring.floor || place > end {
            return Slice::Elsewhere;
        }
        if place == end {
            return Slice::Current;
        }
        let first = ring.runs.partition_point(|run| run.last() <= place);
        let mut bytes = 0;
        let within = |run: &&Run| {
            let fits = bytes == 0 || bytes + run.size() <= SLICE_BYTES;
            bytes += run.size();
            fits
        };
        let next = ring.runs.range(first..).take(SLICE_RUNS).take_while(within);
        Slice::Runs(next.map(|run| run.after(place)).collect())
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
        let runs = runs(changes);
        let mut ring = self.lock();
        let before = ring.bytes;
        if start_anew {
            *ring = Ring { floor: seq, runs: VecDeque::new(), bytes: 0 };
        }
        for run in runs {
            ring.bytes += run.size();
            ring.runs.push_back(run);
        }
        let all = self.held_by_all.load(Ordering::Relaxed);
        let most = if all > ALL_MOST { ROOM_LEAST } else { ROOM_MOST };
        while ring.bytes > most && ring.runs.len() > 1 {
            if let Some(run) = ring.runs.pop_front() {
                ring.bytes -= run.size();
                ring.floor = run.last();
            }
        }
        let end = ring.end();
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

/// Waits until a room that is watched is elsewhere than at `place`. False: there is no room any more.
pub(crate) async fn moved_from(last: &mut watch::Receiver<Option<i64>>, place: i64) -> bool {
    last.wait_for(|last| last.is_some_and(|last| last != place)).await.is_ok()
}

#[cfg(test)]
mod tests {
    use tenancy::LOCAL_TENANT;

    use super::*;
    use crate::Change;

    fn room() -> Room {
        Room::new(LOCAL_TENANT, Arc::default(), SyncMetrics::default())
    }

    fn page(from: i64, to: i64, size: usize) -> Changes {
        let changes = (from..=to).map(|seq| Change { seq, json: format!("{seq}{}", "x".repeat(size)) }).collect();
        Changes { seq: to, changes, resync: false }
    }

    fn numbers(slice: Slice) -> Vec<i64> {
        match slice {
            Slice::Runs(runs) => runs.iter().flat_map(Run::changes).map(|(seq, _)| seq).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_reads_from_its_own_place_on() {
        let room = room();
        assert!(matches!(room.after(0), Slice::Current), "nothing is known yet");
        assert_eq!(room.take(Changes { seq: 5, ..Changes::default() }, None), 5);
        assert_eq!(room.take(page(6, 9, 10), Some(5)), 9);
        assert_eq!(numbers(room.after(5)), [6, 7, 8, 9]);
        assert_eq!(numbers(room.after(8)), [9]);
        assert!(matches!(room.after(9), Slice::Current));
        assert!(matches!(room.after(4), Slice::Elsewhere), "older than what the room holds");
        assert!(matches!(room.after(10), Slice::Elsewhere), "the client knows more than the room");
    }

    #[test]
    fn pages_of_one_change_each_are_read_together_and_in_parts() {
        let room = room();
        room.take(Changes::default(), None);
        for seq in 1..=200 {
            room.take(page(seq, seq, 10), Some(seq - 1));
        }
        assert_eq!(numbers(room.after(100)), (101..=164).collect::<Vec<_>>());
        assert_eq!(numbers(room.after(164)), (165..=200).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_held_is_bounded_and_a_slice_too() {
        let room = room();
        room.take(Changes::default(), None);
        room.take(page(1, 2000, 1000), Some(0));
        assert!(room.lock().bytes <= ROOM_MOST);
        assert!(matches!(room.after(0), Slice::Elsewhere));
        let floor = room.lock().floor;
        let slice = numbers(room.after(floor));
        assert_eq!(slice[0], floor + 1);
        assert!(slice.len() * 1000 <= SLICE_BYTES, "{} changes", slice.len());
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
        assert!(matches!(room.after(9), Slice::Elsewhere));
        assert!(matches!(room.after(3), Slice::Current));
    }
}
