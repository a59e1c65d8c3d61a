//! When to try again: exponential per object, with jitter so that a thousand Tenants that failed together do not
//! come back together.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use rand::RngExt;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_mins(1);

/// How often each object has failed in a row.
#[derive(Default)]
pub struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
}

impl Backoff {
    /// Notes a failure and says how long to wait.
    pub fn failed(&self, key: &str) -> Duration {
        let mut failures = self.lock();
        let count = failures.entry(key.to_owned()).or_insert(0);
        *count = count.saturating_add(1);
        delay(*count, rand::rng().random_range(0.5..1.0))
    }

    /// How often it has failed in a row.
    pub fn failures(&self, key: &str) -> u32 {
        self.lock().get(key).copied().unwrap_or_default()
    }

    /// Notes a success.
    pub fn succeeded(&self, key: &str) {
        self.lock().remove(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, u32>> {
        self.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The wait after the nth failure (from 1): doubling from 0.5 s up to 60 s, times the jitter.
fn delay(failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST.saturating_mul(1 << doublings).min(LONGEST).mul_f64(jitter)
}

/// A duration a little away from `around`: between 0.8 and 1.2 times as long.
pub fn jittered(around: Duration) -> Duration {
    around.mul_f64(rand::rng().random_range(0.8..1.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute() {
        let waits: Vec<u64> = (1..=9).map(|n| delay(n, 1.0).as_millis() as u64).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(delay(u32::MAX, 0.5), Duration::from_secs(30));
    }

    #[test]
    fn a_success_starts_anew() {
        let backoff = Backoff::default();
        for _ in 0..10 {
            backoff.failed("a");
        }
        assert!(backoff.failed("a") >= Duration::from_secs(30));
        assert_eq!((backoff.failures("a"), backoff.failures("b")), (11, 0));
        backoff.succeeded("a");
        assert_eq!(backoff.failures("a"), 0);
        assert!(backoff.failed("a") <= FIRST);
        assert!(backoff.failed("b") <= FIRST);
    }
}
