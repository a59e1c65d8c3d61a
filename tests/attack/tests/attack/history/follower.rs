//! Who follows a tenant's changes, over whichever connection: what was heard, told apart from what was heard before.

use std::{collections::HashMap, sync::Arc, time::Duration};

use harness::Client;
use serde::Deserialize;
use tokio::{sync::watch, time::timeout};
use uuid::Uuid;

use super::{
    book::Book,
    check::Heard,
    record::{self, Entry, Kind, Memory, Shown},
};
use crate::ground::Dice;

const PATIENCE: Duration = Duration::from_secs(15);

/// A `change`, as a socket or an event stream tells it.
#[derive(Deserialize)]
pub struct Change {
    pub seq: u32,
    op: String,
    id: Uuid,
    agent: Option<String>,
    memory: Option<Memory>,
}

impl Change {
    fn entry(&self) -> Option<Entry> {
        Some(Entry {
            kind: Kind::read(&self.op)?,
            memory: record::memory(self.id),
            agent: self.agent.as_deref().map_or(u8::MAX, record::agent),
            shown: self.memory.as_ref().map(Memory::shown),
        })
    }
}

/// See the module.
pub struct Follower {
    pub heard: Heard,
    /// Connections that were made.
    pub connections: usize,
    /// Changes that were heard once more.
    pub repeats: usize,
    pub book: Arc<Book>,
    /// How far everybody has to hear, once that is known.
    pub goal: watch::Receiver<Option<usize>>,
    /// The last one on this connection.
    last: u32,
    dice: Dice,
}

impl Follower {
    pub fn new(who: String, book: Arc<Book>, goal: watch::Receiver<Option<usize>>, seed: u64) -> Self {
        let dice = Dice::new(seed);
        let heard = Heard { who, ..Heard::default() };
        Self { heard, connections: 0, repeats: 0, book, goal, last: 0, dice }
    }

    /// Begins a connection. Returns the number to go on from: sometimes an older one than the last, as of a client that
    /// could not note all that it heard.
    pub fn since(&mut self) -> u32 {
        let back = if self.dice.roll(3) == 0 { self.dice.roll(50) } else { 0 };
        self.last = self.heard.entries.len().saturating_sub(back) as u32;
        self.connections += 1;
        self.last
    }

    /// Whether all is heard that there is to hear.
    pub fn done(&self) -> bool {
        self.goal.borrow().is_some_and(|goal| self.heard.entries.len() >= goal)
    }

    /// Takes a change in.
    pub fn take(&mut self, change: &Change) {
        let Some(entry) = change.entry() else {
            self.book.notice(format!("{} heard of a change of no known kind", self.heard.who));
            return;
        };
        if change.seq != self.last + 1 {
            self.book.notice(format!(
                "{} heard change {} after {} on one connection",
                self.heard.who, change.seq, self.last
            ));
        }
        self.last = change.seq;
        match self.heard.entries.get(change.seq as usize - 1) {
            Some(before) if before.is_none_or(|before| before.same(&entry)) => self.repeats += 1,
            Some(before) => {
                self.book.notice(format!(
                    "{} heard change {} as {before:?}, and once more as {entry:?}",
                    self.heard.who, change.seq
                ));
            }
            None if change.seq as usize == self.heard.entries.len() + 1 => self.heard.entries.push(Some(entry)),
            None => self.book.notice(format!("{} misses what is before change {}", self.heard.who, change.seq)),
        }
    }

    /// The log does not reach back to where this one is: it has read everything anew, and goes on after `seq`.
    pub fn goes_on(&mut self, seq: u32, state: HashMap<u32, Shown>) {
        let Heard { who, entries, anew } = &mut self.heard;
        if (seq as usize) < entries.len() {
            self.book.notice(format!("{who} was told to go on after {seq}, and knows more than that"));
        }
        entries.resize(entries.len().max(seq as usize), None);
        anew.push((seq, state));
        self.last = seq;
    }
}

/// Everything that the tenant has, as an export tells it; nothing, if it cannot be had whole.
pub async fn export(client: &Client) -> Option<HashMap<u32, Shown>> {
    let answer = timeout(PATIENCE, client.get("/export")).await.ok()?.ok()?;
    let lines: Vec<&str> = answer.text.trim_end().lines().collect();
    let [_, lines @ .., end] = &lines[..] else { return None };
    let whole = answer.status == 200 && end.contains("\"end\":true");
    let memories = lines.iter().map(|line| serde_json::from_str::<Memory>(line));
    let memories = memories.map(|memory| memory.map(|memory| (record::memory(memory.id), memory.shown())));
    memories.collect::<Result<_, _>>().ok().filter(|_| whole)
}
