//! Zones: orbits around what the tenant is occupied with, from the core outward, each with room for so many.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{AnchoredScore, Score};

/// An orbit. The lower bound of its scores belongs to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Zone {
    /// ≥ 0.8, room for 20.
    Core = 0,
    /// ≥ 0.5, room for 100.
    Inner = 1,
    /// ≥ 0.2, room for 1,000.
    Outer = 2,
    /// ≥ 0.
    Belt = 3,
    /// Below 0: all but forgotten.
    Cloud = 4,
}

impl Zone {
    /// From the core outward.
    pub const ALL: [Self; 5] = [Self::Core, Self::Inner, Self::Outer, Self::Belt, Self::Cloud];
    /// How many memories of a tenant the zones with a capacity hold together.
    pub const BOUNDED_PLACES: usize = 1120;

    /// The zone that a score alone belongs to.
    pub fn by_score(score: Score) -> Self {
        Self::ALL
            .into_iter()
            .find(|zone| zone.lowest_score().is_none_or(|lowest| score.value() >= lowest))
            .unwrap_or(Self::Cloud)
    }

    /// The lower bound of its scores, which belongs to it. `None`: there is none.
    pub fn lowest_score(self) -> Option<f64> {
        match self {
            Self::Core => Some(0.8),
            Self::Inner => Some(0.5),
            Self::Outer => Some(0.2),
            Self::Belt => Some(0.0),
            Self::Cloud => None,
        }
    }

    /// How many memories of one tenant it has room for. `None`: any number.
    pub fn capacity(self) -> Option<usize> {
        match self {
            Self::Core => Some(20),
            Self::Inner => Some(100),
            Self::Outer => Some(1000),
            Self::Belt | Self::Cloud => None,
        }
    }

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Inner => "inner",
            Self::Outer => "outer",
            Self::Belt => "belt",
            Self::Cloud => "cloud",
        }
    }

    /// Its number: 0 core to 4 cloud.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The zone of a number.
    pub fn from_number(number: i64) -> Option<Self> {
        usize::try_from(number).ok().and_then(|number| Self::ALL.get(number).copied())
    }

    fn outward(self) -> Self {
        match self {
            Self::Core => Self::Inner,
            Self::Inner => Self::Outer,
            Self::Outer => Self::Belt,
            Self::Belt | Self::Cloud => Self::Cloud,
        }
    }
}

/// A memory with the zone that it is in.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Placed {
    /// Its identity.
    pub id: Uuid,
    /// Its zone so far.
    pub zone: Zone,
    /// Its score.
    pub score: AnchoredScore,
}

/// A memory that belongs into another zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// Its identity.
    pub id: Uuid,
    /// Where it belongs.
    pub to: Zone,
}

/// Which memories belong elsewhere. Each goes into the innermost zone that its score allows and that has room left, the
/// highest score first: so a full zone pushes its lowest outward, and that one takes a place there if it has one.
///
/// `ranked` must be in falling order of score and hold all candidates for a bounded zone: the tenant's first
/// [`Zone::BOUNDED_PLACES`], and whichever others are in a bounded zone now.
pub fn reorbit(ranked: &[Placed], now: OffsetDateTime) -> Vec<Move> {
    let mut taken = [0_usize; Zone::ALL.len()];
    let mut moves = Vec::new();
    for memory in ranked {
        let mut zone = Zone::by_score(memory.score.at(now));
        while zone.capacity().is_some_and(|capacity| taken[zone as usize] >= capacity) {
            zone = zone.outward();
        }
        taken[zone as usize] += 1;
        if zone != memory.zone {
            moves.push(Move { id: memory.id, to: zone });
        }
    }
    moves
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;
    use crate::memory::Standing;

    const NOW: OffsetDateTime = datetime!(2026-06-01 12:00 UTC);

    fn at(score: f64) -> AnchoredScore {
        let zero = super::super::forgotten_below(NOW).to_stored();
        AnchoredScore::from_stored((f64::from(zero) + score) as f32)
    }

    fn placed(n: u128, zone: Zone, score: f64) -> Placed {
        Placed { id: Uuid::from_u128(n), zone, score: at(score) }
    }

    #[test]
    fn a_lower_bound_belongs_to_its_zone() {
        for (score, zone) in [
            (0.8, Zone::Core),
            (0.7999, Zone::Inner),
            (0.5, Zone::Inner),
            (0.2, Zone::Outer),
            (0.0, Zone::Belt),
            (-0.0001, Zone::Cloud),
        ] {
            assert_eq!(Zone::by_score(Score::new(score)), zone, "{score}");
        }
    }

    #[test]
    fn a_full_core_pushes_its_lowest_outward() {
        let ranked: Vec<_> = (0..25).map(|n| placed(n, Zone::Core, 0.99 - 0.001 * n as f64)).collect();
        let moves = reorbit(&ranked, NOW);
        assert_eq!(moves.len(), 5);
        assert!(moves.iter().all(|m| m.to == Zone::Inner && m.id.as_u128() >= 20));
    }

    #[test]
    fn a_push_goes_on_outward_until_there_is_room() {
        let ranked: Vec<_> = (0..1300).map(|n| placed(n, Zone::Core, 0.9)).collect();
        let mut counts = HashMap::new();
        let moved: HashMap<_, _> = reorbit(&ranked, NOW).into_iter().map(|m| (m.id, m.to)).collect();
        for memory in &ranked {
            *counts.entry(*moved.get(&memory.id).unwrap_or(&memory.zone)).or_insert(0) += 1;
        }
        assert_eq!(
            (counts[&Zone::Core], counts[&Zone::Inner], counts[&Zone::Outer], counts[&Zone::Belt]),
            (20, 100, 1000, 180)
        );
    }

    #[test]
    fn what_is_placed_well_is_left_alone() {
        let fresh = Standing { recalls: 0, importance: 0.5, context: 0.0, touched: NOW }.anchored();
        let ranked = [Placed { id: Uuid::from_u128(1), zone: Zone::Outer, score: fresh }];
        assert!(reorbit(&ranked, NOW).is_empty());
    }

    proptest! {
        #[test]
        fn no_zone_overflows_no_memory_is_above_its_score_and_a_second_pass_moves_nothing(
            mut scores in prop::collection::vec(-0.5f64..1.0, 0..400), zone in 0i64..5,
        ) {
            scores.sort_by(|a, b| b.total_cmp(a));
            let zone = Zone::from_number(zone).expect("0 to 4");
            let mut ranked: Vec<_> = scores.iter().enumerate().map(|(n, s)| placed(n as u128, zone, *s)).collect();
            let moved: HashMap<_, _> = reorbit(&ranked, NOW).into_iter().map(|m| (m.id, m.to)).collect();
            for memory in &mut ranked {
                memory.zone = *moved.get(&memory.id).unwrap_or(&memory.zone);
                prop_assert!(memory.zone >= Zone::by_score(memory.score.at(NOW)));
            }
            for zone in Zone::ALL {
                let n = ranked.iter().filter(|m| m.zone == zone).count();
                prop_assert!(zone.capacity().is_none_or(|capacity| n <= capacity));
            }
            prop_assert!(reorbit(&ranked, NOW).is_empty());
        }
    }
}
