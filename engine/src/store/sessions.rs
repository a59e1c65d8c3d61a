//! From when on sessions are usable.
//!
//! A session keeps the identity that it logged in with; when that is of no use any more, every open one is closed instead of
//! used, and a new login tells what holds now.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A tenant that is really not served here costs a new login this often and no more.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// When sessions were last found useless.
#[derive(Clone, Default)]
pub(super) struct Sessions(Arc<Mutex<Option<Instant>>>);

impl Sessions {
    /// Whether sessions of this age may be used.
    pub(super) fn are_usable(&self, age: Duration) -> bool {
        self.last().is_none_or(|useless| age < useless.elapsed())
    }

    /// Makes every session that is open now unusable. False: that was done a moment ago.
    pub(super) fn renew(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= AT_MOST_EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }

    fn last(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sessions_from_before_are_useless_and_only_once_a_second() {
        let sessions = Sessions::default();
        assert!(sessions.are_usable(Duration::from_hours(1)), "nothing was found useless");
        assert!(sessions.renew() && !sessions.renew());
        assert!(!sessions.are_usable(Duration::from_mins(1)), "open before");
        assert!(sessions.are_usable(Duration::ZERO), "opened after");
    }
}
