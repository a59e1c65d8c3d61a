//! The model: the acknowledged operations, carried out by the documented rule in the order of the log.

use std::collections::HashMap;

use super::{
    check::History,
    record::{Fate, Kind, Op, STRANGE, Shown},
};

/// The time and the agent of a write. A write without a time has the database's clock, which is later than every time that
/// the clients give, and later each time.
type Written = (u64, u8);

/// What came of it.
#[derive(Default)]
pub struct Replay {
    /// In the end.
    pub last: HashMap<u32, Shown>,
    /// The change with which each memory went.
    pub removed: HashMap<u32, u32>,
    /// By operation: which change it was, of which memory, and what that showed afterwards.
    after: HashMap<u32, (u32, u32, Shown)>,
    /// Where the rule was broken.
    pub faults: Vec<String>,
    newest: HashMap<u32, Written>,
}

impl Replay {
    /// Replays a log, whose entries are made by the operations that `claims` names.
    pub fn of(history: &History, claims: &[u32]) -> Self {
        let mut replay = Self::default();
        for (at, n) in claims.iter().enumerate() {
            // Moves, and what is a fault already.
            if let Some(op) = history.ops.get(*n as usize).filter(|_| *n != STRANGE) {
                replay.apply(*n, op, at as u32 + 1);
            }
        }
        for (n, op) in history.ops.iter().enumerate() {
            replay.decided(n, op);
        }
        for (memory, at) in &history.times {
            let newest = replay.newest.get(memory).map(|(at, _)| *at);
            if newest != Some(u64::from(*at)) {
                replay.fault(format!("memory {memory} was last written at {at}, which should be {newest:?}"));
            }
        }
        replay
    }

    fn apply(&mut self, n: u32, op: &Op, seq: u32) {
        let written: Written = (op.at.map_or((1 << 32) + u64::from(seq), u64::from), op.agent);
        let before = self.last.get(&op.memory).copied();
        let allowed = match op.kind {
            Kind::Store => before.is_none() && !self.removed.contains_key(&op.memory),
            _ => before.is_some() && self.newest.get(&op.memory).is_some_and(|newest| written >= *newest),
        };
        if !allowed {
            self.fault(format!(
                "change {seq} breaks the rule: {op:?} after {before:?}, {:?}",
                self.newest.get(&op.memory)
            ));
        }
        self.newest.insert(op.memory, written);
        if op.kind == Kind::Remove {
            self.last.remove(&op.memory);
            self.removed.insert(op.memory, seq);
        } else {
            let shown = op.shown(n, before);
            self.last.insert(op.memory, shown);
            self.after.insert(n, (seq, op.memory, shown));
        }
    }

    /// What was decided against an operation must have had a reason: a write of that memory that is later, or its removal.
    fn decided(&mut self, n: usize, op: &Op) {
        let newest = self.newest.get(&op.memory);
        let reason = match op.fate {
            Fate::Newer => op.at.is_some_and(|at| newest.is_some_and(|newest| (u64::from(at), op.agent) < *newest)),
            Fate::Removed | Fate::Gone => self.removed.contains_key(&op.memory),
            Fate::Applied(_) | Fate::Pending | Fate::Wrong => true,
        };
        if !reason {
            self.fault(format!("operation {n} was decided against without a reason: {op:?}; last written {newest:?}"));
        }
    }

    /// Whether the memory showed this at the change `least` or later.
    pub fn showed(&self, shown: &Shown, memory: u32, least: u32) -> bool {
        self.after.get(&shown.wrote).is_some_and(|(seq, its, was)| *seq >= least && *its == memory && was == shown)
    }

    fn fault(&mut self, fault: String) {
        if self.faults.len() < 12 {
            self.faults.push(fault);
        }
    }
}
