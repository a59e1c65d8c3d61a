//! How fast a socket's operations are read: a token bucket (RFC 2697's committed burst) as a pure function of time. Over
//! the rate nothing is refused, the next frame is read later, so that the client's own writing slows down.

use std::time::{Duration, Instant};

/// Bytes of a frame that weigh one operation.
const OPERATION_BYTES: usize = 16 * 1024;

/// A bucket of one second's operations.
pub(crate) struct Pace {
    /// When the bucket would be full again.
    full_at: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes one frame of so many bytes at `per_second` operations. Returns when the next may be read, if not at once.
    pub(crate) fn take(&mut self, bytes: usize, now: Instant, per_second: u32) -> Option<Instant> {
        let step = Duration::from_secs(1) / per_second.max(1);
        self.full_at = self.full_at.max(now) + step * weight(bytes);
        // One second's worth may come at once.
        let next = self.full_at + step;
        let most = now + Duration::from_secs(1).max(step);
        (next > most).then(|| now + (next - most))
    }
}

/// The operations that a frame counts for: one for each 16 KiB begun.
fn weight(bytes: usize) -> u32 {
    bytes.div_ceil(OPERATION_BYTES).max(1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seconds_worth_passes_at_once_and_then_one_at_a_time() {
        let start = Instant::now();
        for per_second in [1, 10, 200] {
            let mut pace = Pace::new(start);
            let at_once = (0..1000).take_while(|_| pace.take(100, start, per_second).is_none()).count() as u32 + 1;
            assert_eq!(at_once, per_second, "{per_second}");
        }
    }

    #[test]
    fn whoever_waits_as_told_is_read_at_the_rate() {
        let start = Instant::now();
        let (mut pace, mut now, mut read) = (Pace::new(start), start, 0);
        while now < start + Duration::from_secs(10) {
            read += 1;
            now = pace.take(100, now, 10).unwrap_or(now);
        }
        assert!((109..=111).contains(&read), "{read}");
    }
    #[test]
    fn large_frames_are_read_at_the_rate_of_their_bytes() {
        let start = Instant::now();
        let seconds_for = |bytes: usize| {
            let (mut pace, mut now) = (Pace::new(start), start);
            for _ in 0..100 {
                now = pace.take(bytes, now, 10).unwrap_or(now);
            }
            (now - start).as_secs()
        };
        // A second's worth comes at once.
        assert_eq!(seconds_for(OPERATION_BYTES), 9);
        assert_eq!(seconds_for(OPERATION_BYTES + 1), 19);
        assert_eq!(seconds_for(256 * 1024), 159);
    }
}
