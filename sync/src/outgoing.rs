//! Changes on their way to a socket, as the bytes of RFC 6455 §5.2. A server masks nothing, so a frame's bytes are the same
//! for every socket: each has a head of its own of a few bytes, and the text is the room's.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes};

use crate::room::Frame;

const FINAL_TEXT: u8 = 0x81;
const HEAD_MOST: usize = 10;

/// What is still to be written of some frames, in order.
#[derive(Default)]
pub(crate) struct Outgoing(VecDeque<Part>);

struct Part {
    head: [u8; HEAD_MOST],
    /// Where in the head what is left begins and ends.
    left: std::ops::Range<usize>,
    text: Bytes,
}

impl Part {
    fn new(text: Bytes) -> Self {
        let mut head = [FINAL_TEXT, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let length = text.len();
        let end = match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ ..126), _) => {
                head[1] = short;
                2
            }
            (_, Ok(medium)) => {
                head[1] = 126;
                head[2..4].copy_from_slice(&medium.to_be_bytes());
                4
            }
            _ => {
                head[1] = 127;
                head[2..].copy_from_slice(&(length as u64).to_be_bytes());
                HEAD_MOST
            }
        };
        Self { head, left: 0..end, text }
    }
}

impl FromIterator<Frame> for Outgoing {
    fn from_iter<T: IntoIterator<Item = Frame>>(frames: T) -> Self {
        Self(frames.into_iter().map(|frame| Part::new(frame.text.into())).collect())
    }
}

impl Outgoing {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What comes next, as parts of one write. Returns how many there are.
    pub(crate) fn chunks_vectored<'a>(&'a self, parts: &mut [IoSlice<'a>]) -> usize {
        let all = self.0.iter().flat_map(|part| [&part.head[part.left.clone()], &part.text[..]]);
        let mut filled = 0;
        for (place, bytes) in parts.iter_mut().zip(all.filter(|bytes| !bytes.is_empty())) {
            *place = IoSlice::new(bytes);
            filled += 1;
        }
        filled
    }

    /// So many bytes were written.
    pub(crate) fn advance(&mut self, mut written: usize) {
        while let Some(part) = self.0.front_mut() {
            let of_head = written.min(part.left.len());
            part.left.start += of_head;
            let of_text = (written - of_head).min(part.text.len());
            part.text.advance(of_text);
            written -= of_head + of_text;
            if !(part.left.is_empty() && part.text.is_empty()) {
                return;
            }
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::frame::{
        Frame as Written,
        coding::{Data, OpCode},
    };

    use super::*;

    fn frames(lengths: &[usize]) -> Vec<Frame> {
        let frame = |(n, length): (usize, &usize)| Frame { seq: n as i64, text: "x".repeat(*length).into() };
        lengths.iter().enumerate().map(frame).collect()
    }

    #[test]
    fn the_bytes_are_those_of_the_protocol_however_much_a_write_takes() {
        let lengths = [0, 1, 125, 126, 127, 255, 256, 65_535, 65_536];
        let mut expected = Vec::new();
        for frame in frames(&lengths) {
            let frame = Written::message(frame.text, OpCode::Data(Data::Text), true);
            frame.header().format(frame.payload().len() as u64, &mut expected).expect("a head in memory");
            expected.extend_from_slice(frame.payload());
        }
        for most in [1, 2, 7, 1000, 100_000] {
            for parts in [1, 3, 64] {
                let (mut outgoing, mut bytes) = (frames(&lengths).into_iter().collect::<Outgoing>(), Vec::new());
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
