//! Content codings (RFC 9110 §8.4): bodies of requests come in compressed, answers leave compressed. Between gateway and
//! engine there are none.

mod request;
mod response;

pub(crate) use request::{ACCEPTED, Decoders, Overlong, decoded, decoded_whole};
pub(crate) use response::{Wanted, takes_gzip};

use http::{HeaderMap, HeaderName};

/// The words of a header that is a list, in lower case.
fn lists(headers: &HeaderMap, name: &HeaderName) -> impl Iterator<Item = Vec<u8>> {
    let values = headers.get_all(name).iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(|w| w.trim_ascii().to_ascii_lowercase())
}
