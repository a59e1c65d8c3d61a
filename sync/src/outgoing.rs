//! Changes on their way to a socket: the room's own bytes, of which a socket knows only how far it is.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf as _, Bytes};

use crate::run::Run;

/// What is still to be written of some runs, in order.
#[derive(Default)]
pub(crate) struct Outgoing {
    runs: VecDeque<Bytes>,
    /// A part of the first run was written.
    begun: bool,
}

impl<'a> FromIterator<&'a Run> for Outgoing {
    fn from_iter<T: IntoIterator<Item = &'a Run>>(runs: T) -> Self {
        Self { runs: runs.into_iter().map(Run::bytes).collect(), begun: false }
    }
}

impl Outgoing {
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// What comes next, as parts of one write. Returns how many there are.
    pub(crate) fn chunks_vectored<'a>(&'a self, parts: &mut [IoSlice<'a>]) -> usize {
        let filled = self.runs.len().min(parts.len());
        for (place, bytes) in parts.iter_mut().zip(&self.runs) {
            *place = IoSlice::new(bytes);
        }
        filled
    }

    /// So many bytes were written.
    pub(crate) fn advance(&mut self, mut written: usize) {
        while let Some(bytes) = self.runs.front_mut() {
            let of_these = written.min(bytes.len());
            bytes.advance(of_these);
            written -= of_these;
            self.begun |= of_these > 0;
            if !bytes.is_empty() {
                return;
            }
            self.runs.pop_front();
            self.begun = false;
        }
    }

    /// Drops all but the rest of a run that was begun, after which a frame of another kind may follow.
    pub(crate) fn keep_begun(&mut self) {
        self.runs.truncate(usize::from(self.begun));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Change, run::runs};

    #[test]
    fn all_bytes_are_written_once_however_much_a_write_takes() {
        let page = |seq: i64| vec![Change { seq, json: "x".repeat(1 << seq) }];
        let runs: Vec<Run> = (0..16).flat_map(|seq| runs(page(seq))).collect();
        let expected: Vec<u8> = runs.iter().flat_map(Run::bytes).collect();
        for most in [1, 2, 7, 1000, 100_000] {
            for parts in [1, 3, 64] {
                let (mut outgoing, mut bytes) = (runs.iter().collect::<Outgoing>(), Vec::new());
                while !outgoing.is_empty() {
                    let mut places = vec![IoSlice::new(&[]); parts];
                    let filled = outgoing.chunks_vectored(&mut places);
                    let mut room = most;
                    for part in &places[..filled] {
                        let taken = room.min(part.len());
                        bytes.extend_from_slice(&part[..taken]);
                        room -= taken;
                    }
                    outgoing.advance(most - room);
                }
                assert!(bytes == expected, "at most {most} bytes and {parts} parts a write");
            }
        }
    }
    #[test]
    fn only_what_was_begun_is_kept() {
        let runs: Vec<Run> = (0..4).flat_map(|n| runs(vec![Change { seq: 2 * n, json: "x".repeat(100) }])).collect();
        let of_each = runs[0].bytes().len();
        for (written, left) in
            [(0, 0), (1, of_each - 1), (of_each, 0), (2 * of_each + 3, of_each - 3), (4 * of_each, 0)]
        {
            let mut outgoing = runs.iter().collect::<Outgoing>();
            outgoing.advance(written);
            outgoing.keep_begun();
            assert_eq!(outgoing.runs.iter().map(Bytes::len).sum::<usize>(), left, "{written} bytes were written");
        }
    }
}
