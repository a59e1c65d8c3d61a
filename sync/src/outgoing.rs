//! Changes on their way to a socket: the room's own bytes, of which a socket knows only how far it is.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf as _, Bytes};

use crate::run::Run;

/// What is still to be written of some runs, in order.
#[derive(Default)]
pub(crate) struct Outgoing(VecDeque<Bytes>);

impl<'a> FromIterator<&'a Run> for Outgoing {
    fn from_iter<T: IntoIterator<Item = &'a Run>>(runs: T) -> Self {
        Self(runs.into_iter().map(Run::bytes).collect())
    }
}

impl Outgoing {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What comes next, as parts of one write. Returns how many there are.
    pub(crate) fn chunks_vectored<'a>(&'a self, parts: &mut [IoSlice<'a>]) -> usize {
        let filled = self.0.len().min(parts.len());
        for (place, bytes) in parts.iter_mut().zip(&self.0) {
            *place = IoSlice::new(bytes);
        }
        filled
    }

    /// So many bytes were written.
    pub(crate) fn advance(&mut self, mut written: usize) {
        while let Some(bytes) = self.0.front_mut() {
            let of_these = written.min(bytes.len());
            bytes.advance(of_these);
            written -= of_these;
            if !bytes.is_empty() {
                return;
            }
            self.0.pop_front();
        }
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
}
