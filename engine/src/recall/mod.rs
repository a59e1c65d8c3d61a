//! Recall: which memories answer a query, and in what order. Pure; what it knows of a tenant is a [`Corpus`].
//!
//! Relevance decides. The score of a memory (importance, recency, how often it was of use) and a wanted emotion may only
//! prefer: together they add at most a tenth of what the best match has, so they order what is about equally relevant
//! and never bring an irrelevant memory up.
//!
//! This is the boundary behind which ranking grows: a [`Document`] already carries session, speaker and time for
//! ranking by neighbours, speaker and date, and nothing outside this module knows how a [`Hit`] comes about.

mod analysis;
mod lexical;
mod query;

use std::collections::HashMap;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::memory::{AnchoredScore, forgotten_below};
use lexical::{Lexical, Terms};

pub use query::Query;

/// How much preference may add, as a share of the best match.
const MAX_PREFERENCE: f32 = 0.1;
/// The part of it that a wanted emotion has.
const EMOTION_PREFERENCE: f32 = 0.02;

/// A memory as ranking sees it.
#[derive(Clone, Copy, Debug)]
pub struct Document<'a> {
    /// The text.
    pub content: &'a str,
    /// The conversation.
    pub session: Option<&'a str>,
    /// Who said it.
    pub speaker: Option<&'a str>,
    /// When it happened.
    pub occurred_at: OffsetDateTime,
    /// Its feeling.
    pub emotion: Option<&'a str>,
    /// Its score.
    pub score: AnchoredScore,
}

/// A memory that answers a query.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Hit {
    /// Which.
    pub id: Uuid,
    /// 0 to 1: the share of the query's weight that it matches, where each word once in a memory of average length
    /// counts in full. Comparable between queries.
    pub relevance: f32,
}

/// A memory that was analysed: what a [`Corpus`] takes in. Made without the corpus, so that analysing holds no lock.
pub struct Prepared {
    id: Uuid,
    terms: Terms,
    score: AnchoredScore,
    emotion: Option<Box<str>>,
}

impl Prepared {
    /// Analyses a memory.
    pub fn new(id: Uuid, document: &Document<'_>) -> Self {
        // Session, speaker and time are not ranked by yet.
        let Document { content, session: _, speaker: _, occurred_at: _, emotion, score } = *document;
        let emotion = emotion.map(|word| word.trim().to_lowercase().into());
        Self { id, terms: Terms::of(content), score, emotion }
    }
}

/// A tenant's memories, ready to be searched.
#[derive(Default)]
pub struct Corpus {
    lexical: Lexical,
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_id: HashMap<Uuid, u32>,
    emotions: usize,
}

struct Entry {
    id: Uuid,
    score: AnchoredScore,
    emotion: Option<Box<str>>,
}

impl Entry {
    fn emotion_bytes(&self) -> usize {
        self.emotion.as_deref().map_or(0, str::len)
    }
}

impl Corpus {
    /// Returns an empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns how many memories it holds.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Returns true if it holds no memory.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Returns the memory that it takes, in bytes: what its tables have room for.
    pub fn bytes(&self) -> usize {
        let table = self.by_id.capacity() * (size_of::<(Uuid, u32)>() + 1) * 8 / 7;
        let slots = self.slots.capacity() * size_of::<Option<Entry>>() + self.free.capacity() * size_of::<u32>();
        self.lexical.bytes() + table + slots + self.emotions
    }

    /// Adds a memory, or replaces the one of that id.
    pub fn put(&mut self, memory: Prepared) {
        let Prepared { id, terms, score, emotion } = memory;
        self.remove(id);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.lexical.post(slot, &terms);
        let entry = Entry { id, score, emotion };
        self.emotions += entry.emotion_bytes();
        self.slots[slot as usize] = Some(entry);
        self.by_id.insert(id, slot);
    }

    /// Removes a memory, if it is there.
    pub fn remove(&mut self, id: Uuid) {
        let Some(slot) = self.by_id.remove(&id) else { return };
        let Some(entry) = self.slots[slot as usize].take() else { return };
        self.emotions -= entry.emotion_bytes();
        if self.lexical.withdraw(slot) {
            self.free.push(slot);
        }
    }

    /// Returns true when what was removed takes more room than what is stored.
    pub fn wants_compaction(&self) -> bool {
        self.lexical.wants_compaction()
    }

    /// Gives back the room of what was removed. Takes time in proportion to the corpus.
    pub fn compact(&mut self) {
        self.free.extend(self.lexical.compact());
        self.by_id.shrink_to_fit();
        self.drop_free_end();
    }

    /// Drops slots at the end that hold nothing, when they are many.
    fn drop_free_end(&mut self) {
        let used = self.slots.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.slots.truncate(used);
        self.slots.shrink_to_fit();
        self.lexical.truncate(used);
        self.free.retain(|slot| (*slot as usize) < used);
        self.free.shrink_to_fit();
    }

    /// Gives back room that was kept for growing.
    pub fn shrink(&mut self) {
        self.lexical.shrink();
        self.slots.shrink_to_fit();
        self.by_id.shrink_to_fit();
    }

    /// Sets a memory's score, if it is there.
    pub fn rescore(&mut self, id: Uuid, score: AnchoredScore) {
        if let Some(entry) = self.by_id.get(&id).and_then(|slot| self.slots[*slot as usize].as_mut()) {
            entry.score = score;
        }
    }

    /// Returns the number of postings that a search reads: its time is in proportion.
    pub fn search_cost(&self, query: &Query) -> usize {
        self.lexical.cost(query.terms())
    }

    /// Returns the best answers, the best first, at most `take`. Memories that share no word with the query are no answer.
    pub fn search(&self, query: &Query, now: OffsetDateTime, take: usize) -> Vec<Hit> {
        let matches = self.lexical.search(query.terms(), self.len());
        let best = matches.found.iter().map(|(_, weight)| *weight).fold(0.0_f32, f32::max);
        if best <= 0.0 || take == 0 {
            return Vec::new();
        }
        let least = least_weight(&matches.found, take, best);
        let forgotten = forgotten_below(now).to_stored();
        let mut ranked: Vec<(f32, Uuid, f32)> = matches
            .found
            .iter()
            .filter(|(_, weight)| *weight >= least)
            .filter_map(|(slot, weight)| {
                let entry = self.slots[*slot as usize].as_ref()?;
                Some((weight / best + preference(entry, query, forgotten), entry.id, *weight))
            })
            .collect();
        // Of two that are alike in everything the one stored later comes first.
        let order = |a: &(f32, Uuid, f32), b: &(f32, Uuid, f32)| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1));
        if ranked.len() > take {
            ranked.select_nth_unstable_by(take, order);
            ranked.truncate(take);
        }
        ranked.sort_unstable_by(order);
        let relevance = |weight: f32| ((weight / matches.full).min(1.0) * 10_000.0).round() / 10_000.0;
        ranked.into_iter().map(|(_, id, weight)| Hit { id, relevance: relevance(weight) }).collect()
    }
}

/// No memory of less weight can be among the first `take`, whatever is preferred.
fn least_weight(found: &[(u32, f32)], take: usize, best: f32) -> f32 {
    if found.len() <= take {
        return 0.0;
    }
    let mut weights: Vec<f32> = found.iter().map(|(_, weight)| *weight).collect();
    let (_, last, _) = weights.select_nth_unstable_by(take - 1, |a, b| b.total_cmp(a));
    // A little more than the greatest preference, for rounding.
    *last - best * MAX_PREFERENCE * 1.01
}

/// `forgotten`: the stored form of a score of 0 now.
fn preference(entry: &Entry, query: &Query, forgotten: f32) -> f32 {
    let wanted = query.emotion().is_some_and(|emotion| entry.emotion.as_deref() == Some(emotion));
    let score = (entry.score.to_stored() - forgotten).clamp(0.0, 1.0);
    (MAX_PREFERENCE - EMOTION_PREFERENCE) * score + if wanted { EMOTION_PREFERENCE } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;
    use crate::memory::Standing;

    const NOW: OffsetDateTime = datetime!(2026-06-01 12:00 UTC);

    fn document(content: &str, importance: f32) -> Document<'_> {
        let score = Standing { recalls: 0, importance, context: 0.0, touched: NOW }.anchored();
        Document { content, session: None, speaker: None, occurred_at: NOW, emotion: None, score }
    }

    fn memory(id: u128, document: &Document<'_>) -> Prepared {
        Prepared::new(Uuid::from_u128(id), document)
    }

    fn corpus(contents: &[&str]) -> Corpus {
        let mut corpus = Corpus::new();
        for (n, content) in contents.iter().enumerate() {
            corpus.put(memory(n as u128, &document(content, 0.5)));
        }
        corpus
    }

    fn found(corpus: &Corpus, q: &str) -> Vec<u128> {
        corpus.search(&Query::new(q, None), NOW, 10).iter().map(|hit| hit.id.as_u128()).collect()
    }

    #[test]
    fn finds_other_forms_of_a_word_and_words_beyond_ascii() {
        let corpus = corpus(&["Ada prefers flying to Lisbon", "the cat sleeps", "naïve ideas from 東京"]);
        assert_eq!(found(&corpus, "flights? no: FLY lisbon"), [0]);
        assert_eq!(found(&corpus, "sleeping cats"), [1]);
        assert_eq!(found(&corpus, "naive"), [2]);
        assert_eq!(found(&corpus, "東京"), [2]);
        assert_eq!(found(&corpus, "the of and"), [] as [u128; 0]);
    }

    #[test]
    fn bytes_follow_what_is_stored() {
        let mut corpus = Corpus::new();
        let mut most = 0;
        for round in 0..40_u128 {
            for id in 0..20 {
                let words: Vec<String> = (0..500).map(|word| format!("w{round}x{id}x{word}")).collect();
                corpus.put(memory(id, &document(&words.join(" "), 0.5)));
            }
            if corpus.wants_compaction() {
                corpus.compact();
            }
            if round < 3 {
                most = most.max(corpus.bytes());
            }
        }
        assert!(corpus.bytes() <= most, "{} bytes at the end, {most} after three rounds", corpus.bytes());
        (0..20).for_each(|id| corpus.remove(Uuid::from_u128(id)));
        corpus.compact();
        assert!(corpus.bytes() < 1024, "{} bytes of nothing", corpus.bytes());
    }

    #[test]
    fn a_rare_word_outweighs_a_common_one() {
        let corpus = corpus(&["project meeting", "project review", "project zebra", "project plan"]);
        assert_eq!(found(&corpus, "project zebra")[0], 2);
    }

    #[test]
    fn importance_orders_equals_and_never_overturns_relevance() {
        let mut corpus = Corpus::new();
        corpus.put(memory(1, &document("tea with milk", 1.0)));
        corpus.put(memory(2, &document("tea with milk", 0.0)));
        corpus.put(memory(3, &document("tea with lemon and honey from the garden", 0.0)));
        assert_eq!(found(&corpus, "tea milk")[..2], [1, 2]);
        assert_eq!(found(&corpus, "honey tea")[0], 3);
    }

    #[test]
    fn a_wanted_emotion_comes_first_among_equals() {
        let mut corpus = Corpus::new();
        corpus.put(memory(1, &Document { emotion: Some("joy"), ..document("the game", 0.5) }));
        corpus.put(memory(2, &document("the game", 0.5)));
        let hits = corpus.search(&Query::new("game", Some("Joy")), NOW, 5);
        assert_eq!(hits[0].id.as_u128(), 1);
    }

    #[test]
    fn relevance_tells_a_full_match_from_a_partial_one() {
        let corpus = corpus(&["red apple", "green pear", "blue plum"]);
        let relevance = |q: &str| corpus.search(&Query::new(q, None), NOW, 1)[0].relevance;
        assert!(relevance("red apple") > 0.9);
        assert!(relevance("red zeppelin over helsinki") < 0.5);
    }

    proptest! {
        #[test]
        fn after_any_history_a_search_sees_exactly_what_is_there(
            steps in prop::collection::vec((0u128..12, prop::option::of("[abc]( [abcd]){0,4}")), 0..60), q in "[abcd]( [abcd]){0,2}",
            compact_at in prop::option::of(0usize..60),
        ) {
            let mut corpus = Corpus::new();
            let mut truth: HashMap<u128, String> = HashMap::new();
            for (step, (id, content)) in steps.iter().enumerate() {
                if compact_at == Some(step) {
                    corpus.compact();
                }
                if let Some(content) = content {
                        corpus.put(memory(*id, &document(content, 0.5)));
                        truth.insert(*id, content.clone());
                    } else {
                        corpus.remove(Uuid::from_u128(*id));
                        truth.remove(id);
                    }
            }
            let mut fresh = Corpus::new();
            for (id, content) in &truth {
                fresh.put(memory(*id, &document(content, 0.5)));
            }
            let query = Query::new(&q, None);
            prop_assert_eq!(corpus.search(&query, NOW, 100), fresh.search(&query, NOW, 100));
            prop_assert_eq!(corpus.len(), truth.len());
        }

        #[test]
        fn a_smaller_take_is_a_prefix(contents in prop::collection::vec("[abc]( [abc]){0,6}", 1..40), take in 0usize..40) {
            let refs: Vec<&str> = contents.iter().map(String::as_str).collect();
            let corpus = corpus(&refs);
            let query = Query::new("a b", None);
            let all = corpus.search(&query, NOW, 100);
            let some = corpus.search(&query, NOW, take);
            prop_assert_eq!(&some[..], &all[..take.min(all.len())]);
        }
    }
}
