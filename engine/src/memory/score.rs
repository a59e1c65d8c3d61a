//! The score of a memory: how near to the core it belongs.
//!
//! ```text
//! score(t) = 0.30·R + 0.30·F(t) + 0.25·A + 0.15·C
//!   R = min(1, ln(1 + n) / ln(1 + 100))      n: how many recalls returned it
//!   F = 1 − (t − touched) / 90 days          touched: the last recall, or the storing
//!   A = importance, 0 to 1
//!   C = relevance to the query at its last recall, 0 to 1; 0 before the first
//! ```
//!
//! **F is a straight line without a floor.** Retention falls exponentially (Ebbinghaus 1885; the form `e^(−t/S)` is the
//! usual reading of his curve), and the score is the logarithm of such a strength: in it an exponential is a line, each
//! recall or importance shifts the line up, which is to say that the memory lasts longer. Without a floor the score
//! passes 0, so forgetting ends in the cloud. 90 days: an unimportant memory that nobody asks for reaches the cloud
//! after 90 days, an ordinary one (A = 0.5) after 127, the most important after 165, a constantly recalled one after 300.
//!
//! **All memories fall at the same rate, so time never changes their order.** That is why a score is kept free of time
//! ([`AnchoredScore`]): what the line passes at a fixed instant. Postgres sorts by it, the zones are ranges of it, and
//! nothing has to be rewritten because a day has passed.
//!
//! **R is full at 100 recalls** (not 1,000): the core (≥ 0.8) is then reached by an important memory (A = 1) after 4
//! fitting recalls and by an ordinary one after 31, and one without any importance never.

use time::OffsetDateTime;

use super::Zone;

const WEIGHT_RECALLS: f64 = 0.30;
const WEIGHT_FRESHNESS: f64 = 0.30;
const WEIGHT_IMPORTANCE: f64 = 0.25;
const WEIGHT_CONTEXT: f64 = 0.15;
const RECALLS_FOR_FULL: f64 = 100.0;
const FORGETTING_DAYS: f64 = 90.0;
/// 2025-01-01T00:00:00Z. Any instant would do; one near to the present keeps the numbers small, so that `real` holds
/// them to better than a minute of forgetting.
const ANCHOR: OffsetDateTime = time::macros::datetime!(2025-01-01 00:00 UTC);
const SECONDS_PER_DAY: f64 = 86_400.0;

/// A score at an instant, rounded to 4 places. At most 1, and without a lower bound.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub struct Score(f64);

/// A score free of time: the one that the memory's line passes at a fixed instant. Order by it is order by score at
/// every instant.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub struct AnchoredScore(f32);

/// What a score follows from.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Standing {
    /// How many recalls returned the memory.
    pub recalls: i32,
    /// 0 to 1.
    pub importance: f32,
    /// Relevance to the query at the last recall, 0 to 1; 0 before the first.
    pub context: f32,
    /// The last recall, or the storing.
    pub touched: OffsetDateTime,
}

impl Standing {
    /// The score, free of time.
    pub fn anchored(&self) -> AnchoredScore {
        let Self { recalls, importance, context, touched } = *self;
        let recalled = (f64::from(recalls.max(0)).ln_1p() / RECALLS_FOR_FULL.ln_1p()).min(1.0);
        let at_touch = WEIGHT_RECALLS * recalled
            + WEIGHT_FRESHNESS
            + WEIGHT_IMPORTANCE * f64::from(importance.clamp(0.0, 1.0))
            + WEIGHT_CONTEXT * f64::from(context.clamp(0.0, 1.0));
        AnchoredScore((at_touch + fallen(touched)) as f32)
    }

    /// The context that a score came about with, as far as `real` keeps it: the one part that no column holds. 0 before the
    /// first recall.
    pub fn context_in(score: AnchoredScore, recalls: i32, importance: f32, touched: OffsetDateTime) -> f32 {
        let without = Self { recalls, importance, context: 0.0, touched }.anchored();
        if recalls <= 0 {
            return 0.0;
        }
        (f64::from(score.0 - without.0) / WEIGHT_CONTEXT).clamp(0.0, 1.0) as f32
    }
}

impl AnchoredScore {
    /// From the stored column.
    pub fn from_stored(stored: f32) -> Self {
        Self(stored)
    }

    /// For the stored column.
    pub fn to_stored(self) -> f32 {
        self.0
    }

    /// The same with another importance.
    #[must_use]
    pub fn with_importance(self, before: f32, after: f32) -> Self {
        let more = f64::from(after.clamp(0.0, 1.0)) - f64::from(before.clamp(0.0, 1.0));
        Self((f64::from(self.0) + WEIGHT_IMPORTANCE * more) as f32)
    }

    /// The lowest that belongs to a zone at an instant, by score alone. The cloud has no lower bound.
    pub fn lower_bound(zone: Zone, now: OffsetDateTime) -> Self {
        // Half of a last place: a score is rounded before it is compared.
        Self(zone.lowest_score().map_or(f64::NEG_INFINITY, |lowest| lowest - 0.000_05 + fallen(now)) as f32)
    }

    /// The score at an instant.
    pub fn at(self, now: OffsetDateTime) -> Score {
        Score::new(f64::from(self.0) - fallen(now))
    }
}

impl Score {
    /// A score, rounded to 4 places, so that neither `real` nor the seconds since it was touched show.
    pub fn new(score: f64) -> Self {
        Self((score * 10_000.0).round() / 10_000.0)
    }

    /// The number.
    pub fn value(self) -> f64 {
        self.0
    }
}

/// What is below this (as stored) has a score below 0 at that instant.
pub fn forgotten_below(now: OffsetDateTime) -> AnchoredScore {
    AnchoredScore::lower_bound(Zone::Belt, now)
}

/// How far every line has fallen since the anchor. Negative before it.
fn fallen(at: OffsetDateTime) -> f64 {
    WEIGHT_FRESHNESS * ((at - ANCHOR).as_seconds_f64() / SECONDS_PER_DAY) / FORGETTING_DAYS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::{Duration, macros::datetime};

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-06-01 12:00 UTC);

    fn standing(recalls: i32, importance: f32, context: f32) -> Standing {
        Standing { recalls, importance, context, touched: NOW }
    }

    fn after(days: i64, standing: Standing) -> f64 {
        standing.anchored().at(NOW + Duration::days(days)).value()
    }

    #[test]
    fn a_new_memory_scores_by_importance_alone() {
        for (importance, score) in [(0.0, 0.3), (0.5, 0.425), (1.0, 0.55)] {
            assert!((after(0, standing(0, importance, 0.0)) - score).abs() < 1e-9, "{importance}");
        }
    }

    #[test]
    fn every_zone_is_reachable() {
        let zone = |days, standing: Standing| Zone::by_score(standing.anchored().at(NOW + Duration::days(days)));
        assert_eq!(zone(0, standing(4, 1.0, 1.0)), Zone::Core);
        assert_eq!(zone(0, standing(31, 0.5, 1.0)), Zone::Core);
        assert_eq!(zone(0, standing(0, 1.0, 0.0)), Zone::Inner);
        assert_eq!(zone(0, standing(0, 0.5, 0.0)), Zone::Outer);
        assert_eq!(zone(75, standing(0, 0.5, 0.0)), Zone::Belt);
        assert_eq!(zone(128, standing(0, 0.5, 0.0)), Zone::Cloud);
    }

    #[test]
    fn what_nobody_recalls_is_forgotten_and_a_recall_brings_it_back() {
        assert!(after(89, standing(0, 0.0, 0.0)) > 0.0);
        assert!(after(91, standing(0, 0.0, 0.0)) < 0.0);
        assert!(after(301, standing(100, 1.0, 1.0)) < 0.0);
        assert!(after(400, Standing { touched: NOW + Duration::days(400), ..standing(1, 0.0, 1.0) }) > 0.4);
    }

    proptest! {
        #[test]
        fn time_never_changes_the_order_of_two_memories(
            a in -2.0f32..20.0, b in -2.0f32..20.0, early in 0i64..4000, later in 0i64..4000,
        ) {
            let (a, b) = (AnchoredScore(a), AnchoredScore(b));
            let at = |days| (a.at(NOW + Duration::days(days)).value(), b.at(NOW + Duration::days(days)).value());
            let ((a1, b1), (a2, b2)) = (at(early), at(early + later));
            prop_assert!(((a1 - b1) - (a2 - b2)).abs() < 3e-4);
        }

        #[test]
        fn more_of_anything_never_lowers_the_score(
            n in 0i32..10_000, more in 0i32..1000, a in 0.0f32..1.0, c in 0.0f32..1.0, up in 0.0f32..1.0, days in 0i64..1000,
        ) {
            let base = after(days, standing(n, a, c));
            prop_assert!(after(days, standing(n + more, a, c)) >= base);
            prop_assert!(after(days, standing(n, (a + up).min(1.0), c)) >= base);
            prop_assert!(after(days, standing(n, a, (c + up).min(1.0))) >= base);
            prop_assert!(after(days + 1, standing(n, a, c)) < base);
            prop_assert!(base <= 1.0);
        }

        #[test]
        fn another_importance_makes_the_score_that_it_would_have_made_from_the_first(
            n in 0i32..1000, a in 0.0f32..1.0, b in 0.0f32..1.0, c in 0.0f32..1.0,
        ) {
            let changed = standing(n, a, c).anchored().with_importance(a, b).at(NOW).value();
            prop_assert!((changed - standing(n, b, c).anchored().at(NOW).value()).abs() < 2e-4);
        }

        #[test]
        fn the_context_is_found_again_in_the_score(n in 1i32..1000, a in 0.0f32..1.0, c in 0.0f32..1.0) {
            let standing = standing(n, a, c);
            let found = Standing::context_in(standing.anchored(), n, a, NOW);
            prop_assert!((found - c).abs() < 1e-4, "{found} {c}");
            prop_assert!(Standing::context_in(standing.anchored(), 0, a, NOW).abs() < f32::EPSILON);
        }

        #[test]
        fn the_stored_boundary_agrees_with_the_sign_of_the_score(days in 0i64..1000, n in 0i32..100, a in 0.0f32..1.0) {
            let now = NOW + Duration::days(days);
            let key = standing(n, a, 0.0).anchored();
            let score = key.at(now).value();
            prop_assume!(score.abs() > 1e-4);
            prop_assert_eq!(key < forgotten_below(now), score < 0.0);
        }
    }
}
