//! Changes that follow one another, as the bytes of RFC 6455 §5.2 that sockets are sent. A server masks nothing, so these are
//! the same for every socket of a room: written once, and shared by all.

use std::{ops::Range, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::Change;

/// Bytes of one run, unless a single change has more.
pub(crate) const RUN_BYTES: usize = 16 * 1024;
const FINAL_TEXT: u8 = 0x81;

/// What the allocator and the counters of `bytes` and `texts` take, beside what they count.
const OVERHEAD: usize = 64;

/// One or more changes without a gap; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// The number of the first change in `bytes`.
    first: i64,
    bytes: Bytes,
    /// Where in `bytes` each change's text is.
    texts: Arc<[Range<usize>]>,
    /// Changes at the beginning that are not wanted any more.
    skipped: usize,
}

impl Run {
    /// The number of the last change.
    pub(crate) fn last(&self) -> i64 {
        self.first + self.texts.len() as i64 - 1
    }

    /// How many changes there are.
    pub(crate) fn count(&self) -> usize {
        self.texts.len() - self.skipped
    }

    /// Bytes of memory that all of it takes.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.len() + size_of_val(&*self.texts) + OVERHEAD
    }

    /// The frames.
    pub(crate) fn bytes(&self) -> Bytes {
        let from = self.skipped.checked_sub(1).map_or(0, |before| self.texts[before].end);
        self.bytes.slice(from..)
    }

    /// What follows `place`, which is before the last change.
    pub(crate) fn after(&self, place: i64) -> Self {
        let skipped = usize::try_from(place - self.first + 1).unwrap_or(0).max(self.skipped);
        Self { skipped, ..self.clone() }
    }

    /// Each change's number and JSON.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (i64, &[u8])> {
        let numbered = (self.first..).zip(self.texts.iter());
        numbered.skip(self.skipped).map(|(seq, text)| (seq, &self.bytes[text.clone()]))
    }
}

/// Writes a page of the log as runs.
pub(crate) fn runs(changes: Vec<Change>) -> Vec<Run> {
    let (mut runs, mut first) = (Vec::new(), 0);
    let (mut bytes, mut texts) = (BytesMut::new(), Vec::new());
    let mut finish = |first, bytes: &mut BytesMut, texts: &mut Vec<_>| {
        let texts: Vec<_> = std::mem::take(texts);
        if !texts.is_empty() {
            // Exactly as long as needed: it stays for as long as the room holds it.
            let bytes = Bytes::copy_from_slice(&std::mem::take(bytes));
            runs.push(Run { first, bytes, texts: texts.into(), skipped: 0 });
        }
    };
    for change in changes {
        let follows = change.seq == first + texts.len() as i64;
        if !follows || bytes.len() + change.json.len() > RUN_BYTES {
            finish(first, &mut bytes, &mut texts);
        }
        if texts.is_empty() {
            first = change.seq;
        }
        put_head(&mut bytes, change.json.len());
        texts.push(bytes.len()..bytes.len() + change.json.len());
        bytes.put_slice(change.json.as_bytes());
    }
    finish(first, &mut bytes, &mut texts);
    runs
}

fn put_head(bytes: &mut BytesMut, length: usize) {
    bytes.put_u8(FINAL_TEXT);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..126), _) => bytes.put_u8(short),
        (_, Ok(medium)) => {
            bytes.put_u8(126);
            bytes.put_u16(medium);
        }
        _ => {
            bytes.put_u8(127);
            bytes.put_u64(length as u64);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tokio_tungstenite::tungstenite::protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    };

    use super::*;

    fn changes(lengths: &[usize]) -> Vec<Change> {
        let change = |(seq, length): (i64, &usize)| Change { seq, json: "x".repeat(*length) };
        (5..).zip(lengths).map(change).collect()
    }

    fn as_the_protocol_says(changes: &[Change]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for change in changes {
            let frame = Frame::message(change.json.clone(), OpCode::Data(Data::Text), true);
            frame.header().format(frame.payload().len() as u64, &mut bytes).expect("a head in memory");
            bytes.extend_from_slice(frame.payload());
        }
        bytes
    }

    #[test]
    fn the_bytes_are_those_of_the_protocol_from_any_change_on() {
        let changes = changes(&[0, 1, 125, 126, 127, 255, 256, 40_000, 3, 65_535, 65_536, 2]);
        let runs = runs(changes.clone());
        assert_eq!(runs.len(), 6, "a change longer than a run stands alone");
        for from in 0..changes.len() {
            let place = changes[from].seq - 1;
            let left: Vec<Run> = runs.iter().filter(|run| run.last() > place).map(|run| run.after(place)).collect();
            let bytes: Vec<u8> = left.iter().flat_map(Run::bytes).collect();
            assert!(bytes == as_the_protocol_says(&changes[from..]), "after {place}");
            let told = left.iter().flat_map(Run::changes);
            let expected = changes[from..].iter().map(|change| (change.seq, change.json.as_bytes()));
            assert!(told.eq(expected), "after {place}");
            assert_eq!(left.iter().map(Run::count).sum::<usize>(), changes.len() - from);
        }
    }
}
