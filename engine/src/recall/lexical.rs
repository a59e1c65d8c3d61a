//! An inverted index in memory with BM25 (Robertson, Zaragoza 2009; k1 = 0.9 and b = 0.4, as measured for short texts by
//! Trotman et al. 2014). About 5 bytes a posting and 4 for the way back from a memory to its terms.

use std::collections::HashMap;

use super::analysis;

const K1: f32 = 0.9;
const B: f32 = 0.4;
/// What a term costs beside its text: table entry and an empty list.
const TERM_BYTES: usize = 96;
const POSTING_BYTES: usize = 5 + 4;

/// Terms → memories, by slot number.
#[derive(Default)]
pub(super) struct Lexical {
    ids: HashMap<Box<str>, u32>,
    lists: Vec<Postings>,
    lengths: Vec<u32>,
    total_length: u64,
    postings: usize,
    text: usize,
}

/// The memories that have a term, by rising slot.
#[derive(Default)]
struct Postings {
    slots: Vec<u32>,
    counts: Vec<u8>,
}

/// What was posted for a memory: needed to withdraw it.
pub(super) struct Posted(Box<[u32]>);

/// What a search found.
pub(super) struct Matches {
    /// Slot and BM25 weight, each slot once.
    pub(super) found: Vec<(u32, f32)>,
    /// The weight of a memory of average length that has each of the query's terms once.
    pub(super) full: f32,
}

impl Lexical {
    pub(super) fn bytes(&self) -> usize {
        self.postings * POSTING_BYTES + self.lists.len() * TERM_BYTES + self.text + self.lengths.len() * 4
    }

    pub(super) fn shrink(&mut self) {
        for list in &mut self.lists {
            list.slots.shrink_to_fit();
            list.counts.shrink_to_fit();
        }
        self.lists.shrink_to_fit();
        self.lengths.shrink_to_fit();
        self.ids.shrink_to_fit();
    }

    /// Indexes a text under a slot that is free.
    pub(super) fn post(&mut self, slot: u32, text: &str) -> Posted {
        let mut terms: Vec<u32> = Vec::new();
        let Self { ids, lists, text: text_bytes, .. } = self;
        analysis::terms(text, |term| {
            let id = ids.get(term).copied().unwrap_or_else(|| {
                let id = lists.len() as u32;
                lists.push(Postings::default());
                *text_bytes += term.len();
                ids.insert(term.into(), id);
                id
            });
            terms.push(id);
        });
        let length = terms.len() as u32;
        terms.sort_unstable();
        let mut distinct = Vec::with_capacity(terms.len());
        for run in terms.chunk_by(|a, b| a == b) {
            self.lists[run[0] as usize].insert(slot, run.len().min(u8::MAX as usize) as u8);
            distinct.push(run[0]);
        }
        self.postings += distinct.len();
        let index = slot as usize;
        if self.lengths.len() <= index {
            self.lengths.resize(index + 1, 0);
        }
        self.lengths[index] = length;
        self.total_length += u64::from(length);
        Posted(distinct.into_boxed_slice())
    }

    /// Takes back what was posted under a slot.
    pub(super) fn withdraw(&mut self, slot: u32, posted: &Posted) {
        for term in &posted.0 {
            self.lists[*term as usize].remove(slot);
        }
        self.postings -= posted.0.len();
        self.total_length -= u64::from(std::mem::take(&mut self.lengths[slot as usize]));
    }

    /// All memories with one of the terms. `memories`: how many there are; `slots`: one more than the highest slot.
    pub(super) fn search(&self, terms: &[String], memories: usize, slots: usize) -> Matches {
        let average = (self.total_length as f32 / memories.max(1) as f32).max(1.0);
        let mut weights = vec![0.0_f32; slots];
        let mut touched = Vec::new();
        let mut full = 0.0;
        for term in terms {
            let list = self.ids.get(term.as_str()).map(|id| &self.lists[*id as usize]);
            let rarity = idf(memories, list.map_or(0, |list| list.slots.len()));
            full += rarity;
            let Some(list) = list else { continue };
            for (slot, count) in list.slots.iter().zip(&list.counts) {
                let weight = &mut weights[*slot as usize];
                if *weight == 0.0 {
                    touched.push(*slot);
                }
                let (count, length) = (f32::from(*count), self.lengths[*slot as usize] as f32);
                *weight += rarity * count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length / average));
            }
        }
        Matches { found: touched.into_iter().map(|slot| (slot, weights[slot as usize])).collect(), full }
    }
}

/// Lucene's form, which is never negative.
fn idf(memories: usize, with_term: usize) -> f32 {
    let (n, df) = (memories as f32, with_term as f32);
    ((n - df + 0.5) / (df + 0.5)).ln_1p()
}

impl Postings {
    fn insert(&mut self, slot: u32, count: u8) {
        // Slots mostly rise, so this is mostly a push.
        let at = match self.slots.last() {
            Some(last) if *last > slot => self.slots.partition_point(|known| *known < slot),
            _ => self.slots.len(),
        };
        self.slots.insert(at, slot);
        self.counts.insert(at, count);
    }

    fn remove(&mut self, slot: u32) {
        if let Ok(at) = self.slots.binary_search(&slot) {
            self.slots.remove(at);
            self.counts.remove(at);
        }
    }
}
