//! API keys: the text that a client holds and the hash that Postgres holds are different types.

use std::fmt;

use sha2::{Digest, Sha256};

/// What every key starts with, so that a secret scanner finds a leaked one.
pub const API_KEY_PREFIX: &str = "sk-stellar-";
const RANDOM_DIGITS: usize = 32;

/// The text of an API key: `sk-stellar-` and 32 lower-case hex digits (128 bits of a CSPRNG).
///
/// A secret: neither `Debug` nor `Display`; [`ApiKey::expose`] is the one way to its text.
#[derive(Clone)]
pub struct ApiKey(String);

/// SHA-256 of a key's text. The key has 128 random bits, so a plain hash cannot be searched.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ApiKeyHash([u8; 32]);

/// The text has not the form of a key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an API key is `sk-stellar-` followed by 32 lower-case hex digits")]
pub struct ApiKeyError;

impl ApiKey {
    /// Makes a key from 16 random bytes, which must come from a CSPRNG.
    pub fn from_random(random: [u8; 16]) -> Self {
        Self(format!("{API_KEY_PREFIX}{}", hex::encode(random)))
    }

    /// A new key from the operating system's CSPRNG.
    pub fn generate() -> Self {
        Self::from_random(rand::random())
    }

    /// Reads a key as a client sent it.
    ///
    /// # Errors
    /// [`ApiKeyError`], which does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, ApiKeyError> {
        let digits = text.strip_prefix(API_KEY_PREFIX).ok_or(ApiKeyError)?;
        let hexadecimal = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if digits.len() == RANDOM_DIGITS && hexadecimal { Ok(Self(text.to_owned())) } else { Err(ApiKeyError) }
    }

    /// The text: for the Secret, or for the one answer that shows a new key.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What Postgres keeps.
    pub fn hash(&self) -> ApiKeyHash {
        ApiKeyHash(Sha256::digest(self.0.as_bytes()).into())
    }

    /// The part that may be shown to tell keys apart: `sk-stellar-` and 6 digits (24 of 128 bits).
    pub fn display_prefix(&self) -> &str {
        &self.0[..API_KEY_PREFIX.len() + 6]
    }
}

impl ApiKeyHash {
    /// Takes the 32 bytes that Postgres returned.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, for a database parameter.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ApiKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKeyHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_made_key_reads_back(random: [u8; 16]) {
            let key = ApiKey::from_random(random);
            let read = ApiKey::parse(key.expose());
            prop_assert!(read.is_ok_and(|read| read.hash() == key.hash()));
        }

        #[test]
        fn rubbish_is_no_key(text in "\\PC{0,64}") {
            prop_assume!(!text.starts_with(API_KEY_PREFIX));
            prop_assert!(ApiKey::parse(&text).is_err());
        }
    }

    #[test]
    fn near_misses_are_refused() {
        for text in [
            "sk-stellar-",
            "sk-stellar-0123456789ABCDEF0123456789abcdef",
            "sk-stellar-0123456789abcdef0123456789abcde",
            " sk-stellar-0123456789abcdef0123456789abcdef",
        ] {
            assert!(ApiKey::parse(text).is_err(), "{text}");
        }
    }
}
