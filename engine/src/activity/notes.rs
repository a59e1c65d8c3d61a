//! The notes themselves: bounded, merged by tenant and memory.

use std::collections::HashMap;

use tenancy::TenantId;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::{Caller, Recalled};

/// Memories with a recall that is not counted yet, over all tenants.
const MOST_RECALLS: usize = 50_000;
/// Tenants with any note.
const MOST_TENANTS: usize = 20_000;

/// What was noted since it was worked off last.
#[derive(Default)]
pub(super) struct Notes {
    tenants: HashMap<TenantId, Work>,
    recalls: usize,
}

/// What was noted for one tenant.
pub(super) struct Work {
    /// The most recent one: its capability is the most likely to be valid still.
    caller: Caller,
    recalls: HashMap<Uuid, Recalled>,
    dirty: bool,
}

impl Notes {
    /// Returns how many recalls found no room.
    pub(super) fn recalled(&mut self, caller: &Caller, hits: &[(Uuid, f32)], now: OffsetDateTime) -> u64 {
        let recalls = hits.iter().map(|(id, relevance)| Recalled { id: *id, times: 1, at: now, relevance: *relevance });
        self.add(caller, recalls, true)
    }

    pub(super) fn seen(&mut self, caller: &Caller) {
        self.add(caller, std::iter::empty(), true);
    }

    pub(super) fn put_back(&mut self, tenant: TenantId, work: Work) -> u64 {
        let Work { caller, recalls, dirty } = work;
        // A caller that came since is the more recent one.
        let caller = self.tenants.get(&tenant).map_or(caller, |since| since.caller.clone());
        self.add(&caller, recalls.into_values(), dirty)
    }

    pub(super) fn take(&mut self) -> HashMap<TenantId, Work> {
        self.recalls = 0;
        std::mem::take(&mut self.tenants)
    }

    fn add(&mut self, caller: &Caller, recalls: impl Iterator<Item = Recalled>, dirty: bool) -> u64 {
        let mut dropped = 0;
        if self.tenants.len() >= MOST_TENANTS && !self.tenants.contains_key(&caller.tenant) {
            return recalls.map(|recall| u64::from(recall.times.unsigned_abs())).sum();
        }
        let work = self.tenants.entry(caller.tenant).or_insert_with(|| Work {
            caller: caller.clone(),
            recalls: HashMap::new(),
            dirty: false,
        });
        work.caller.clone_from(caller);
        work.dirty |= dirty;
        for recall in recalls {
            if let Some(known) = work.recalls.get_mut(&recall.id) {
                known.times = known.times.saturating_add(recall.times);
                if recall.at >= known.at {
                    (known.at, known.relevance) = (recall.at, recall.relevance);
                }
            } else if self.recalls < MOST_RECALLS {
                self.recalls += 1;
                work.recalls.insert(recall.id, recall);
            } else {
                dropped += u64::from(recall.times.unsigned_abs());
            }
        }
        dropped
    }
}

impl Work {
    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// By id: every writer locks rows in the same order.
    pub(super) fn recalls(&self) -> Vec<Recalled> {
        let mut recalls: Vec<Recalled> = self.recalls.values().copied().collect();
        recalls.sort_unstable_by_key(|recall| recall.id);
        recalls
    }

    pub(super) fn recall_count(&self) -> u64 {
        self.recalls.values().map(|recall| u64::from(recall.times.unsigned_abs())).sum()
    }
}

#[cfg(test)]
mod tests {
    use tenancy::{Capability, LOCAL_TENANT};
    use time::macros::datetime;

    use super::*;

    fn caller() -> Caller {
        let capability = Capability::parse(&"ab".repeat(32)).expect("64 hex digits");
        Caller { tenant: LOCAL_TENANT, capability, agent: None, key: None }
    }

    #[test]
    fn recalls_of_one_memory_are_merged_and_survive_a_failed_attempt() {
        let mut notes = Notes::default();
        let id = Uuid::from_u128(1);
        let (early, late) = (datetime!(2026-01-01 0:00 UTC), datetime!(2026-01-02 0:00 UTC));
        notes.recalled(&caller(), &[(id, 0.9)], late);
        let mut first = notes.take();
        notes.recalled(&caller(), &[(id, 0.2)], early);
        notes.put_back(LOCAL_TENANT, first.remove(&LOCAL_TENANT).expect("noted"));
        let work = notes.take().remove(&LOCAL_TENANT).expect("noted");
        assert_eq!(work.recalls(), [Recalled { id, times: 2, at: late, relevance: 0.9 }]);
        assert!(notes.take().is_empty());
    }

    #[test]
    fn notes_are_bounded() {
        let mut notes = Notes::default();
        let hits: Vec<_> = (0..MOST_RECALLS as u128 + 7).map(|n| (Uuid::from_u128(n), 1.0)).collect();
        assert_eq!(notes.recalled(&caller(), &hits, OffsetDateTime::UNIX_EPOCH), 7);
    }
}
