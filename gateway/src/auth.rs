//! Who sends a request. Authentication yields a [`Caller`]; whatever acts for a tenant takes one.
//!
//! The key is looked up by its SHA-256: what a timing could tell is how far two hashes agree, which says nothing about
//! a key of 128 random bits, so the lookup need not take constant time.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, header::AUTHORIZATION};
use tenancy::{ApiKey, ApiKeyHash};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    client_address::FailureLimits,
    directory::{Directory, Tenant},
    error::Error,
};

/// The header that carries a key by itself.
pub const API_KEY_HEADER: &str = "x-api-key";

/// An authenticated client: a tenant, and which of its agents and keys.
#[derive(Clone)]
pub struct Caller {
    /// The tenant, as the directory knew it when the request came.
    pub tenant: Arc<Tenant>,
    /// The agent whose key was used.
    pub agent: Arc<str>,
    /// The id of the key, not its text.
    pub key_id: Uuid,
    /// What the key is found by, for whoever has to look again.
    pub key_hash: ApiKeyHash,
}

/// Finds the caller by the key that a request or the first frame of a socket shows. A key that is not known here is looked for
/// in Postgres, but not for an address that failed too often: what costs Postgres something comes after that bound.
///
/// # Errors
/// What is wrong with `shown`; [`Error::InvalidKey`], whatever is wrong with the key; [`Error::TooManyFailures`] instead of
/// either; [`Error::NotLoaded`] before the directory was loaded once.
pub async fn caller(
    shown: Result<ApiKey, Error>,
    client: IpAddr,
    directory: &Directory,
    failures: &FailureLimits,
    since_start: Duration,
) -> Result<Caller, Error> {
    let found = |key: &ApiKey| holder(key, directory, OffsetDateTime::now_utc());
    let counted = |error: Error| match failures.failed(client, since_start) {
        verdict if verdict.allowed => error,
        verdict => Error::TooManyFailures(verdict.reset),
    };
    let key = shown.map_err(counted)?;
    match found(&key).map_err(|error| if matches!(error, Error::InvalidKey) { counted(error) } else { error }) {
        Err(Error::InvalidKey) if search(&key, directory).await => found(&key),
        decided => decided,
    }
}

/// The caller that a key belongs to.
///
/// # Errors
/// [`Error::InvalidKey`], [`Error::NotLoaded`].
fn holder(key: &ApiKey, directory: &Directory, now: OffsetDateTime) -> Result<Caller, Error> {
    if !directory.is_loaded() {
        return Err(Error::NotLoaded);
    }
    if directory.is_too_old() {
        return Err(Error::DirectoryTooOld);
    }
    let key_hash = key.hash();
    let (tenant, holder) = directory.find_key(&key_hash).ok_or(Error::InvalidKey)?;
    if holder.expires_at.is_some_and(|end| end <= now) {
        return Err(Error::InvalidKey);
    }
    Ok(Caller { tenant, agent: holder.agent, key_id: holder.key_id, key_hash })
}

/// Looks for a key that is not known here in Postgres. True: authenticating once more is worth it.
async fn search(key: &ApiKey, directory: &Directory) -> bool {
    let hash = key.hash();
    directory.find_key(&hash).is_none() && directory.search(hash).await
}

/// The key that a request carries, in one header or the same in both.
pub(crate) fn sent_key(headers: &HeaderMap) -> Result<ApiKey, Error> {
    let mut sent = Vec::with_capacity(1);
    for value in headers.get_all(API_KEY_HEADER) {
        sent.push(value.as_bytes().trim_ascii());
    }
    for value in headers.get_all(AUTHORIZATION) {
        let value = value.as_bytes().trim_ascii();
        match value.split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => sent.push(token.trim_ascii()),
            // Another scheme is no key of ours: somebody between us and the client may need it.
            _ => {}
        }
    }
    let (first, rest) = sent.split_first().ok_or(Error::MissingKey)?;
    if rest.iter().any(|other| other != first) {
        return Err(Error::TwoKeys);
    }
    let text = std::str::from_utf8(first).map_err(|_| Error::InvalidKey)?;
    ApiKey::parse(text).map_err(|_| Error::InvalidKey)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Ask;
    use http::{HeaderName, HeaderValue};
    use tenancy::MasterKey;

    const KEY: &str = "sk-stellar-0123456789abcdef0123456789abcdef";
    const OTHER: &str = "sk-stellar-fedcba9876543210fedcba9876543210";

    fn sent(headers: &[(&'static str, String)]) -> Result<String, &'static str> {
        let headers = headers.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header value"))
        });
        sent_key(&headers.collect()).map(|key| key.expose().to_owned()).map_err(|error| error.kind())
    }

    #[test]
    fn a_key_is_taken_from_either_header() {
        assert_eq!(sent(&[("x-api-key", KEY.to_owned())]).as_deref(), Ok(KEY));
        assert_eq!(sent(&[("authorization", format!("Bearer {KEY}"))]).as_deref(), Ok(KEY));
        assert_eq!(sent(&[("authorization", format!("bEARER  {KEY}"))]).as_deref(), Ok(KEY));
        assert_eq!(
            sent(&[("x-api-key", KEY.to_owned()), ("authorization", format!("Bearer {KEY}"))]).as_deref(),
            Ok(KEY)
        );
        assert_eq!(
            sent(&[("x-api-key", KEY.to_owned()), ("authorization", "Basic eDp5".to_owned())]).as_deref(),
            Ok(KEY)
        );
    }

    #[test]
    fn two_different_keys_are_refused() {
        let both = [("x-api-key", KEY.to_owned()), ("authorization", format!("Bearer {OTHER}"))];
        assert_eq!(sent(&both), Err("invalid-request"));
        assert_eq!(sent(&[("x-api-key", KEY.to_owned()), ("x-api-key", OTHER.to_owned())]), Err("invalid-request"));
    }

    #[test]
    fn no_key_and_a_wrong_key_are_told_apart() {
        assert_eq!(sent(&[]), Err("missing-api-key"));
        assert_eq!(sent(&[("authorization", "Basic eDp5".to_owned())]), Err("missing-api-key"));
        for wrong in [String::new(), "x".to_owned(), KEY.to_uppercase(), format!("{KEY}0")] {
            assert_eq!(sent(&[("x-api-key", wrong)]), Err("invalid-api-key"));
        }
        assert_eq!(sent(&[("authorization", "Bearer ".to_owned())]), Err("missing-api-key"));
    }

    #[tokio::test]
    async fn failing_address_causes_no_searches_beyond_its_bound() {
        let (directory, mut asks) = Directory::listening(MasterKey::generate());
        let refresher = async {
            let mut searches = 0;
            while let Some(Ask::Search(_, reply)) = asks.recv().await {
                searches += 1;
                let _ = reply.send(false);
            }
            searches
        };
        let client = async {
            let (failures, address) = (FailureLimits::new(3), IpAddr::from([192, 0, 2, 1]));
            let mut told = Vec::new();
            for _ in 0..10 {
                let unknown = ApiKey::parse(KEY).map_err(|_| Error::InvalidKey);
                let refused = caller(unknown, address, &directory, &failures, Duration::ZERO).await.err();
                told.push(refused.expect("a key that nobody has").kind());
            }
            drop(directory);
            told
        };
        let (searches, told) = tokio::join!(refresher, client);
        assert_eq!(searches, 3);
        assert_eq!(told, [["invalid-api-key"; 3].as_slice(), &["rate-limited"; 7]].concat());
    }
}
