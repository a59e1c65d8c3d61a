//! A body as lines, each bounded, none kept: what the memory of an import does not grow with.

use axum::body::BodyDataStream;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tenancy::ProblemType;

use super::super::ApiError;

/// Larger than any valid line: 10,000 characters, all escaped, and 16 KiB of metadata.
const LONGEST_LINE: usize = 512 * 1024;

/// See the module.
pub(super) struct Lines<'a> {
    body: &'a mut BodyDataStream,
    buffer: BytesMut,
    /// No line ends before this place in the buffer.
    searched: usize,
    /// The begin of the present line was too long and thrown away.
    skipping: bool,
    number: u64,
    /// Bytes that may still come.
    left: usize,
    limit: usize,
    ended: bool,
}

/// A line without its end.
pub(super) enum Line {
    /// All of it.
    Whole(Bytes),
    /// It is longer than any valid line.
    TooLong,
}

impl<'a> Lines<'a> {
    /// Of at most `limit` bytes.
    pub(super) fn new(body: &'a mut BodyDataStream, limit: usize) -> Self {
        let buffer = BytesMut::new();
        Self { body, buffer, searched: 0, skipping: false, number: 0, left: limit, limit, ended: false }
    }

    /// The next line with its number, from 1.
    pub(super) async fn next(&mut self) -> Result<Option<(u64, Line)>, ApiError> {
        loop {
            let end = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let mut line = self.buffer.split_to(self.searched + end + 1).freeze();
                line.truncate(line.len() - 1);
                return Ok(Some(self.line(line)));
            }
            if self.ended {
                let last = self.buffer.split().freeze();
                return Ok((self.skipping || !last.is_empty()).then(|| self.line(last)));
            }
            if self.buffer.len() > LONGEST_LINE {
                self.buffer.clear();
                self.skipping = true;
            }
            self.searched = self.buffer.len();
            self.read().await?;
        }
    }

    fn line(&mut self, line: Bytes) -> (u64, Line) {
        self.number += 1;
        self.searched = 0;
        let skipped = std::mem::take(&mut self.skipping);
        (self.number, if skipped || line.len() > LONGEST_LINE { Line::TooLong } else { Line::Whole(line) })
    }

    async fn read(&mut self) -> Result<(), ApiError> {
        let Some(part) = next_part(self.body, &mut self.left, self.limit).await? else {
            self.ended = true;
            return Ok(());
        };
        self.buffer.extend_from_slice(&part);
        Ok(())
    }
}

/// The next part of a body. `left`: bytes of `limit` that may still come.
pub(super) async fn next_part(
    body: &mut BodyDataStream,
    left: &mut usize,
    limit: usize,
) -> Result<Option<Bytes>, ApiError> {
    let part = match body.next().await {
        None => return Ok(None),
        Some(Ok(part)) => part,
        Some(Err(_)) => {
            return Err(ApiError::new(ProblemType::InvalidRequest, "the body could not be read to its end"));
        }
    };
    *left = left.checked_sub(part.len()).ok_or_else(|| {
        ApiError::new(
            ProblemType::PayloadTooLarge,
            format!("the body must not exceed {limit} bytes; import it in parts"),
        )
    })?;
    Ok(Some(part))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use proptest::prelude::*;

    use super::*;

    async fn read(parts: Vec<Vec<u8>>, limit: usize) -> Result<Vec<(u64, Option<Vec<u8>>)>, ApiError> {
        let parts = parts.into_iter().map(|part| Ok::<_, std::io::Error>(Bytes::from(part)));
        let mut body = Body::from_stream(futures::stream::iter(parts)).into_data_stream();
        let mut lines = Lines::new(&mut body, limit);
        let mut found = Vec::new();
        while let Some((number, line)) = lines.next().await? {
            found.push(match line {
                Line::Whole(line) => (number, Some(line.to_vec())),
                Line::TooLong => (number, None),
            });
        }
        Ok(found)
    }

    fn blocking<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn a_line_that_is_too_long_is_told_and_the_next_one_is_read() {
        let long = vec![b'x'; LONGEST_LINE + 1];
        for pieces in [1, 1000, LONGEST_LINE + 5] {
            let text = [&b"a\n"[..], &long, b"\nb\n", &long].concat();
            let found = blocking(read(text.chunks(pieces.max(1000)).map(<[u8]>::to_vec).collect(), usize::MAX));
            let found = found.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(found, [(1, Some(b"a".to_vec())), (2, None), (3, Some(b"b".to_vec())), (4, None)]);
        }
    }

    #[test]
    fn a_body_over_the_limit_is_refused() {
        assert!(blocking(read(vec![b"12345\n".to_vec(), b"6".to_vec()], 6)).is_err());
        assert!(blocking(read(vec![b"12345\n".to_vec()], 6)).is_ok());
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_has_the_same_lines(text in "[ab\n]{0,60}", size in 1usize..9) {
            let found = blocking(read(text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect(), 1000));
            let found: Vec<_> = found.unwrap_or_default().into_iter().filter_map(|(_, line)| line).collect();
            prop_assert_eq!(found, text.lines().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>());
        }
    }
}
