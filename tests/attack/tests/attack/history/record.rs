//! What happened, small enough to keep of a million operations: what an operation asks for follows from its number.

use std::fmt;

use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

/// The agents' names, by bytes in rising order: so numbers of agents compare as their names do.
pub const AGENTS: [&str; 4] = ["ada", "bob", "moe", "zoe"];
/// What is none of ours.
pub const STRANGE: u32 = u32::MAX;
const IDS: u128 = 0x0198_0e4c_7a5e_7cc3_98c4_dc0c_0000_0000;

/// What an operation or a change does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Store,
    Update,
    /// Of the zone, which nobody asks for.
    Move,
    Remove,
}

impl Kind {
    /// By the word of a frame, or the one of Postgres.
    pub fn read(word: &str) -> Option<Self> {
        Some(match word {
            "store" => Self::Store,
            "update" => Self::Update,
            "move" => Self::Move,
            "remove" | "forget" => Self::Remove,
            _ => return None,
        })
    }
}

/// What the writer was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Nothing yet.
    Pending,
    /// It is in the log under this number.
    Applied(u32),
    /// A later write stands against it.
    Newer,
    /// The memory is gone.
    Removed,
    /// 404 to a PATCH: the memory is gone, be it before or after it was written.
    Gone,
    /// What it should not have been told, which is noted.
    Wrong,
}

/// One operation. Its number is its place among those of its tenant.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub kind: Kind,
    pub memory: u32,
    /// Who sent it: operations of one writer are carried out in order.
    pub writer: u8,
    pub agent: u8,
    /// Whether a header names it: then it must not be sent in any other way.
    pub keyed: bool,
    /// The client's time, in seconds of a long past day.
    pub at: Option<u32>,
    /// The last number that was acknowledged to anybody before this was asked for.
    pub floor: u32,
    /// It was refused for the time being: then others of its writer may have come before it.
    pub refused: bool,
    pub fate: Fate,
}

impl Op {
    /// What it asks for, as a member of a batch or a frame; without a name.
    pub fn json(&self, n: u32) -> Value {
        let mut json = match self.kind {
            Kind::Remove => json!({}),
            _ => json!({ "metadata": { "op": n } }),
        };
        json["op"] = match self.kind {
            Kind::Store => "store".into(),
            Kind::Remove => "remove".into(),
            Kind::Update | Kind::Move => "update".into(),
        };
        json["id"] = id(self.memory).to_string().into();
        if let Some(at) = self.at {
            json["at"] = instant(at).into();
        }
        if self.names_content(n) {
            json["content"] = format!("operation {n}").into();
        }
        if self.names_importance(n) {
            json["importance"] = (f64::from(tenths(n)) / 10.0).into();
        }
        json
    }

    fn names_content(&self, n: u32) -> bool {
        self.kind == Kind::Store || self.kind == Kind::Update && !n.is_multiple_of(3)
    }

    fn names_importance(&self, n: u32) -> bool {
        self.kind == Kind::Store || self.kind == Kind::Update && n.is_multiple_of(4)
    }

    /// What the memory shows after this one, that showed `before`.
    pub fn shown(&self, n: u32, before: Option<Shown>) -> Shown {
        let before = before.unwrap_or_default();
        Shown {
            wrote: n,
            content: if self.names_content(n) { n } else { before.content },
            importance: if self.names_importance(n) { tenths(n) } else { before.importance },
            by: self.agent,
        }
    }
}

fn tenths(n: u32) -> u8 {
    (n.wrapping_mul(7) % 11) as u8
}

/// What a memory shows of the operations that wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shown {
    /// The last one.
    pub wrote: u32,
    /// The one that its content is of.
    pub content: u32,
    /// In tenths.
    pub importance: u8,
    pub by: u8,
}

/// A memory as the API shows it.
#[derive(Deserialize)]
pub struct Memory {
    pub id: Uuid,
    content: String,
    importance: f32,
    metadata: Metadata,
    written_by: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    op: u32,
}

impl Memory {
    pub fn shown(&self) -> Shown {
        shown(&self.content, self.metadata.op, self.importance, self.written_by.as_deref())
    }
}

/// What a memory with this shows.
pub fn shown(content: &str, wrote: u32, importance: f32, by: Option<&str>) -> Shown {
    let number = content.strip_prefix("operation ").and_then(|number| number.parse().ok());
    Shown {
        wrote,
        content: number.unwrap_or(STRANGE),
        importance: (importance * 10.0).round() as u8,
        by: by.map_or(u8::MAX, agent),
    }
}

/// One entry of the log, as Postgres has it or as somebody heard it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub memory: u32,
    /// `u8::MAX`: none of ours.
    pub agent: u8,
    /// What came with it; nothing if the memory was gone, and always in the log itself.
    pub shown: Option<Shown>,
}

impl Entry {
    /// Whether it is the same entry of the log: what is shown may differ.
    pub fn same(&self, other: &Self) -> bool {
        // A move is the service's own: whoever was there at the time is named with it.
        (self.kind, self.memory, self.agent) == (other.kind, other.memory, other.agent)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let agent = AGENTS.get(usize::from(self.agent)).unwrap_or(&"nobody");
        write!(f, "{:?} of memory {} by {agent}, showing {:?}", self.kind, self.memory, self.shown)
    }
}

/// The id of a memory. Every tenant uses the same ones.
pub fn id(memory: u32) -> Uuid {
    Uuid::from_u128(IDS | u128::from(memory))
}

/// Which memory it is.
pub fn memory(id: Uuid) -> u32 {
    if id.as_u128() & !0xffff_ffff == IDS { id.as_u128() as u32 } else { STRANGE }
}

/// The number of an agent.
pub fn agent(name: &str) -> u8 {
    AGENTS.iter().position(|agent| *agent == name).map_or(u8::MAX, |n| n as u8)
}

/// A time of January 2020, long before any clock of the test.
pub fn instant(at: u32) -> String {
    let (day, of_day) = (1 + at / 86_400, at % 86_400);
    format!("2020-01-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}
