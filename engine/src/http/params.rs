//! Query parameters, each by name: an unknown, doubled or malformed one is refused and named.

use axum::{extract::FromRequestParts, http::request::Parts};
use tenancy::ProblemType;
use time::OffsetDateTime;

use super::ApiError;
use crate::memory::{Edge, Invalid, day_or_instant, storable};

/// The parameters of a request, decoded, not yet claimed.
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Self::decode(parts.uri.query().unwrap_or_default())
    }
}

impl Params {
    fn decode(query: &str) -> Result<Self, ApiError> {
        let mut params: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (percent_decode(name), percent_decode(value)) else {
                return Err(invalid("the query string is not UTF-8 with percent encoding"));
            };
            if params.iter().any(|(known, _)| *known == name) {
                return Err(invalid(&format!("the parameter `{}` is given twice", shown(&name))));
            }
            params.push((name, value));
        }
        Ok(Self(params))
    }

    /// A text, if given.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, Invalid> {
        let Some(at) = self.0.iter().position(|(known, _)| known == name) else { return Ok(None) };
        let (_, value) = self.0.swap_remove(at);
        storable(name, &value)?;
        Ok(Some(value))
    }

    /// A number from `least` to `most`, if given.
    pub(super) fn number(&mut self, name: &'static str, least: i64, most: i64) -> Result<Option<i64>, Invalid> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        number.map(Some).ok_or_else(|| Invalid::new(name, format!("must be a number from {least} to {most}")))
    }

    /// An instant, if given: a time, or a date of which `edge` is meant.
    pub(super) fn moment(&mut self, name: &'static str, edge: Edge) -> Result<Option<OffsetDateTime>, Invalid> {
        self.text(name)?.map(|text| day_or_instant(name, &text, edge)).transpose()
    }

    /// To be called when all known parameters are taken.
    pub(super) fn nothing_else(self) -> Result<(), ApiError> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(invalid(&format!("there is no parameter `{}` here", shown(name)))),
        }
    }
}

fn invalid(detail: &str) -> ApiError {
    ApiError::new(ProblemType::InvalidRequest, detail)
}

fn shown(name: &str) -> String {
    name.chars().take(50).collect()
}

/// Strict where `form_urlencoded` is lenient: what is not UTF-8 is refused rather than replaced.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (hex_digit(rest.next()?)?, hex_digit(rest.next()?)?);
                high * 16 + low
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_way_to_be_wrong_names_the_parameter() {
        let refused = |query: &str, check: fn(&mut Params) -> Result<(), Invalid>| {
            let mut params = Params::decode(query).map_err(|error| error.to_string())?;
            check(&mut params).map_err(|error| error.to_string())?;
            params.nothing_else().map_err(|error| error.to_string())
        };
        let limit = |params: &mut Params| params.number("limit", 1, 50).map(drop);
        assert_eq!(refused("limit=7", limit), Ok(()));
        for query in ["limit=0", "limit=51", "limit=", "limit=many", "limit=1&limit=2", "limit=%00"] {
            assert!(refused(query, limit).expect_err(query).contains("`limit`"), "{query}");
        }
        assert!(refused("lmit=7", limit).expect_err("unknown").contains("`lmit`"));
        assert!(refused("q=%ff%fe", limit).expect_err("not UTF-8").contains("UTF-8"));
    }

    proptest! {
        #[test]
        fn any_query_string_is_read_or_refused_without_a_panic(query in "\\PC{0,60}") {
            let _ = Params::decode(&query).map(|mut params| params.text("q").is_ok());
        }

        #[test]
        fn what_was_encoded_reads_back(text in "\\PC{0,40}") {
            let encoded: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
            prop_assert_eq!(percent_decode(&encoded), Some(text));
        }
    }
}
