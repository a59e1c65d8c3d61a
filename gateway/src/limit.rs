//! Request rates: the generic cell rate algorithm (ITU-T I.371, virtual scheduling), as a pure function of time.
//!
//! A limit of n a minute lets n requests through at once and then one every 60/n seconds. The state is one number:
//! the time at which the full quota is there again. It holds no rate, so a changed tier counts from the next request
//! on, and a share of the quota that was used stays used.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};

/// The window of every quota.
pub const WINDOW: Duration = Duration::from_mins(1);
const WINDOW_NANOS: u64 = 60_000_000_000;

/// What is left for one tenant at this gateway.
#[derive(Default)]
pub struct Limiter {
    /// Nanoseconds since the gateway's start.
    full_at: AtomicU64,
}

/// A tenant's rates at this gateway.
#[derive(Default)]
pub struct Rates {
    /// Of requests.
    pub requests: Limiter,
    /// Of operations, however many of them come in one request.
    pub operations: Limiter,
}

/// The answer to one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Whether the request may pass.
    pub allowed: bool,
    /// How many more would pass now.
    pub remaining: u32,
    /// Time until `remaining` has grown: to the full quota while some is left, else by one.
    pub reset: Duration,
}

impl Limiter {
    /// Decides on a request at `now` (since the gateway's start) under `per_minute`, which counts as at least 1.
    pub fn decide(&self, now: Duration, per_minute: u32) -> Verdict {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2);
        let mut seen = self.full_at.load(Ordering::Relaxed);
        loop {
            let (next, verdict) = gcra(seen, now, per_minute);
            match self.full_at.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return verdict,
                Err(changed) => seen = changed,
            }
        }
    }
}

/// What a request that carries many operations weighs: a batch of short ones as many as they are, one of long ones as many
/// blocks of this size as it has.
pub const OPERATION_BYTES: u64 = 16 * 1024;
/// The longest that a tenant waits for having had more than its quota carried out.
const LONGEST_DEBT: Duration = Duration::from_hours(1);

/// Returns the weight of a request that carries so many operations in so many bytes; at least 1.
pub fn weight(operations: u64, bytes: u64) -> u64 {
    operations.max(bytes.div_ceil(OPERATION_BYTES)).max(1)
}

impl Limiter {
    /// Decides at `now` on a request whose weight is known only when it was carried out: it may pass while anything of the quota
    /// is left.
    pub fn admit(&self, now: Duration, per_minute: u32) -> Verdict {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2);
        let step = WINDOW_NANOS / u64::from(per_minute.max(1));
        let used = self.full_at.load(Ordering::Relaxed).saturating_sub(now);
        let left = WINDOW_NANOS.saturating_sub(used) / step;
        if left == 0 {
            let wait = Duration::from_nanos(used + step - WINDOW_NANOS);
            return Verdict { allowed: false, remaining: 0, reset: wait };
        }
        Verdict { allowed: true, remaining: left as u32, reset: Duration::from_nanos(used.max(step)) }
    }

    /// Takes the weight of a request that was admitted, also more than is left: what follows waits for that much longer.
    pub fn charge(&self, now: Duration, per_minute: u32, weight: u64) {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2);
        let step = WINDOW_NANOS / u64::from(per_minute.max(1));
        let most = now + LONGEST_DEBT.as_nanos() as u64;
        let charged = |full_at: u64| full_at.max(now).saturating_add(weight.saturating_mul(step)).min(most);
        // The closure always gives a value, so this always succeeds.
        let _ = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| Some(charged(full_at)));
    }

    /// Gives back what was charged for a request and not carried out.
    pub fn give_back(&self, per_minute: u32, weight: u64) {
        let back = (WINDOW_NANOS / u64::from(per_minute.max(1))).saturating_mul(weight);
        let left = |full_at: u64| Some(full_at.saturating_sub(back));
        let _ = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
    }
}

/// One step: the new state and the verdict. All in nanoseconds.
fn gcra(full_at: u64, now: u64, per_minute: u32) -> (u64, Verdict) {
    let step = WINDOW_NANOS / u64::from(per_minute.max(1));
    // A limit that just shrank may leave a state from before: never more than one window of debt.
    let start = full_at.clamp(now, now + WINDOW_NANOS);
    let next = start + step;
    if next > now + WINDOW_NANOS {
        let wait = Duration::from_nanos(next - WINDOW_NANOS - now);
        return (start, Verdict { allowed: false, remaining: 0, reset: wait });
    }
    let remaining = (now + WINDOW_NANOS - next) / step;
    let reset = if remaining == 0 { next + step - WINDOW_NANOS - now } else { next - now };
    (next, Verdict { allowed: true, remaining: remaining as u32, reset: Duration::from_nanos(reset) })
}

/// A tenant's rate at one of `live` gateways: an equal part, and at least 1 a minute.
pub fn share(per_minute: u32, live_gateways: u32) -> u32 {
    (per_minute / live_gateways.max(1)).max(1)
}

/// Whole seconds, rounded up, at least 1: what Retry-After can say.
pub fn retry_after(wait: Duration) -> u64 {
    wait.as_nanos().div_ceil(1_000_000_000).max(1) as u64
}

/// Adds the RateLimit fields of draft-ietf-httpapi-ratelimit-headers-11 and the older X-RateLimit-* ones.
///
/// `q` is the tenant's whole quota; `r` is what this gateway still grants, which is less where several share it.
pub fn add_headers(headers: &mut HeaderMap, per_minute: u32, verdict: &Verdict) {
    let seconds = retry_after(verdict.reset);
    let window = WINDOW.as_secs();
    let fields: [(&'static str, String); 5] = [
        ("ratelimit-policy", format!("\"default\";q={per_minute};w={window}")),
        ("ratelimit", format!("\"default\";r={};t={seconds}", verdict.remaining)),
        ("x-ratelimit-limit", per_minute.to_string()),
        ("x-ratelimit-remaining", verdict.remaining.to_string()),
        ("x-ratelimit-reset", seconds.to_string()),
    ];
    for (name, value) in fields {
        // Digits and the letters above: always a valid value.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// Adds the tenant's rate of operations to those of its requests, as a further member of the same fields.
pub fn add_operations_headers(headers: &mut HeaderMap, per_minute: u32, verdict: &Verdict) {
    let seconds = retry_after(verdict.reset);
    let fields: [(&'static str, String); 2] = [
        ("ratelimit-policy", format!("\"operations\";q={per_minute};w={}", WINDOW.as_secs())),
        ("ratelimit", format!("\"operations\";r={};t={seconds}", verdict.remaining)),
    ];
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(limiter: &Limiter, now: Duration, per_minute: u32) -> u32 {
        (0..per_minute * 3).filter(|_| limiter.decide(now, per_minute).allowed).count() as u32
    }

    #[test]
    fn the_quota_passes_at_once_and_one_more_does_not() {
        for per_minute in [1, 7, 60, 300, 1000] {
            assert_eq!(passed(&Limiter::default(), Duration::from_secs(5), per_minute), per_minute);
        }
    }

    #[test]
    fn remaining_counts_down_and_reset_says_when() {
        let limiter = Limiter::default();
        let first = limiter.decide(Duration::ZERO, 60);
        assert_eq!(first, Verdict { allowed: true, remaining: 59, reset: Duration::from_secs(1) });
        for _ in 0..58 {
            limiter.decide(Duration::ZERO, 60);
        }
        let last = limiter.decide(Duration::ZERO, 60);
        assert_eq!(last, Verdict { allowed: true, remaining: 0, reset: Duration::from_secs(1) });
        let refused = limiter.decide(Duration::ZERO, 60);
        assert_eq!(refused, Verdict { allowed: false, remaining: 0, reset: Duration::from_secs(1) });
    }

    #[test]
    fn whoever_waits_as_told_passes() {
        let limiter = Limiter::default();
        let now = Duration::from_secs(100);
        passed(&limiter, now, 60);
        let wait = limiter.decide(now, 60).reset;
        let too_soon = wait.saturating_sub(Duration::from_nanos(1));
        assert!(!limiter.decide(now + too_soon, 60).allowed);
        assert!(limiter.decide(now + wait, 60).allowed);
        assert_eq!(passed(&limiter, now + WINDOW * 3, 60), 60);
    }

    #[test]
    fn a_raised_rate_counts_from_the_next_request_on() {
        let limiter = Limiter::default();
        passed(&limiter, Duration::ZERO, 60);
        assert!(!limiter.decide(Duration::from_millis(300), 60).allowed);
        assert!(limiter.decide(Duration::from_millis(300), 300).allowed);
    }

    #[test]
    fn a_refused_request_costs_nothing() {
        let limiter = Limiter::default();
        passed(&limiter, Duration::ZERO, 60);
        passed(&limiter, Duration::ZERO, 60);
        assert!(limiter.decide(Duration::from_secs(1), 60).allowed);
    }

    #[test]
    fn gateways_share_a_rate() {
        assert_eq!((share(60, 1), share(60, 2), share(60, 7), share(1, 5), share(60, 0)), (60, 30, 8, 1, 60));
    }

    #[test]
    fn headers_speak_both_dialects() {
        let mut headers = HeaderMap::new();
        add_headers(&mut headers, 60, &Verdict { allowed: true, remaining: 12, reset: Duration::from_millis(47_200) });
        assert_eq!(headers["ratelimit-policy"], "\"default\";q=60;w=60");
        assert_eq!(headers["ratelimit"], "\"default\";r=12;t=48");
        assert_eq!(headers["x-ratelimit-limit"], "60");
        assert_eq!(headers["x-ratelimit-remaining"], "12");
        assert_eq!(headers["x-ratelimit-reset"], "48");
    }

    #[test]
    fn charged_weight_delays_what_follows() {
        let (limiter, start) = (Limiter::default(), Duration::from_secs(5));
        assert!(limiter.admit(start, 1200).allowed);
        limiter.charge(start, 1200, 1000);
        let verdict = limiter.admit(start, 1200);
        assert_eq!((verdict.allowed, verdict.remaining), (true, 200));
        limiter.charge(start, 1200, 1000);
        let refused = limiter.admit(start, 1200);
        assert!(!refused.allowed);
        // 800 more than the quota: 40 s, and one step.
        assert_eq!(refused.reset, Duration::from_millis(40_050));
        assert!(!limiter.admit(start + Duration::from_secs(40), 1200).allowed);
        assert!(limiter.admit(start + refused.reset, 1200).allowed);
    }

    #[test]
    fn weight_given_back_is_left_again() {
        let limiter = Limiter::default();
        limiter.charge(Duration::ZERO, 1200, 1000);
        limiter.give_back(1200, 900);
        assert_eq!(limiter.admit(Duration::ZERO, 1200).remaining, 1100);
        limiter.give_back(1200, u64::MAX);
        assert_eq!(limiter.admit(Duration::ZERO, 1200).remaining, 1200);
    }

    #[test]
    fn debt_ends_within_an_hour() {
        let limiter = Limiter::default();
        limiter.charge(Duration::ZERO, 1, u64::MAX);
        assert!(limiter.admit(LONGEST_DEBT, 1).allowed);
    }
}
