//! When two write the same memory: the last write wins, for the memory as a whole.
//!
//! A write has a time. The client may give it (what was written offline says when), but it is never later than the
//! database's clock. A write without one has the database's clock, and is later than every earlier write of the memory:
//! so it always wins. A write with a time wins over the last one if its time is later, or equal and the agent's name not
//! smaller (by bytes; no agent is smaller than any). So of any writes with times the same one wins in whichever order
//! they arrive.

use time::{Duration, OffsetDateTime};

/// The last write of a memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastWrite {
    /// Its time, in whole microseconds, as Postgres counts.
    pub at: OffsetDateTime,
    /// The agent.
    pub by: Option<String>,
}

impl LastWrite {
    /// The write that makes a memory. `at`: the client's time, if it gave one; `now`: the database's clock.
    pub fn first(at: Option<OffsetDateTime>, by: Option<&str>, now: OffsetDateTime) -> Self {
        Self { at: whole_microseconds(at.map_or(now, |at| at.min(now))), by: by.map(str::to_owned) }
    }

    /// What the last write is after another one, if that one wins.
    #[must_use]
    pub fn followed_by(&self, at: Option<OffsetDateTime>, by: Option<&str>, now: OffsetDateTime) -> Option<Self> {
        let mut next = Self::first(at, by, now);
        if at.is_none() {
            next.at = next.at.max(self.at + Duration::MICROSECOND);
        }
        ((next.at, &next.by) >= (self.at, &self.by)).then_some(next)
    }
}

/// The time as Postgres holds it: earlier by less than a microsecond.
pub fn whole_microseconds(at: OffsetDateTime) -> OffsetDateTime {
    at - Duration::nanoseconds((at.unix_timestamp_nanos().rem_euclid(1000)) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-06-01 12:00 UTC);

    fn at(micros: i64) -> OffsetDateTime {
        NOW + Duration::microseconds(micros)
    }

    fn write(micros: i64, by: &str) -> LastWrite {
        LastWrite { at: at(micros), by: Some(by.to_owned()) }
    }

    #[test]
    fn the_later_time_wins_and_of_equal_times_the_larger_name() {
        let last = write(-10, "m");
        let wins = |micros, by| last.followed_by(Some(at(micros)), Some(by), NOW).is_some();
        assert!(wins(-9, "a") && !wins(-11, "z"));
        assert!(wins(-10, "z") && wins(-10, "m") && !wins(-10, "a"));
        assert!(last.followed_by(Some(at(-10)), None, NOW).is_none(), "no agent is smaller than any");
    }

    #[test]
    fn a_time_is_never_later_than_the_clock() {
        assert_eq!(LastWrite::first(Some(at(1)), Some("a"), NOW), write(0, "a"));
        assert_eq!(write(-5, "a").followed_by(Some(at(5_000_000)), Some("b"), NOW), Some(write(0, "b")));
    }

    #[test]
    fn a_time_has_whole_microseconds_before_it_is_compared() {
        let given = at(-10) + Duration::nanoseconds(999);
        assert_eq!(LastWrite::first(Some(given), Some("a"), NOW), write(-10, "a"));
        assert!(write(-10, "b").followed_by(Some(given), Some("a"), NOW).is_none());
        let ancient = datetime!(1066-10-14 09:00:00.000000001 UTC);
        assert_eq!(LastWrite::first(Some(ancient), None, NOW).at, datetime!(1066-10-14 09:00 UTC));
    }

    fn timed() -> impl Strategy<Value = (i64, String)> {
        (-20i64..20, "[a-c]")
    }

    proptest! {
        #[test]
        fn in_whichever_order_writes_with_times_arrive_the_same_one_wins(
            (writes, order) in prop::collection::vec(timed(), 1..8)
                .prop_flat_map(|writes| (Just(writes.clone()), Just(writes).prop_shuffle())),
        ) {
            let outcome = |writes: &[(i64, String)]| {
                let (first, rest) = writes.split_first().expect("at least one");
                let first = LastWrite::first(Some(at(first.0)), Some(&first.1), NOW);
                rest.iter().fold(first, |last, (micros, by)| {
                    last.followed_by(Some(at(*micros)), Some(by), NOW).unwrap_or(last)
                })
            };
            let largest = writes.iter().map(|(micros, by)| (at((*micros).min(0)), by.clone())).max().expect("one");
            prop_assert_eq!(outcome(&writes), outcome(&order));
            let won = outcome(&writes);
            prop_assert_eq!((won.at, won.by), (largest.0, Some(largest.1)));
        }

        #[test]
        fn a_write_without_a_time_always_wins_and_is_later(
            (micros, by) in timed(), other in "[a-c]", clock in -50i64..50,
        ) {
            let last = write(micros, &by);
            let next = last.followed_by(None, Some(&other), at(clock)).expect("wins");
            prop_assert!(next.at > last.at && next.at >= at(clock));
            prop_assert!(next.at <= at(clock).max(last.at + Duration::MICROSECOND));
        }

        #[test]
        fn no_write_makes_the_last_one_earlier((micros, by) in timed(), (later, other) in timed()) {
            let last = write(micros, &by);
            if let Some(next) = last.followed_by(Some(at(later)), Some(&other), NOW) {
                prop_assert!((next.at, next.by) >= (last.at, last.by));
            }
        }
    }
}
