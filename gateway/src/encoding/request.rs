//! Compressed bodies of requests, made plain before anything else looks at them. What always holds:
//!
//! - A route's limit counts plain bytes. A bomb is noticed at most one part (16 KiB) behind the limit.
//! - The compressed bytes are bounded as well, since a body can go on for ever without a single plain byte.
//! - A decoder that waits for its client is small: a body of up to 1 MiB is read whole before its decoder is made, and
//!   of larger ones only brotli needs more than 64 KiB, which has few places.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
};

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
use tenancy::TenantId;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt},
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
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
/// Large brotli bodies that are decoded at one time, in all and of one tenant.
const BROTLI_AT_ONE_TIME: usize = 16;
const BROTLI_OF_A_TENANT: usize = 4;

/// The places of large brotli bodies. A tenant that sends its own slowly keeps nobody else waiting.
pub(crate) struct Decoders {
    all: Arc<Semaphore>,
    tenants: Mutex<HashMap<TenantId, Weak<Semaphore>>>,
}

/// A place among all, and among the tenant's own.
struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_tenant: OwnedSemaphorePermit,
}

impl Default for Decoders {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(BROTLI_AT_ONE_TIME)), tenants: Mutex::default() }
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
/// Those of [`decoded_whole`] as far as the body is read here; what streams tells its faults as it is read.
/// [`Error::NoDecoder`] when the tenant, or all together, have as many large brotli bodies under way as they may.
pub(crate) async fn decoded(
    body: Body,
    headers: &mut HeaderMap,
    limit: usize,
    deadline: Instant,
    (decoders, tenant): (&Decoders, TenantId),
) -> Result<Body, Error> {
    if limit <= WHOLE {
        return decoded_whole(body, headers, limit, deadline).await;
    }
    let Some((coding, most)) = take_coding(headers, limit)? else { return Ok(body) };
    let place = match coding {
        Coding::Brotli => Some(decoders.place(tenant, deadline).await?),
        Coding::Gzip | Coding::Deflate => None,
    };
    Ok(Body::from_stream(parts(open(coding, bounded(body, most), place, deadline).await?)))
}

/// The same of a body that is read whole, which needs no place.
///
/// # Errors
/// [`Error::Encoding`] for another coding, or several. [`Error::BodyTooLarge`], [`Error::BodyTooSlow`] and
/// [`Error::BodyBroken`].
pub(crate) async fn decoded_whole(
    body: Body,
    headers: &mut HeaderMap,
    limit: usize,
    deadline: Instant,
) -> Result<Body, Error> {
    let Some((coding, most)) = take_coding(headers, limit)? else { return Ok(body) };
    let compressed = timeout_at(deadline, gather(bounded(body, most), most)).await;
    let compressed = compressed.map_err(|_| Error::BodyTooSlow)?.map_err(|error| fault(error, limit))?;
    let compressed = stream::iter([Ok(compressed)]).boxed();
    let plain = parts(open(coding, compressed, None, deadline).await?);
    gather(plain, limit).await.map(Body::from).map_err(|error| fault(error, limit))
}

/// Takes the coding out of the headers. With it comes how many bytes there may be of it.
fn take_coding(headers: &mut HeaderMap, limit: usize) -> Result<Option<(Coding, usize)>, Error> {
    let Some(coding) = coding(headers)? else { return Ok(None) };
    headers.remove(CONTENT_ENCODING);
    let declared = headers.remove(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    // What cannot be compressed grows by less than this in every coding.
    let most = limit + limit / 64 + 1024;
    if declared.is_some_and(|length| length > most) {
        Err(Error::BodyTooLarge(limit))
    } else {
        Ok(Some((coding, most)))
    }
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
    async fn place(&self, tenant: TenantId, deadline: Instant) -> Result<Place, Error> {
        let own = self.of(tenant);
        let both = async {
            let of_tenant = own.acquire_owned().await?;
            let of_all = self.all.clone().acquire_owned().await?;
            Ok::<_, AcquireError>(Place { _of_all: of_all, _of_tenant: of_tenant })
        };
        match timeout_at(deadline, both).await {
            Ok(Ok(place)) => Ok(place),
            // The semaphores are never closed.
            Ok(Err(_)) | Err(_) => Err(Error::NoDecoder),
        }
    }

    /// The tenant's own places. They are forgotten when none of them is held.
    fn of(&self, tenant: TenantId) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = tenants.get(&tenant).and_then(Weak::upgrade) {
            return places;
        }
        tenants.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(BROTLI_OF_A_TENANT));
        tenants.insert(tenant, Arc::downgrade(&places));
        places
    }
}

type Compressed = StreamReader<BoxStream<'static, io::Result<Bytes>>, Bytes>;

/// A decoder at work, and its place.
struct Decoding {
    decoder: Decoder,
    _place: Option<Place>,
}

enum Decoder {
    Gzip(GzipDecoder<Compressed>),
    Deflate(ZlibDecoder<Compressed>),
    Brotli(Box<BrotliDecoder<Compressed>>),
}

async fn open(
    coding: Coding,
    compressed: BoxStream<'static, io::Result<Bytes>>,
    place: Option<Place>,
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
    use uuid::Uuid;

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
        decoded(sent(bytes), &mut named(coding), limit, deadline, (&Decoders::default(), tenancy::LOCAL_TENANT)).await
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
    async fn large_brotli_bodies_wait_for_a_place_of_their_tenant_and_of_all() {
        let body = encoded(Coding::Brotli, b"x").await;
        let decoders = Decoders::default();
        let open = async |tenant| {
            let soon = Instant::now() + Duration::from_millis(20);
            decoded(sent(&body), &mut named(Coding::Brotli), LARGE, soon, (&decoders, tenant)).await
        };
        let tenants: Vec<TenantId> = (1..6).map(|n| TenantId::new(Uuid::from_u128(n)).expect("not nil")).collect();
        let mut held = Vec::new();
        for tenant in &tenants[..4] {
            for _ in 0..BROTLI_OF_A_TENANT {
                held.push(open(*tenant).await.expect("a place"));
            }
            assert!(matches!(open(*tenant).await, Err(Error::NoDecoder)), "it has all of its own");
        }
        assert_eq!(held.len(), BROTLI_AT_ONE_TIME);
        assert!(matches!(open(tenants[4]).await, Err(Error::NoDecoder)), "all are taken");
        held.pop();
        drop(open(tenants[4]).await.expect("the place of another is free"));
        held.clear();
        assert!(open(tenants[4]).await.is_ok());
        assert_eq!(decoders.tenants.lock().expect("no panic").len(), 1, "the others are forgotten");
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
