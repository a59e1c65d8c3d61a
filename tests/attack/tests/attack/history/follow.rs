//! What a follower may hear: the log, without a gap, and with each change what the memory was then or later. Where the log no
//! longer reached back, the follower read everything anew. The last that it knows of each memory is what there is.

use std::collections::HashMap;

use super::{
    check::{Faults, Heard, equal},
    record::{Entry, Kind, Shown},
    replay::Replay,
};

/// A follower's view, change by change.
struct View<'a> {
    who: &'a str,
    replay: &'a Replay,
    /// What it holds.
    state: HashMap<u32, Shown>,
    /// Memories that there are, and the number of the last write of each.
    written: HashMap<u32, u32>,
}

/// Checks one follower.
pub fn check(heard: &Heard, log: &[Entry], replay: &Replay, faults: &mut Faults) {
    let Heard { who, entries, anew } = heard;
    if entries.len() < log.len() {
        faults.add(|| format!("{who} heard {} changes of {}", entries.len(), log.len()));
    }
    let mut view = View { who, replay, state: HashMap::new(), written: HashMap::new() };
    let (mut anew, mut misses) = (anew.iter().peekable(), false);
    for (at, (told, entry)) in entries.iter().zip(log).enumerate() {
        let seq = at as u32 + 1;
        let least = view.written(entry, seq);
        match told {
            Some(_) if misses => faults.add(|| format!("{who} misses what is before change {seq}")),
            Some(told) => view.hears(told, entry, seq, least, faults),
            None => misses = true,
        }
        while let Some((_, held)) = anew.next_if(|(from, _)| *from == seq) {
            view.reads_anew(held, seq, faults);
            misses = false;
        }
    }
    equal(who, &view.state, &replay.last, faults);
}

impl View<'_> {
    /// Notes what the log says. Returns the number of the memory's last write.
    fn written(&mut self, entry: &Entry, seq: u32) -> u32 {
        match entry.kind {
            Kind::Move => self.written.get(&entry.memory).copied().unwrap_or(0),
            Kind::Remove => {
                self.written.remove(&entry.memory);
                seq
            }
            Kind::Store | Kind::Update => {
                self.written.insert(entry.memory, seq);
                seq
            }
        }
    }

    fn hears(&mut self, told: &Entry, entry: &Entry, seq: u32, least: u32, faults: &mut Faults) {
        let Self { who, replay, state, .. } = self;
        if !told.same(entry) {
            faults.add(|| format!("{who} heard as change {seq} {told:?}, but it is {entry:?}"));
        }
        match told.shown {
            None => {
                if replay.removed.get(&entry.memory).is_none_or(|removed| *removed < seq) {
                    faults.add(|| format!("{who} was shown no memory with change {seq}, {entry:?}, which is there"));
                }
                state.remove(&entry.memory);
            }
            Some(shown) => {
                if !replay.showed(&shown, entry.memory, least) {
                    faults.add(|| {
                        format!(
                            "{who} was shown with change {seq}, {entry:?}, what it never was then or later: {shown:?}"
                        )
                    });
                }
                state.insert(entry.memory, shown);
            }
        }
    }

    /// What is read anew is what there was after the change `seq`, or later.
    fn reads_anew(&mut self, held: &HashMap<u32, Shown>, seq: u32, faults: &mut Faults) {
        let Self { who, replay, written, .. } = self;
        for (memory, shown) in held {
            let least = written.get(memory).copied().unwrap_or(seq + 1);
            if !replay.showed(shown, *memory, least) {
                faults.add(|| format!("{who} read anew after change {seq} what memory {memory} never was: {shown:?}"));
            }
        }
        for memory in written.keys().filter(|memory| !held.contains_key(*memory)) {
            if replay.removed.get(memory).is_none_or(|removed| *removed <= seq) {
                faults.add(|| format!("{who} read anew after change {seq} no memory {memory}, which is there"));
            }
        }
        self.state.clone_from(held);
    }
}
