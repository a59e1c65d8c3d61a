//! Compressing answers. Small ones, event streams and what has no body stay as they are.
//!
//! Nothing is refused with 406: an answer tells what was done, in whatever coding.

use std::io;

use async_compression::{
    Level,
    brotli::EncoderParams,
    tokio::bufread::{BrotliEncoder, GzipEncoder},
};
use axum::body::Body;
use futures::TryStreamExt;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
        ETAG, VARY,
    },
};
use http_body::Body as _;
use tokio_util::io::{ReaderStream, StreamReader};

use super::lists;

/// Smaller ones cost more than they save: with its head such an answer fits in one packet as it is.
const LEAST: u64 = 1024;
/// Half of the ratio of the slowest levels for a tenth of their time.
const LEVEL: Level = Level::Precise(4);
/// 256 KiB. A client that reads slowly keeps an encoder, and its window with it.
const BROTLI_WINDOW_BITS: i32 = 18;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Coding {
    Brotli,
    Gzip,
}

/// What the client of a request can take.
pub(crate) struct Wanted {
    coding: Option<Coding>,
    head: bool,
}

impl Wanted {
    /// What the request says.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        Self { coding: best(request.headers()), head: request.method() == Method::HEAD }
    }

    /// The answer, compressed if that helps.
    pub(crate) fn compress(&self, mut response: Response<Body>) -> Response<Body> {
        let not_modified = response.status() == StatusCode::NOT_MODIFIED;
        if !not_modified && !is_compressible(&response) {
            return response;
        }
        if !varies(response.headers()) {
            response.headers_mut().append(VARY, HeaderValue::from(ACCEPT_ENCODING));
        }
        match self.coding {
            Some(_) if self.head => {
                // As long as the answer to GET would be: that is not known. The body would be counted.
                response.headers_mut().remove(CONTENT_LENGTH);
                weaken_tag(response.headers_mut());
                *response.body_mut() = Body::empty();
                response
            }
            Some(coding) if !not_modified => encode(coding, response),
            _ => response,
        }
    }
}

fn is_compressible(response: &Response<Body>) -> bool {
    let headers = response.headers();
    let has_body = !matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT)
        && !response.status().is_informational();
    let declared = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let length: Option<u64> = declared.or_else(|| response.body().size_hint().exact());
    has_body
        && length.is_none_or(|length| length >= LEAST)
        && !headers.contains_key(CONTENT_ENCODING)
        && !headers.contains_key(CONTENT_RANGE)
        && headers.get(CONTENT_TYPE).is_some_and(|kind| is_text(kind.as_bytes()))
        && !lists(headers, &CACHE_CONTROL).any(|word| word == b"no-transform")
}

/// Whether it is text that does not have to arrive line by line.
fn is_text(media_type: &[u8]) -> bool {
    let essence = media_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    match &essence[..] {
        b"text/event-stream" => false,
        b"application/json" | b"application/x-ndjson" | b"application/javascript" => true,
        other => other.starts_with(b"text/") || other.ends_with(b"+json"),
    }
}

fn varies(headers: &HeaderMap) -> bool {
    lists(headers, &VARY).any(|word| word == b"*" || word == ACCEPT_ENCODING.as_str().as_bytes())
}

fn encode(coding: Coding, response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let plain = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let (name, body) = match coding {
        Coding::Brotli => {
            let params = EncoderParams::default().quality(LEVEL).window_size(BROTLI_WINDOW_BITS);
            ("br", Body::from_stream(ReaderStream::new(BrotliEncoder::with_params(plain, params))))
        }
        Coding::Gzip => ("gzip", Body::from_stream(ReaderStream::new(GzipEncoder::with_quality(plain, LEVEL)))),
    };
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.remove(ACCEPT_RANGES);
    weaken_tag(&mut parts.headers);
    Response::from_parts(parts, body)
}

/// The same bytes are not promised any more, the same content is (RFC 9110 §8.8.1).
fn weaken_tag(headers: &mut HeaderMap) {
    if let Some(tag) = headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""))
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        headers.insert(ETAG, weak);
    }
}

/// Whether gzip may be sent to this client.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    weights(headers).1 > 0.0
}

/// The coding that the client wants most; brotli when it does not mind.
fn best(headers: &HeaderMap) -> Option<Coding> {
    match weights(headers) {
        (brotli, gzip) if brotli <= 0.0 && gzip <= 0.0 => None,
        (brotli, gzip) if brotli >= gzip => Some(Coding::Brotli),
        _ => Some(Coding::Gzip),
    }
}

/// How much brotli and gzip are wanted, from 0 to 1.
fn weights(headers: &HeaderMap) -> (f32, f32) {
    let (mut brotli, mut gzip, mut any) = (None, None, None);
    for word in lists(headers, &ACCEPT_ENCODING) {
        let mut parts = word.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let (name, weight) = (parts.next().unwrap_or_default(), parts.next().map_or(Some(1.0), weight));
        match name {
            b"br" => brotli = weight,
            b"gzip" | b"x-gzip" => gzip = weight,
            b"*" => any = weight,
            _ => {}
        }
    }
    let wanted = |own: Option<f32>| own.or(any).unwrap_or(0.0);
    (wanted(brotli), wanted(gzip))
}

/// `q=0.5`. What is malformed is not wanted.
fn weight(parameter: &[u8]) -> Option<f32> {
    let value = parameter.strip_prefix(b"q=")?;
    let weight: Option<f32> = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    Some(weight.filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn wanted(accepts: &'static str) -> Wanted {
        let request = Request::builder().header(ACCEPT_ENCODING, accepts).body(()).expect("a request");
        Wanted::of(&request)
    }

    fn answer(length: usize, headers: &[(HeaderName, &'static str)]) -> Response<Body> {
        let mut response = Response::new(Body::from("x".repeat(length)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }

    #[test]
    fn the_client_is_given_what_it_wants_most() {
        for (accepts, coding) in [
            ("gzip, deflate, br, zstd", Some(Coding::Brotli)),
            ("gzip", Some(Coding::Gzip)),
            ("br;q=0.5, GZIP", Some(Coding::Gzip)),
            ("br;q=0, gzip;q=0", None),
            ("*", Some(Coding::Brotli)),
            ("*;q=0.5, br;q=0", Some(Coding::Gzip)),
            ("gzip; q=1.000", Some(Coding::Gzip)),
            ("gzip;q=2", None),
            ("gzip;q=x", None),
            ("identity", None),
            ("", None),
        ] {
            assert_eq!(wanted(accepts).coding, coding, "{accepts}");
        }
    }

    #[test]
    fn a_large_answer_is_compressed_and_says_so() {
        let response = wanted("gzip").compress(answer(5000, &[(ETAG, "\"7\""), (CONTENT_LENGTH, "5000")]));
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        assert_eq!(response.headers()[VARY], "accept-encoding");
        assert_eq!(response.headers()[ETAG], "W/\"7\"");
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
        let plain = wanted("identity").compress(answer(5000, &[(ETAG, "\"7\"")]));
        assert_eq!(
            (&plain.headers()[VARY], &plain.headers()[ETAG]),
            (&HeaderValue::from_static("accept-encoding"), &HeaderValue::from_static("\"7\""))
        );
        assert!(!plain.headers().contains_key(CONTENT_ENCODING));
    }

    #[test]
    fn what_gains_nothing_stays_as_it_is() {
        for headers in [
            &[(CONTENT_TYPE, "text/event-stream")][..],
            &[(CONTENT_TYPE, "image/png")],
            &[(CONTENT_ENCODING, "gzip")],
            &[(CACHE_CONTROL, "private, no-transform")],
        ] {
            let response = wanted("br").compress(answer(5000, headers));
            assert!(!response.headers().contains_key(VARY), "{headers:?}");
            assert_ne!(response.headers().get(CONTENT_ENCODING), Some(&HeaderValue::from_static("br")), "{headers:?}");
        }
        assert!(!wanted("br").compress(answer(1000, &[])).headers().contains_key(CONTENT_ENCODING));
    }

    #[test]
    fn what_has_no_body_only_tells_that_it_varies() {
        let mut none = answer(0, &[]);
        *none.status_mut() = StatusCode::NOT_MODIFIED;
        let head = Request::builder().method("HEAD").header(ACCEPT_ENCODING, "br").body(()).expect("a request");
        let of_head = Wanted::of(&head).compress(answer(0, &[(CONTENT_LENGTH, "5000"), (ETAG, "\"7\"")]));
        assert_eq!(of_head.headers()[ETAG], "W/\"7\"", "as that of GET");
        assert!(!of_head.headers().contains_key(CONTENT_LENGTH), "the compressed one is shorter");
        for response in [wanted("br").compress(none), of_head] {
            assert_eq!(response.headers()[VARY], "accept-encoding");
            assert!(!response.headers().contains_key(CONTENT_ENCODING));
        }
    }
}
