//! Bytes that a client may send without a message: empty fragments, pings and a message that never ends cost us work and
//! bring nothing. A token bucket as a pure function of time, filled slowly, and by each message that comes.

use std::time::{Duration, Instant};

/// Bytes that come back by themselves each second: an honest client's pings are a hundredth of it.
const REFILL_BYTES_PER_SECOND: u32 = 4 * 1024;
/// A message gives back its bytes this many times, for its fragments have heads of up to 14 bytes each.
const RETURNED_FOR_EACH_BYTE: usize = 2;
/// What any message gives back besides.
const RETURNED_FOR_A_MESSAGE: usize = 64;

/// The bytes that are left.
pub(crate) struct Allowance {
    /// Bytes of a full bucket.
    most: usize,
    /// When the bucket would be full again.
    full_at: Instant,
}

impl Allowance {
    /// A full bucket of so many bytes.
    pub(crate) fn new(most: usize, now: Instant) -> Self {
        Self { most, full_at: now }
    }

    /// Takes bytes that were read. False: it is used up.
    pub(crate) fn take(&mut self, bytes: usize, now: Instant) -> bool {
        self.full_at = self.full_at.max(now) + time_of(bytes);
        self.full_at - now <= time_of(self.most)
    }

    /// Gives back what a message of so many bytes took.
    pub(crate) fn give_back(&mut self, message_bytes: usize, now: Instant) {
        let returned = time_of(message_bytes * RETURNED_FOR_EACH_BYTE + RETURNED_FOR_A_MESSAGE);
        self.full_at = self.full_at.checked_sub(returned).map_or(now, |full_at| full_at.max(now));
    }
}

/// How long bytes take to come back.
fn time_of(bytes: usize) -> Duration {
    Duration::from_secs(bytes as u64) / REFILL_BYTES_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 768 * 1024;
    const MESSAGE: usize = 256 * 1024;
    /// Head and mask of a client's fragment or ping of up to 125 bytes.
    const HEAD: usize = 6;

    #[test]
    fn bytes_without_a_message_end_it() {
        let now = Instant::now();
        let mut allowance = Allowance::new(MOST, now);
        let taken = (0..MOST).take_while(|_| allowance.take(HEAD, now)).count();
        assert_eq!(taken, MOST / HEAD);
    }

    #[test]
    fn a_ping_each_second_never_ends_it() {
        let mut now = Instant::now();
        let mut allowance = Allowance::new(MOST, now);
        for _ in 0..7 * 24 * 3600 {
            now += Duration::from_secs(1);
            assert!(allowance.take(HEAD + 125, now));
        }
    }

    #[test]
    fn messages_in_many_fragments_never_end_it() {
        let now = Instant::now();
        for fragment in [HEAD, 16, 125, MESSAGE] {
            let mut allowance = Allowance::new(MOST, now);
            for _ in 0..100 {
                for _ in 0..MESSAGE.div_ceil(fragment) {
                    assert!(allowance.take(HEAD + fragment, now), "fragments of {fragment} bytes");
                }
                allowance.give_back(MESSAGE, now);
            }
        }
    }

    #[test]
    fn small_messages_pay_for_no_flood() {
        let now = Instant::now();
        let mut allowance = Allowance::new(MOST, now);
        let mut messages = 0;
        while allowance.take(16 * 1024, now) {
            allowance.give_back(10, now);
            messages += 1;
        }
        assert!(messages < 50, "{messages} messages with 16 KiB of pings each");
    }
}
