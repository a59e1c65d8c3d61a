//! What is asked for, and what was answered: one book a tenant, which all its writers share. So they write the same
//! memories, and what is acknowledged to one is known to all.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;

use super::record::{Fate, Kind, Op};
use crate::ground::Dice;

/// Memories that a tenant has at a time, about; and how many of them are written all the time.
const LIVE: usize = 1_500;
const HOT: usize = 24;
/// Times that the clients give lie so far apart, in operations: a write that is asked for later may be the earlier one.
const SPREAD: usize = 3_000;
/// Times are told in steps of so many seconds, so that two writes often have the same one.
const STEP: u32 = 16;

/// See the module.
pub struct Book {
    inner: Mutex<Inner>,
    budget: usize,
    settled: AtomicUsize,
    /// Answers that were given once more.
    pub replayed: AtomicUsize,
}

#[derive(Default)]
struct Inner {
    ops: Vec<Op>,
    /// Memories that were acknowledged, and that nobody was asked to remove.
    live: Vec<u32>,
    memories: u32,
    acknowledged: u32,
    noticed: Vec<String>,
}

/// One that writes.
pub struct Writer {
    pub number: u8,
    pub agent: u8,
    /// Whether its operations have no name of their own, but a header has one.
    pub keyed: bool,
    /// Whether it has a request for each operation: one that removes takes no time.
    pub single: bool,
    pub dice: Dice,
    run: (Kind, usize),
}

impl Writer {
    pub fn new(number: u8, agent: u8, seed: u64) -> Self {
        Self { number, agent, keyed: false, single: false, dice: Dice::new(seed), run: (Kind::Store, 0) }
    }
}

impl Book {
    /// A book of so many operations.
    pub fn new(budget: usize) -> Self {
        Self { inner: Mutex::default(), budget, settled: AtomicUsize::new(0), replayed: AtomicUsize::new(0) }
    }

    /// The next operations of a writer, at most `most`. None: there are enough.
    pub fn plan(&self, writer: &mut Writer, most: usize) -> Vec<u32> {
        let mut inner = self.inner.lock().unwrap();
        let from = inner.ops.len();
        for _ in 0..most.min(self.budget - from) {
            let op = inner.next(writer);
            inner.ops.push(op);
        }
        (from as u32..inner.ops.len() as u32).collect()
    }

    /// What the operation asks for.
    pub fn op(&self, n: u32) -> Op {
        self.inner.lock().unwrap().ops[n as usize]
    }

    /// The same as a member of a batch or a frame.
    pub fn json(&self, n: u32) -> Value {
        self.op(n).json(n)
    }

    /// An earlier operation of the agent that was answered and has a name of its own: to be sent once more.
    pub fn answered(&self, agent: u8, dice: &mut Dice) -> Option<u32> {
        let inner = self.inner.lock().unwrap();
        let start = dice.roll(inner.ops.len().max(1));
        let found = inner
            .ops
            .iter()
            .skip(start)
            .take(2_000)
            .position(|op| op.agent == agent && !op.keyed && op.fate != Fate::Pending);
        found.map(|place| (start + place) as u32)
    }

    /// Notes an answer. One given once more must be the first one.
    pub fn settle(&self, n: u32, fate: Fate, replayed: bool) {
        let mut inner = self.inner.lock().unwrap();
        if replayed {
            self.replayed.fetch_add(1, Ordering::Relaxed);
        }
        let op = &mut inner.ops[n as usize];
        if op.fate != Fate::Pending {
            // What was gone when it was asked for again may have been there the first time.
            if op.fate != fate && fate != Fate::Gone {
                let what = format!("operation {n} was answered {:?}, and once more {fate:?}", op.fate);
                inner.noticed.push(what);
            }
            return;
        }
        op.fate = fate;
        let Op { kind, memory, .. } = *op;
        match (kind, fate) {
            (Kind::Store, Fate::Applied(_)) | (Kind::Remove, Fate::Newer) => inner.live.push(memory),
            (_, Fate::Removed | Fate::Gone) => inner.live.retain(|live| *live != memory),
            _ => {}
        }
        if let Fate::Applied(seq) = fate {
            inner.acknowledged = inner.acknowledged.max(seq);
        }
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that these may come after later ones of their writer.
    pub fn refused(&self, ns: impl IntoIterator<Item = u32>) {
        let mut inner = self.inner.lock().unwrap();
        for n in ns {
            inner.ops[n as usize].refused = true;
        }
    }

    /// Notes an answer that must not be.
    pub fn wrong(&self, n: u32, what: &str) {
        self.notice(format!("operation {n} was answered {what}"));
        let op = &mut self.inner.lock().unwrap().ops[n as usize];
        if op.fate == Fate::Pending {
            op.fate = Fate::Wrong;
            self.settled.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes what must not be.
    pub fn notice(&self, what: String) {
        let mut inner = self.inner.lock().unwrap();
        if inner.noticed.len() < 12 {
            inner.noticed.push(what);
        }
    }

    /// How many were answered.
    pub fn settled(&self) -> usize {
        self.settled.load(Ordering::Relaxed)
    }

    /// Takes out what there is for the checker.
    pub fn close(&self) -> (Vec<Op>, Vec<String>) {
        let mut inner = self.inner.lock().unwrap();
        (std::mem::take(&mut inner.ops), std::mem::take(&mut inner.noticed))
    }
}

impl Inner {
    fn next(&mut self, writer: &mut Writer) -> Op {
        let kind = self.kind(writer);
        let memory = match kind {
            Kind::Store => {
                self.memories += 1;
                self.memories
            }
            Kind::Remove => {
                let place = writer.dice.roll(self.live.len());
                self.live.swap_remove(place)
            }
            Kind::Update | Kind::Move => {
                let hot = if writer.dice.roll(2) == 0 { HOT.min(self.live.len()) } else { self.live.len() };
                self.live[writer.dice.roll(hot)]
            }
        };
        let now = self.ops.len() + writer.dice.roll(SPREAD);
        let untimed = writer.single && kind == Kind::Remove;
        let at = (writer.dice.roll(5) < 3 && !untimed).then_some(now as u32 / STEP * STEP);
        let Writer { number, agent, keyed, .. } = *writer;
        let floor = self.acknowledged;
        Op { kind, memory, writer: number, agent, keyed, at, floor, refused: false, fate: Fate::Pending }
    }

    /// Like follows like for a while, as stores do in practice.
    fn kind(&self, writer: &mut Writer) -> Kind {
        let few = self.live.len() < HOT;
        if writer.run.1 == 0 {
            // Many removals lose to a later write.
            let (removes, stores) = if self.live.len() > LIVE { (10, 3) } else { (3, 8) };
            let kind = match writer.dice.roll(20) {
                n if n < removes => Kind::Remove,
                n if n < 20 - stores => Kind::Update,
                _ => Kind::Store,
            };
            writer.run = (kind, 1 + writer.dice.roll(24));
        }
        writer.run.1 -= 1;
        if few { Kind::Store } else { writer.run.0 }
    }
}
