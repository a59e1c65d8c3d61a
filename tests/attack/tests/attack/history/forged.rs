//! The checker is shown histories that are wrong in one thing, and finds it.

use std::collections::HashMap;

use super::{
    check::{Heard, History, faults},
    record::{Entry, Fate, Kind, Op, Shown},
};

const TENTH: u32 = 10;

fn op(kind: Kind, memory: u32, writer: u8, at: Option<u32>, fate: Fate) -> Op {
    Op { kind, memory, writer, agent: writer, keyed: false, at, floor: 0, refused: false, fate }
}

/// Two writers: each stores memories, both write all of them, one removes some; a zone changes by itself.
fn whole() -> History {
    let mut history = History::default();
    let mut state: HashMap<u32, Shown> = HashMap::new();
    let mut apply = |history: &mut History, kind, memory, writer, at| {
        let n = history.ops.len() as u32;
        let applied = op(kind, memory, writer, at, Fate::Applied(history.log.len() as u32 + 1));
        history.ops.push(applied);
        let before = state.remove(&memory);
        let shown = (kind != Kind::Remove).then(|| applied.shown(n, before));
        state.extend(shown.map(|shown| (memory, shown)));
        history.log.push(Entry { kind, memory, agent: writer, shown });
    };
    for memory in 1..=20 {
        apply(&mut history, Kind::Store, memory, (memory % 2) as u8, Some(100));
    }
    for memory in 1..=20 {
        apply(&mut history, Kind::Update, memory, 0, Some(200));
        apply(&mut history, Kind::Update, memory, 1, (memory > TENTH).then_some(200));
        history.ops.push(op(Kind::Update, memory, 0, Some(150), Fate::Newer));
    }
    for memory in 1..=5 {
        apply(&mut history, Kind::Remove, memory, 1, None);
        history.ops.push(op(Kind::Update, memory, 0, None, Fate::Removed));
    }
    let last = *history.log.iter().rfind(|entry| entry.memory == 20).unwrap();
    history.log.push(Entry { kind: Kind::Move, ..last });
    history.times.extend((TENTH + 1..=20).map(|memory| (memory, 200)));
    for name in ["a socket", "an event stream"] {
        let entries = history.log.iter().copied().map(Some).collect();
        history.heard.push(Heard { who: name.to_owned(), entries, anew: Vec::new() });
    }
    for name in ["Postgres", "a replica"] {
        history.held.push((name.to_owned(), state.clone()));
    }
    history.log.iter_mut().for_each(|entry| entry.shown = None);
    history
}

/// What a follower was told.
fn told(history: &mut History, follower: usize, at: usize) -> &mut Entry {
    history.heard[follower].entries[at].as_mut().unwrap()
}

/// Lets a follower miss what is after the first thirty changes, and read the end anew.
fn pruned(history: &mut History) {
    let end = history.log.len() as u32;
    let state = history.held[0].1.clone();
    history.heard[0].entries[30..].fill(None);
    history.heard[0].anew.push((end, state));
}

/// Forges a whole history; the faults that are found must all say one of these.
fn finds(forge: impl FnOnce(&mut History), words: &[&str]) {
    let mut history = whole();
    forge(&mut history);
    let found = faults(&history);
    assert!(!found.is_empty(), "{words:?} was not found");
    let said = words.iter().all(|word| found.iter().any(|fault| fault.contains(word)));
    assert!(said, "not found: {words:?} in\n{}", found.join("\n"));
}

#[test]
fn a_whole_history_has_no_fault() {
    assert_eq!(faults(&whole()), Vec::<String>::new());
}

#[test]
fn a_change_may_come_with_what_the_memory_is_later() {
    let mut history = whole();
    let Entry { shown: later, memory: first, .. } = told(&mut history, 0, 25).to_owned();
    let gone = told(&mut history, 1, 1).memory;
    for entry in history.heard[0].entries[..25].iter_mut().flatten().filter(|entry| entry.memory == first) {
        entry.shown = later;
    }
    for entry in history.heard[1].entries.iter_mut().flatten().filter(|entry| entry.memory == gone) {
        entry.shown = None;
    }
    assert_eq!(faults(&history), Vec::<String>::new());
}

#[test]
fn an_acknowledgement_whose_change_is_not_in_the_log_is_found() {
    // The last one of all, one in the middle, and an operation that was never answered.
    finds(|history| drop(history.log.drain(history.log.len() - 2..)), &["is lost"]);
    finds(
        |history| {
            history.log.remove(30);
        },
        &["is lost"],
    );
    finds(|history| history.ops[30].fate = Fate::Pending, &["never answered"]);
}

#[test]
fn two_operations_that_changed_places_are_found() {
    // Of one writer.
    finds(
        |history| {
            let (one, other) = (history.ops[3].fate, history.ops[5].fate);
            (history.ops[3].fate, history.ops[5].fate) = (other, one);
            history.log.swap(3, 5);
            history.heard.iter_mut().for_each(|heard| heard.entries.swap(3, 5));
        },
        &["out of order"],
    );
    // Asked for after the other one was acknowledged.
    finds(|history| history.ops[24].floor = 40, &["acknowledged before it was asked for"]);
    // As one follower heard them.
    finds(|history| history.heard[0].entries.swap(20, 23), &["heard as change 21"]);
}

#[test]
fn what_was_carried_out_twice_is_found() {
    finds(
        |history| {
            let twice = history.log[30];
            history.log.push(twice);
            for heard in &mut history.heard {
                let twice = heard.entries[30];
                heard.entries.push(twice);
            }
        },
        &["carried out twice"],
    );
    finds(|history| history.ops[21].fate = history.ops[20].fate, &["is lost", "carried out twice"]);
}

#[test]
fn a_follower_that_missed_the_end_or_was_shown_what_never_was_is_found() {
    finds(|history| history.heard[1].entries.truncate(50), &["an event stream heard 50 changes of"]);
    // What it was before; what another memory is; nothing, although it is there.
    finds(|history| told(history, 0, 39).shown = told(history, 0, 9).shown, &["never was then or later"]);
    finds(|history| told(history, 0, 39).shown = told(history, 0, 41).shown, &["never was then or later"]);
    finds(|history| told(history, 0, 59).shown = None, &["was shown no memory"]);
}

#[test]
fn one_that_reads_anew_what_the_log_has_no_more_ends_equal_or_is_found() {
    let mut history = whole();
    pruned(&mut history);
    assert_eq!(faults(&history), Vec::<String>::new());
    let anew = |forge: fn(&mut HashMap<u32, Shown>), words: &[&str]| {
        finds(
            |history| {
                pruned(history);
                forge(&mut history.heard[0].anew[0].1);
            },
            words,
        );
    };
    anew(|state| state.get_mut(&15).unwrap().content = 7, &["read anew", "not equal"]);
    anew(
        |state| {
            state.remove(&20);
        },
        &["which is there", "not equal"],
    );
    finds(|history| history.heard[0].entries[40] = None, &["a socket misses what is before change 42"]);
}

#[test]
fn a_replica_that_is_not_equal_is_found() {
    finds(
        |history| {
            history.held[1].1.remove(&15);
        },
        &["a replica is not equal: memory 15"],
    );
    finds(
        |history| {
            let shown = history.held[1].1[&15];
            history.held[1].1.insert(1, shown);
        },
        &["a replica is not equal: it has memory 1"],
    );
    finds(|history| history.held[0].1.get_mut(&15).unwrap().content = 7, &["Postgres is not equal"]);
}

#[test]
fn a_decision_against_the_rule_is_found() {
    // An earlier write that won; one that lost to nothing; one that lost to a removal that never was; a wrong last time.
    finds(|history| history.ops[57].at = Some(150), &["breaks the rule"]);
    finds(|history| history.ops.push(op(Kind::Update, 15, 3, Some(900), Fate::Newer)), &["without a reason"]);
    finds(|history| history.ops.push(op(Kind::Update, 15, 3, None, Fate::Removed)), &["without a reason"]);
    finds(
        |history| {
            history.times.insert(15, 150);
        },
        &["last written at 150"],
    );
}
