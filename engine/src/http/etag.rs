//! Conditional reads (RFC 9110 §13.1.2): what is read as JSON has an ETag, and who shows it again with `If-None-Match` is
//! told 304, without a body, as long as the answer would be the same.
//!
//! The tag is a hash of the body. It is weak, so that it stands for the answer whatever its compression. Scores and
//! relevance in answers are rounded to 4 places, so a tag lasts: a score falls by 0.0033 a day, which is one last place in
//! about 43 minutes. A conditional request does all that the other would do: a recall counts as one.

use std::convert::Infallible;

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::stream;
use sha2::{Digest, Sha256};
use tenancy::ProblemType;

use super::ApiError;

/// May be kept by the client alone, and is asked for again before it is used.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("private, no-cache");
/// Of the hash; enough that no two answers of one tenant share a tag.
const TAG_BYTES: usize = 16;

pub(super) async fn conditional(request: Request, next: Next) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let known = request.headers().get_all(header::IF_NONE_MATCH).iter().cloned().collect::<Vec<_>>();
    let response = next.run(request).await;
    if response.status() != StatusCode::OK || !is_json(response.headers()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // The body is in memory already: streams are no JSON.
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return ApiError::new(ProblemType::Internal, "the answer could not be read").into_response();
    };
    let opaque = hex::encode(&Sha256::digest(&body)[..TAG_BYTES]);
    if let Ok(tag) = HeaderValue::from_str(&format!("W/\"{opaque}\"")) {
        parts.headers.insert(header::ETAG, tag);
    }
    parts.headers.insert(header::CACHE_CONTROL, CACHE_CONTROL);
    if known.iter().any(|value| names(value.as_bytes(), &opaque)) {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_TYPE);
        parts.headers.remove(header::CONTENT_LENGTH);
        // Of unknown length: a Content-Length here would be that of the body that is not sent (RFC 9110 §8.6), and not 0.
        return Response::from_parts(parts, Body::from_stream(stream::empty::<Result<Bytes, Infallible>>()));
    }
    Response::from_parts(parts, Body::from(body))
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}

/// Whether a value of `If-None-Match` is `*` or a list with this tag, by weak comparison. What is malformed names nothing.
fn names(value: &[u8], opaque: &str) -> bool {
    let mut rest = value.trim_ascii();
    if rest == b"*" {
        return true;
    }
    while !rest.is_empty() {
        let tag = rest.strip_prefix(b"W/").unwrap_or(rest);
        let Some(tag) = tag.strip_prefix(b"\"") else { return false };
        // A comma may be part of a tag, a quote may not.
        let Some(end) = tag.iter().position(|byte| *byte == b'"') else { return false };
        if &tag[..end] == opaque.as_bytes() {
            return true;
        }
        rest = tag[end + 1..].trim_ascii_start();
        match rest.strip_prefix(b",") {
            Some(next) => rest = next.trim_ascii_start(),
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_searched_by_weak_comparison() {
        for value in
            ["*", " * ", "\"abc\"", "W/\"abc\"", "\"x\", W/\"abc\"", "\"a,b\" ,\"abc\",\"z\"", "W/\"\",\"abc\""]
        {
            assert!(names(value.as_bytes(), "abc"), "{value}");
        }
        for value in ["", "abc", "\"ABC\"", "\"abc", "w/\"abc\"", "\"x,abc\"", "\"x\" \"abc\"", "x, \"abc\"", "**"] {
            assert!(!names(value.as_bytes(), "abc"), "{value}");
        }
    }
}
