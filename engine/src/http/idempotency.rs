//! Names under which things happen once: the header `Idempotency-Key`, and the `op_id` of an operation in a batch. A
//! repetition gets the first answer.
//!
//! They never meet: what stands for an `op_id` begins with `sync/` and its agent, what stands for an item of a batch with
//! `batch/`, and no key may begin so.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use crate::{memory::Invalid, store::Once};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const MAX_KEY_CHARS: usize = 255;
const MAX_OP_ID_CHARS: usize = 128;
const RESERVED: [&str; 2] = ["sync/", "batch/"];

/// An Idempotency-Key as a client sent it.
pub(super) struct Key(String);

/// The key in the header, if there is one.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<Key>, Invalid> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = given.next() else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=MAX_KEY_CHARS).contains(&key.len()) && given.next().is_none());
    let key =
        key.ok_or_else(|| Invalid::new("Idempotency-Key", "must be one header of 1 to 255 visible ASCII characters"))?;
    if RESERVED.iter().any(|reserved| key.starts_with(reserved)) {
        return Err(Invalid::new("Idempotency-Key", "must not begin with sync/ or batch/"));
    }
    Ok(Some(Key(key.to_owned())))
}

impl Key {
    /// The name of the only operation of a request. `what` is all that it asks for: under the same key, anything else is
    /// refused.
    pub(super) fn once(self, what: &[u8]) -> Once {
        Once { id: self.0, request_hash: Sha256::digest(what).into() }
    }

    /// The name of one operation of a batch, by its place.
    pub(super) fn once_of_item(&self, place: usize, what: &[u8]) -> Once {
        // A digest, since a key may be as long as a name.
        let key = hex::encode(Sha256::digest(self.0.as_bytes()));
        Once { id: format!("batch/{key}/{place}"), request_hash: Sha256::digest(what).into() }
    }
}

/// The name of an operation that a client named itself: each agent has its own.
pub(super) fn once_of_op(op_id: &str, agent: Option<&str>, what: &[u8]) -> Result<Once, Invalid> {
    if !(1..=MAX_OP_ID_CHARS).contains(&op_id.len()) || !op_id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Invalid::new("op_id", "must have 1 to 128 visible ASCII characters"));
    }
    let id = format!("sync/{}/{op_id}", agent.unwrap_or_default());
    Ok(Once { id, request_hash: Sha256::digest(what).into() })
}

/// Says in an answer that it is the first one once more.
pub(super) fn mark_replayed(headers: &mut HeaderMap) {
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &str) -> Result<Key, Invalid> {
        let mut headers = HeaderMap::new();
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(key).expect("a header"));
        super::key(&headers).map(|key| key.expect("given"))
    }

    #[test]
    fn no_key_is_taken_for_the_name_of_an_operation_in_a_batch() {
        let item = of("k").expect("valid").once_of_item(3, b"x");
        let op = once_of_op("k", Some("default"), b"x").expect("valid");
        assert!(of(&item.id).is_err() && of(&op.id).is_err());
        assert_eq!(of("k").expect("valid").once(b"x").request_hash, item.request_hash);
        assert_ne!(op.id, once_of_op("k", Some("other"), b"x").expect("valid").id);
    }

    #[test]
    fn every_name_fits_into_its_column() {
        let long = of(&"k".repeat(255)).expect("valid");
        assert!(long.once_of_item(999, b"x").id.len() <= 255);
        let op = once_of_op(&"o".repeat(128), Some(&"a".repeat(64)), b"x").expect("valid");
        assert!(op.id.len() <= 255);
        for op_id in ["", "with blank", "ümlaut", "line\nbreak", &"o".repeat(129)] {
            assert!(once_of_op(op_id, None, b"x").is_err(), "{op_id}");
        }
    }
}
