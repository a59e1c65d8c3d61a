//! Compressed bodies of requests, made plain before anything else looks at them. What always holds:
//!
//! - A route's limit counts plain bytes. A bomb is noticed at most one part (16 KiB) behind the limit.
//! - The compressed bytes are bounded as well, since a body can go on for ever without a single plain byte.
//! - A decoder that waits for its client is small: a body of up to 1 MiB is read whole before its decoder is made, and
//!   of larger ones only brotli needs more than 64 KiB, which has few places.

use std::{io, sync::Arc};

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_LENGTH},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tokio_util::io::StreamReader;

use super::lists;
use crate::error::Error;

/// The codings that bodies may have, as `Accept-Encoding` tells them (RFC 7694).
pub(crate) const ACCEPTED: &str = "gzip, deflate, br";
/// Bodies of routes with a limit of up to this are read whole first.
const WHOLE: usize = 1024 * 1024;
const PART: usize = 16 * 1024;
/// A brotli decoder keeps its window: 2^22 bytes, which is also what encoders use when told nothing.
const BROTLI_WINDOW_BITS: u8 = 22;
const BROTLI_AT_ONE_TIME: usize = 16;

/// How many large brotli bodies are decoded at one time.
#[derive(Clone)]
pub(crate) struct Decoders(Arc<Semaphore>);

impl Default for Decoders {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BROTLI_AT_ONE_TIME)))
    }
}

/// The compressed body is larger than any that fits when plain.
#[derive(Debug, thiserror::Error)]
#[error("the compressed body is too large")]
pub(crate) struct Overlong;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
}

/// The body without its coding. If it had one, `headers` then tell neither coding nor length.
///
/// # Errors
/// [`Error::Encoding`] for another coding, or several. [`Error::BodyTooLarge`], [`Error::BodyTooSlow`] and
/// [`Error::BodyBroken`] as far as the body is read here; what streams tells its faults as it is read.
pub(crate) async fn decoded(
    body: Body,
    headers: &mut HeaderMap,
    limit: usize,
    deadline: Instant,
    decoders: &Decoders,
) -> Result<Body, Error> {
    let Some(coding) = coding(headers)? else { return Ok(body) };
    headers.remove(CONTENT_ENCODING);
    let declared = headers.remove(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    // What cannot be compressed grows by less than this in every coding.
    let most = limit + limit / 64 + 1024;
    if declared.is_some_and(|length| length > most) {
        return Err(Error::BodyTooLarge(limit));
    }
    if limit <= WHOLE {
        let compressed = timeout_at(deadline, gather(bounded(body, most), most)).await;
        let compressed = compressed.map_err(|_| Error::BodyTooSlow)?.map_err(|error| fault(error, limit))?;
        let compressed = stream::iter([Ok(compressed)]).boxed();
        let plain = parts(open(coding, compressed, None, deadline).await?);
        return gather(plain, limit).await.map(Body::from).map_err(|error| fault(error, limit));
    }
    let place = match coding {
        Coding::Brotli => Some(decoders.place(deadline).await?),
        Coding::Gzip | Coding::Deflate => None,
    };
    Ok(Body::from_stream(parts(open(coding, bounded(body, most), place, deadline).await?)))
}

/// What a body's fault is to the client.
fn fault(error: io::Error, limit: usize) -> Error {
    let overlong = error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Overlong>);
    if overlong { Error::BodyTooLarge(limit) } else { Error::BodyBroken(axum::Error::new(error)) }
}

/// The one coding that the headers name, if any.
fn coding(headers: &HeaderMap) -> Result<Option<Coding>, Error> {
    let mut names = lists(headers, &CONTENT_ENCODING).filter(|name| !name.is_empty() && name != b"identity");
    match (names.next().as_deref(), names.next()) {
        (None, _) => Ok(None),
        (Some(b"gzip" | b"x-gzip"), None) => Ok(Some(Coding::Gzip)),
        (Some(b"deflate"), None) => Ok(Some(Coding::Deflate)),
        (Some(b"br"), None) => Ok(Some(Coding::Brotli)),
        _ => Err(Error::Encoding),
    }
}

/// At most `most` bytes of a body, then [`Overlong`].
fn bounded(body: Body, most: usize) -> BoxStream<'static, io::Result<Bytes>> {
    let mut read = 0;
    let bounded = body.into_data_stream().map_err(io::Error::other).map(move |part| {
        let part = part?;
        read += part.len();
        if read > most { Err(io::Error::other(Overlong)) } else { Ok(part) }
    });
    bounded.boxed()
}

/// All that comes, or [`Overlong`] when it is more than `most` bytes.
async fn gather(mut parts: BoxStream<'static, io::Result<Bytes>>, most: usize) -> io::Result<Bytes> {
    let mut gathered = BytesMut::new();
    while let Some(part) = parts.try_next().await? {
        gathered.extend_from_slice(&part);
        if gathered.len() > most {
            return Err(io::Error::other(Overlong));
        }
    }
    Ok(gathered.freeze())
}

impl Decoders {
    async fn place(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Error> {
        match timeout_at(deadline, self.0.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(Error::NoDecoder),
        }
    }
}

type Compressed = StreamReader<BoxStream<'static, io::Result<Bytes>>, Bytes>;

/// A decoder at work, and its place.
struct Decoding {
    decoder: Decoder,
    _place: Option<OwnedSemaphorePermit>,
}

enum Decoder {
    Gzip(GzipDecoder<Compressed>),
    Deflate(ZlibDecoder<Compressed>),
    Brotli(Box<BrotliDecoder<Compressed>>),
}

async fn open(
    coding: Coding,
    compressed: BoxStream<'static, io::Result<Bytes>>,
    place: Option<OwnedSemaphorePermit>,
    deadline: Instant,
) -> Result<Decoding, Error> {
    let mut reader = StreamReader::new(compressed);
    let decoder = match coding {
        Coding::Gzip => {
            let mut decoder = GzipDecoder::new(reader);
            // RFC 1952 §2.2: a file is a series of members.
            decoder.multiple_members(true);
            Decoder::Gzip(decoder)
        }
        Coding::Deflate => Decoder::Deflate(ZlibDecoder::new(reader)),
        Coding::Brotli => {
            let first = match timeout_at(deadline, reader.fill_buf()).await {
                Err(_) => return Err(Error::BodyTooSlow),
                Ok(Err(error)) => return Err(Error::BodyBroken(axum::Error::new(error))),
                Ok(Ok(bytes)) => bytes.first().copied(),
            };
            if first.and_then(window_bits).is_none_or(|bits| bits > BROTLI_WINDOW_BITS) {
                let rule = "A body in br has a window of at most 4 MiB (22 bits), as encoders make it by default.";
                return Err(Error::Invalid(rule.to_owned()));
            }
            Decoder::Brotli(Box::new(BrotliDecoder::new(reader)))
        }
    };
    Ok(Decoding { decoder, _place: place })
}

/// RFC 7932 §9.1: how large a window a brotli stream wants, told by its first bits. `None` for the large ones of a draft.
fn window_bits(first: u8) -> Option<u8> {
    match (first & 1, first >> 1 & 0b111, first >> 4 & 0b111) {
        (0, _, _) => Some(16),
        (_, 0, 0) => Some(17),
        (_, 0, 1) => None,
        (_, 0, more) => Some(8 + more),
        (_, more, _) => Some(17 + more),
    }
}

/// The plain bytes, as they are asked for. Bytes behind the end of the compressed ones are a fault.
fn parts(decoding: Decoding) -> BoxStream<'static, io::Result<Bytes>> {
    let parts = stream::try_unfold(decoding, |mut decoding| async move {
        let mut part = BytesMut::with_capacity(PART);
        let decoder: &mut (dyn AsyncRead + Send + Unpin) = match &mut decoding.decoder {
            Decoder::Gzip(decoder) => decoder,
            Decoder::Deflate(decoder) => decoder,
            Decoder::Brotli(decoder) => decoder,
        };
        if decoder.read_buf(&mut part).await? > 0 {
            return Ok(Some((part.freeze(), decoding)));
        }
        let rest = match &mut decoding.decoder {
            Decoder::Gzip(decoder) => decoder.get_mut(),
            Decoder::Deflate(decoder) => decoder.get_mut(),
            Decoder::Brotli(decoder) => decoder.get_mut(),
        };
        if rest.fill_buf().await?.is_empty() { Ok(None) } else { Err(io::ErrorKind::InvalidData.into()) }
    });
    parts.boxed()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_compression::tokio::bufread::{BrotliEncoder, GzipEncoder, ZlibEncoder};
    use http::HeaderValue;

    use super::*;

    const LARGE: usize = 8 * WHOLE;

    async fn encoded(coding: Coding, plain: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        let read = match coding {
            Coding::Gzip => GzipEncoder::new(plain).read_to_end(&mut encoded).await,
            Coding::Deflate => ZlibEncoder::new(plain).read_to_end(&mut encoded).await,
            Coding::Brotli => BrotliEncoder::new(plain).read_to_end(&mut encoded).await,
        };
        read.expect("memory takes it");
        encoded
    }

    fn named(coding: Coding) -> HeaderMap {
        let name = match coding {
            Coding::Gzip => "gzip",
            Coding::Deflate => "Deflate",
            Coding::Brotli => "br",
        };
        HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(name))])
    }

    /// In parts of 1,000 bytes, as from a network.
    fn sent(bytes: &[u8]) -> Body {
        let parts: Vec<io::Result<Bytes>> = bytes.chunks(1000).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
        Body::from_stream(stream::iter(parts))
    }

    async fn read(coding: Coding, bytes: &[u8], limit: usize) -> Result<Body, Error> {
        let deadline = Instant::now() + Duration::from_secs(5);
        decoded(sent(bytes), &mut named(coding), limit, deadline, &Decoders::default()).await
    }

    const ALL: [Coding; 3] = [Coding::Gzip, Coding::Deflate, Coding::Brotli];

    #[tokio::test]
    async fn every_coding_reads_back_whole_and_streamed() {
        let plain: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 7).to_be_bytes()).collect();
        for coding in ALL {
            for (plain, limit) in [(&plain[..WHOLE], WHOLE), (&plain[..], LARGE)] {
                let body = read(coding, &encoded(coding, plain).await, limit).await.expect("it fits");
                let back = axum::body::to_bytes(body, usize::MAX).await.expect("it is sound");
                assert!(back == plain, "{coding:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_bomb_is_noticed_within_one_part_behind_the_limit() {
        let limit = WHOLE + 1;
        let zeros = vec![0; 64 * WHOLE];
        for coding in ALL {
            let bomb = encoded(coding, &zeros).await;
            assert!(bomb.len() < 100_000, "{coding:?}");
            assert!(matches!(read(coding, &bomb, WHOLE).await, Err(Error::BodyTooLarge(WHOLE))), "{coding:?}");
            // What streams is counted by its reader, who asks for one part after the other.
            let mut parts = read(coding, &bomb, limit).await.expect("opened").into_data_stream();
            let mut largest = 0;
            for _ in 0..8 {
                largest = largest.max(parts.next().await.expect("a part").expect("sound").len());
            }
            assert!(largest <= PART, "{coding:?}: {largest}");
        }
    }

    #[tokio::test]
    async fn a_body_without_a_plain_byte_comes_to_its_end() {
        let nothing = encoded(Coding::Gzip, b"").await;
        let endless = nothing.repeat(3 * WHOLE / nothing.len());
        assert!(matches!(read(Coding::Gzip, &endless, WHOLE).await, Err(Error::BodyTooLarge(WHOLE))));
        let endless = nothing.repeat((LARGE + LARGE / 32) / nothing.len());
        let body = read(Coding::Gzip, &endless, LARGE).await.expect("opened");
        assert!(axum::body::to_bytes(body, usize::MAX).await.is_err());
    }

    #[tokio::test]
    async fn what_is_broken_or_goes_on_behind_its_end_is_refused() {
        for coding in ALL {
            let sound = encoded(coding, b"{\"content\": \"x\"}").await;
            for (what, bytes) in [
                ("cut off", sound[..sound.len() - 3].to_vec()),
                ("longer", [&sound[..], b"rest"].concat()),
                ("rubbish", b"\x0b{\"content\": \"x\"}".to_vec()),
            ] {
                let refused = read(coding, &bytes, WHOLE).await;
                assert!(matches!(refused, Err(Error::BodyBroken(_))), "{coding:?}, {what}: {refused:?}");
            }
        }
    }

    #[tokio::test]
    async fn several_members_of_gzip_are_one_body() {
        let two = [encoded(Coding::Gzip, b"one ").await, encoded(Coding::Gzip, b"body").await].concat();
        let body = read(Coding::Gzip, &two, WHOLE).await.expect("it fits");
        assert_eq!(axum::body::to_bytes(body, 100).await.expect("sound"), "one body");
    }

    #[tokio::test]
    async fn large_windows_of_brotli_are_refused() {
        assert_eq!(window_bits(encoded(Coding::Brotli, &[7; 9_000]).await[0]), Some(22));
        // 24 bits: 1, 111. The large window of a draft: 1, 000, 001.
        for first in [0b1111, 0b1_0001] {
            assert!(matches!(read(Coding::Brotli, &[first, 0, 0, 0], WHOLE).await, Err(Error::Invalid(_))), "{first}");
        }
    }

    #[tokio::test]
    async fn large_brotli_bodies_wait_for_a_place() {
        let body = encoded(Coding::Brotli, b"x").await;
        let decoders = Decoders::default();
        let soon = || Instant::now() + Duration::from_millis(20);
        let mut held = Vec::new();
        for _ in 0..BROTLI_AT_ONE_TIME {
            let opened = decoded(sent(&body), &mut named(Coding::Brotli), LARGE, soon(), &decoders).await;
            held.push(opened.expect("a place"));
        }
        let refused = decoded(sent(&body), &mut named(Coding::Brotli), LARGE, soon(), &decoders).await;
        assert!(matches!(refused, Err(Error::NoDecoder)));
        held.pop();
        assert!(decoded(sent(&body), &mut named(Coding::Brotli), LARGE, soon(), &decoders).await.is_ok());
    }

    #[test]
    fn one_known_coding_is_taken() {
        let of = |values: &[&'static str]| {
            coding(&values.iter().map(|value| (CONTENT_ENCODING, HeaderValue::from_static(value))).collect())
        };
        assert!(matches!(of(&[]), Ok(None)));
        assert!(matches!(of(&["identity"]), Ok(None)));
        assert!(matches!(of(&["X-GZIP"]), Ok(Some(Coding::Gzip))));
        assert!(matches!(of(&["identity, br"]), Ok(Some(Coding::Brotli))));
        for refused in [&["zstd"][..], &["gzip, gzip"], &["gzip", "br"], &["compress"], &["g zip"]] {
            assert!(matches!(of(refused), Err(Error::Encoding)), "{refused:?}");
        }
    }
}
