//! An inverted index in memory with BM25 (Robertson, Zaragoza 2009; k1 = 0.9 and b = 0.4, as measured for short texts by
//! Trotman et al. 2014).
//!
//! A term is kept as a 64-bit hash under a random key of this process: no text is stored, and nobody outside can make two
//! terms meet. A term that one memory has costs 17 bytes, and a posting of a more frequent one 4.
//!
//! A memory that is withdrawn only leaves its slot: its postings are dead, are passed over by searches, and go when they
//! outweigh the living ones ([`Lexical::compact`]). So withdrawing costs nothing, and the bytes follow what is stored.

use std::{
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
    sync::LazyLock,
};

use super::analysis;

const K1: f32 = 0.9;
const B: f32 = 0.4;
/// The length of a slot that holds no memory.
const NO_MEMORY: u32 = u32::MAX;
/// Bits of a posting that hold the number of occurrences; the others hold the slot.
const COUNT_BITS: u32 = 6;
const COUNT_MAX: u32 = (1 << COUNT_BITS) - 1;
/// Dead postings that are never worth a compaction.
const DEAD_POSTINGS_KEPT: usize = 4096;
/// Bytes of the allocator's own for each list.
const ALLOCATION_BYTES: usize = 16;

/// The key of the terms' hashes.
static TERM_KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A term, as the index knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Term(u64);

impl Term {
    pub(super) fn new(text: &str) -> Self {
        Self(TERM_KEY.hash_one(text))
    }
}

/// A text's terms, ready to be posted: made without the index, so that analysing holds no lock.
pub(super) struct Terms {
    /// Each distinct term once, with its number of occurrences.
    distinct: Box<[(Term, u32)]>,
    /// Terms with repetitions.
    length: u32,
}

impl Terms {
    /// Analyses a text.
    pub(super) fn of(text: &str) -> Self {
        let mut terms = Vec::new();
        analysis::terms(text, |term| terms.push(Term::new(term)));
        let length = terms.len() as u32;
        terms.sort_unstable();
        let distinct = terms.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as u32)).collect();
        Self { distinct, length }
    }
}

/// Terms → memories, by slot number.
#[derive(Default)]
pub(super) struct Lexical {
    terms: HashMap<u64, Postings, BuildHasherDefault<HashedAlready>>,
    lists: Vec<Vec<Posting>>,
    slots: Vec<Slot>,
    /// Room that the lists have, in postings.
    list_room: usize,
    total_length: u64,
    living: usize,
    dead: usize,
}

/// Facts about the memory in a slot.
#[derive(Clone, Copy)]
struct Slot {
    /// [`NO_MEMORY`] when there is none.
    length: u32,
    /// Postings that name the slot, dead ones included.
    postings: u32,
}

/// A slot and how often its memory has the term.
#[derive(Clone, Copy)]
struct Posting(u32);

/// The memories that have a term, in no order.
#[derive(Clone, Copy)]
enum Postings {
    /// A single one: most terms of most texts are rare.
    One(Posting),
    /// The number of a list.
    Many(u32),
}

/// Matches of a search.
pub(super) struct Matches {
    /// Slot and BM25 weight, each slot once.
    pub(super) found: Vec<(u32, f32)>,
    /// The weight of a memory of average length that has each of the query's terms once.
    pub(super) full: f32,
}

impl Posting {
    fn new(slot: u32, count: u32) -> Self {
        Self(slot << COUNT_BITS | count.min(COUNT_MAX))
    }

    fn slot(self) -> usize {
        (self.0 >> COUNT_BITS) as usize
    }

    fn count(self) -> u32 {
        self.0 & COUNT_MAX
    }
}

impl Lexical {
    /// Memory that it takes, in bytes: what its tables have room for.
    pub(super) fn bytes(&self) -> usize {
        // The table has a control byte for each entry, and keeps an eighth free.
        let table = self.terms.capacity() * (size_of::<(u64, Postings)>() + 1) * 8 / 7;
        let lists = self.lists.capacity() * size_of::<Vec<Posting>>() + self.lists.len() * ALLOCATION_BYTES;
        table + lists + self.list_room * size_of::<Posting>() + self.slots.capacity() * size_of::<Slot>()
    }

    pub(super) fn shrink(&mut self) {
        for list in &mut self.lists {
            list.shrink_to_fit();
        }
        self.list_room = self.lists.iter().map(Vec::capacity).sum();
        self.lists.shrink_to_fit();
        self.slots.shrink_to_fit();
        self.terms.shrink_to_fit();
    }

    /// Indexes terms under a slot that is free.
    pub(super) fn post(&mut self, slot: u32, terms: &Terms) {
        for (Term(term), count) in &terms.distinct {
            let posting = Posting::new(slot, *count);
            match self.terms.entry(*term) {
                std::collections::hash_map::Entry::Vacant(entry) => drop(entry.insert(Postings::One(posting))),
                std::collections::hash_map::Entry::Occupied(mut entry) => match *entry.get() {
                    Postings::One(first) => {
                        let number = self.lists.len() as u32;
                        self.lists.push(vec![first, posting]);
                        self.list_room += 2;
                        entry.insert(Postings::Many(number));
                    }
                    Postings::Many(number) => {
                        let list = &mut self.lists[number as usize];
                        let before = list.capacity();
                        if list.len() == before {
                            // By a quarter: room that is kept for growing counts in the tenant's bound.
                            list.reserve_exact(before / 4 + 1);
                        }
                        list.push(posting);
                        self.list_room += list.capacity() - before;
                    }
                },
            }
        }
        let index = slot as usize;
        if self.slots.len() <= index {
            self.slots.resize(index + 1, Slot { length: NO_MEMORY, postings: 0 });
        }
        self.slots[index] = Slot { length: terms.length, postings: terms.distinct.len() as u32 };
        self.living += terms.distinct.len();
        self.total_length += u64::from(terms.length);
    }

    /// Withdraws the memory of a slot. True: the slot is free at once; else it is after the next compaction.
    pub(super) fn withdraw(&mut self, slot: u32) -> bool {
        let slot = &mut self.slots[slot as usize];
        self.total_length -= u64::from(std::mem::replace(&mut slot.length, NO_MEMORY));
        self.living -= slot.postings as usize;
        self.dead += slot.postings as usize;
        slot.postings == 0
    }

    /// Whether more is dead than lives.
    pub(super) fn wants_compaction(&self) -> bool {
        self.dead > self.living.max(DEAD_POSTINGS_KEPT)
    }

    /// Drops dead postings, and terms that nobody has any more. Returns the slots that are free now.
    pub(super) fn compact(&mut self) -> Vec<u32> {
        let Self { terms, lists, slots, .. } = self;
        let lives = |posting: &Posting| slots[posting.slot()].length != NO_MEMORY;
        let mut kept: Vec<Vec<Posting>> = Vec::new();
        terms.retain(|_, postings| match *postings {
            Postings::One(posting) => lives(&posting),
            Postings::Many(number) => {
                let mut list = std::mem::take(&mut lists[number as usize]);
                list.retain(lives);
                match list.as_slice() {
                    [] => return false,
                    [one] => *postings = Postings::One(*one),
                    _ => {
                        list.shrink_to_fit();
                        *postings = Postings::Many(kept.len() as u32);
                        kept.push(list);
                    }
                }
                true
            }
        });
        terms.shrink_to_fit();
        kept.shrink_to_fit();
        self.list_room = kept.iter().map(Vec::capacity).sum();
        self.lists = kept;
        self.dead = 0;
        let mut free = Vec::new();
        for (number, slot) in self.slots.iter_mut().enumerate() {
            if slot.length == NO_MEMORY && slot.postings > 0 {
                slot.postings = 0;
                free.push(number as u32);
            }
        }
        free
    }

    /// Forgets slots from `used` on, which hold nothing and have no postings.
    pub(super) fn truncate(&mut self, used: usize) {
        self.slots.truncate(used);
        self.slots.shrink_to_fit();
    }

    /// All memories with one of the terms. `memories`: how many there are.
    pub(super) fn search(&self, terms: &[Term], memories: usize) -> Matches {
        let average = (self.total_length as f32 / memories.max(1) as f32).max(1.0);
        let mut weights = vec![0.0_f32; self.slots.len()];
        let mut touched = Vec::new();
        let mut full = 0.0;
        for term in terms {
            let postings = self.postings(*term);
            let rarity = idf(memories, self.living_of(postings));
            full += rarity;
            for posting in postings {
                let length = self.slots[posting.slot()].length;
                if length == NO_MEMORY {
                    continue;
                }
                let weight = &mut weights[posting.slot()];
                if *weight == 0.0 {
                    touched.push(posting.slot() as u32);
                }
                let (count, length) = (posting.count() as f32, length as f32);
                *weight += rarity * count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length / average));
            }
        }
        Matches { found: touched.into_iter().map(|slot| (slot, weights[slot as usize])).collect(), full }
    }

    /// Postings that a search for these terms reads.
    pub(super) fn cost(&self, terms: &[Term]) -> usize {
        terms.iter().map(|term| self.postings(*term).len()).sum()
    }

    fn postings(&self, term: Term) -> &[Posting] {
        match self.terms.get(&term.0) {
            None => &[],
            Some(Postings::One(posting)) => std::slice::from_ref(posting),
            Some(Postings::Many(number)) => &self.lists[*number as usize],
        }
    }

    fn living_of(&self, postings: &[Posting]) -> usize {
        if self.dead == 0 {
            return postings.len();
        }
        postings.iter().filter(|posting| self.slots[posting.slot()].length != NO_MEMORY).count()
    }
}

/// Lucene's form, which is never negative.
fn idf(memories: usize, with_term: usize) -> f32 {
    let (n, df) = (memories as f32, with_term as f32);
    ((n - df + 0.5) / (df + 0.5)).ln_1p()
}

/// A hasher of keys that are hashes already.
#[derive(Default)]
struct HashedAlready(u64);

impl Hasher for HashedAlready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}
