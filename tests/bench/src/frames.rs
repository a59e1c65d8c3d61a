//! Counts the frames of a WebSocket's server in the bytes that come, and nothing more: cheap enough not to be what is
//! measured.

/// RFC 6455 §5.2: two bytes, and up to eight more for the length. A server masks nothing.
const HEAD_MOST: usize = 10;
const PING: u8 = 0x9;

/// Where in the stream of frames the bytes so far end.
#[derive(Default)]
pub struct Frames {
    head: [u8; HEAD_MOST],
    have: usize,
    left: usize,
}

/// What some bytes held.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Counted {
    /// Frames with data that ended in them.
    pub data: usize,
    /// Pings that began in them, which want an answer.
    pub pings: usize,
}

impl Frames {
    pub fn feed(&mut self, mut bytes: &[u8]) -> Counted {
        let mut counted = Counted::default();
        loop {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            if self.left > 0 {
                return counted;
            }
            if self.have > 0 && self.have == self.head_length() {
                match self.head[0] & 0xf {
                    PING => counted.pings += 1,
                    _ => counted.data += 1,
                }
                self.have = 0;
            }
            if !self.take_head(&mut bytes) {
                return counted;
            }
            self.left = self.payload_length();
        }
    }

    /// Takes what a head still lacks. False: the bytes end before.
    fn take_head(&mut self, bytes: &mut &[u8]) -> bool {
        while self.have < self.head_length() {
            let Some((first, rest)) = bytes.split_first() else { return false };
            self.head[self.have] = *first;
            self.have += 1;
            *bytes = rest;
        }
        true
    }

    fn head_length(&self) -> usize {
        match (self.have, self.head[1] & 0x7f) {
            (0 | 1, _) | (_, 0..126) => 2,
            (_, 126) => 4,
            (_, _) => HEAD_MOST,
        }
    }

    fn payload_length(&self) -> usize {
        let long = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        match self.head[1] & 0x7f {
            126 => long(&self.head[2..4]),
            127 => long(&self.head[2..]),
            short => short.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_however_their_bytes_are_cut() {
        let mut stream = vec![0x89, 0];
        for length in [0_u16, 5, 125] {
            stream.extend([0x81, length as u8]);
            stream.extend(std::iter::repeat_n(0x81, length.into()));
        }
        stream.extend([0x81, 126, 1, 0]);
        stream.extend([7; 256]);
        stream.extend([0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        stream.extend(std::iter::repeat_n(7, 65536));
        for size in [1, 2, 3, 100, stream.len()] {
            let mut frames = Frames::default();
            let mut sum = Counted::default();
            for part in stream.chunks(size) {
                let Counted { data, pings } = frames.feed(part);
                sum = Counted { data: sum.data + data, pings: sum.pings + pings };
            }
            assert_eq!(sum, Counted { data: 5, pings: 1 }, "cut in parts of {size}");
        }
    }
}
