//! The checker: a pure function of what happened. Each fault is a sentence.

use std::collections::HashMap;

use super::{
    follow,
    record::{Entry, Fate, Kind, Op, STRANGE, Shown},
    replay::Replay,
};

/// Enough to see what kind of fault it is.
const MOST: usize = 12;

/// All that is known of one tenant when it is quiet again.
#[derive(Clone, Default)]
pub struct History {
    pub ops: Vec<Op>,
    /// The log as Postgres has it, from number 1 on.
    pub log: Vec<Entry>,
    /// What each follower heard.
    pub heard: Vec<Heard>,
    /// What each replica, and Postgres itself, holds in the end.
    pub held: Vec<(String, HashMap<u32, Shown>)>,
    /// The times of last writes in Postgres that are a client's.
    pub times: HashMap<u32, u32>,
    /// What was noticed while it happened.
    pub noticed: Vec<String>,
}

/// What a follower heard, what it had heard before filtered out.
#[derive(Clone, Default)]
pub struct Heard {
    pub who: String,
    /// From number 1 on; nothing for what the log no longer had.
    pub entries: Vec<Option<Entry>>,
    /// What was read anew, and the number from which on changes followed.
    pub anew: Vec<(u32, HashMap<u32, Shown>)>,
}

/// The faults found so far.
#[derive(Default)]
pub struct Faults(Vec<String>);

impl Faults {
    /// Adds one, unless there are very many of it.
    pub fn add(&mut self, fault: impl FnOnce() -> String) {
        if self.0.len() < MOST {
            self.0.push(fault());
        }
    }
}

/// Every fault of a history, up to a bound.
pub fn faults(history: &History) -> Vec<String> {
    let mut all = history.noticed.clone();
    let (mut acknowledged, mut order) = (Faults::default(), Faults::default());
    let claims = claims(history, &mut acknowledged);
    in_order(&history.ops, &mut order);
    let replay = Replay::of(history, &claims);
    all.extend([acknowledged.0, order.0].concat());
    all.extend(replay.faults.iter().cloned());
    for heard in &history.heard {
        let mut faults = Faults::default();
        follow::check(heard, &history.log, &replay, &mut faults);
        all.extend(faults.0);
    }
    for (who, held) in &history.held {
        let mut faults = Faults::default();
        equal(who, held, &replay.last, &mut faults);
        all.extend(faults.0);
    }
    all
}

/// For each entry of the log the operation that made it. Every acknowledged one has its own, and no write has none.
fn claims(history: &History, faults: &mut Faults) -> Vec<u32> {
    let History { ops, log, .. } = history;
    let mut claims = vec![STRANGE; log.len()];
    for (n, op) in ops.iter().enumerate() {
        match op.fate {
            Fate::Pending => faults.add(|| format!("operation {n} was never answered: {op:?}")),
            Fate::Applied(seq) => claim(n as u32, op, seq, log, &mut claims, faults),
            Fate::Newer | Fate::Removed | Fate::Gone | Fate::Wrong => {}
        }
    }
    let mut gone: HashMap<(u32, u8), Vec<u32>> = HashMap::new();
    for (n, op) in ops.iter().enumerate().rev().filter(|(_, op)| op.fate == Fate::Gone) {
        gone.entry((op.memory, op.agent)).or_default().push(n as u32);
    }
    for (at, entry) in log.iter().enumerate().filter(|(_, entry)| entry.kind != Kind::Move) {
        if claims[at] != STRANGE {
            continue;
        }
        let unsure = gone.get_mut(&(entry.memory, entry.agent)).filter(|_| entry.kind == Kind::Update);
        match unsure.and_then(Vec::pop) {
            Some(n) => claims[at] = n,
            None => faults.add(|| {
                format!("change {} is of no operation, or of one that was carried out twice: {entry:?}", at + 1)
            }),
        }
    }
    claims
}

fn claim(n: u32, op: &Op, seq: u32, log: &[Entry], claims: &mut [u32], faults: &mut Faults) {
    let at = (seq as usize).wrapping_sub(1);
    match log.get(at) {
        None => faults
            .add(|| format!("operation {n} is lost: it was acknowledged as change {seq}, which is not in the log")),
        Some(entry) if (entry.kind, entry.memory, entry.agent) != (op.kind, op.memory, op.agent) => {
            faults
                .add(|| format!("operation {n} is lost: acknowledged as change {seq}, which is {entry:?}, not {op:?}"));
        }
        Some(_) if claims[at] != STRANGE => {
            faults.add(|| format!("change {seq} was acknowledged to operation {n} and to {} too", claims[at]));
        }
        Some(_) => claims[at] = n,
    }
}

/// A writer's operations are carried out in order, and what is asked for after an acknowledgement comes after it.
fn in_order(ops: &[Op], faults: &mut Faults) {
    let mut last: HashMap<u8, (usize, u32)> = HashMap::new();
    for (n, op) in ops.iter().enumerate() {
        let Fate::Applied(seq) = op.fate else { continue };
        if seq <= op.floor {
            faults.add(|| {
                format!("operation {n} is change {seq}, but {} was acknowledged before it was asked for", op.floor)
            });
        }
        if op.refused {
            continue;
        }
        if let Some((before, its)) = last.insert(op.writer, (n, seq)).filter(|(_, its)| *its >= seq) {
            faults.add(|| {
                format!("out of order: operation {before} of a writer is change {its}, the next one, {n}, change {seq}")
            });
        }
    }
}

/// Whether somebody holds what there should be.
pub fn equal(who: &str, held: &HashMap<u32, Shown>, should: &HashMap<u32, Shown>, faults: &mut Faults) {
    for (memory, shown) in should {
        if held.get(memory) != Some(shown) {
            faults.add(|| format!("{who} is not equal: memory {memory} is {shown:?} there {:?}", held.get(memory)));
        }
    }
    for (memory, shown) in held.iter().filter(|(memory, _)| !should.contains_key(memory)) {
        faults.add(|| format!("{who} is not equal: it has memory {memory}, {shown:?}, which is gone"));
    }
}
