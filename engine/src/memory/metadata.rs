//! What a client attaches to a memory: a JSON object, kept as its text. Its values would take up to a hundred times as much
//! memory, and nothing here looks into it once it was checked.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, value::RawValue, value::to_raw_value};

use super::{Invalid, storable};

const FIELD: &str = "metadata";
/// As JSON, with every number written out.
const MAX_BYTES: usize = 16 * 1024;
const MAX_DEPTH: usize = 16;
/// No number takes more as the shortest text that reads back as it.
const LONGEST_NUMBER: usize = 24;

/// A JSON object of the client's own.
#[derive(Clone, Debug)]
pub struct Metadata(Box<RawValue>);

impl Metadata {
    /// Checks what a client sent; returns its members, too.
    ///
    /// # Errors
    /// [`Invalid`]
    pub(super) fn check(given: &RawValue) -> Result<(Self, Map<String, Value>), Invalid> {
        let invalid = |reason: String| Invalid::new(FIELD, reason);
        let members: Map<String, Value> = serde_json::from_str(given.get())
            .map_err(|error| invalid(format!("must be a JSON object: {}", without_place(&error))))?;
        if let Some(number) = numbers(given.get()).find(|number| is_beyond_64_bits(number)) {
            let begin: String = number.chars().take(LONGEST_NUMBER).collect();
            return Err(invalid(format!("holds a whole number of more than 64 bits ({begin}): send it as a text")));
        }
        let grown = check_values(&members)?;
        let text = to_raw_value(&members).map_err(|error| invalid(format!("cannot be kept: {error}")))?;
        let size = text.get().len() + grown;
        if size > MAX_BYTES {
            let reason =
                format!("must not exceed {MAX_BYTES} bytes as JSON with its numbers written out; it has {size}");
            return Err(invalid(reason));
        }
        Ok((Self(text), members))
    }

    /// Takes what was stored, as Postgres writes it.
    pub fn stored(text: Box<RawValue>) -> Self {
        // A float of 309 digits is put as the float that it is: no integer is that large.
        let shorter = |text: &RawValue| {
            let value: Value = serde_json::from_str(text.get()).ok()?;
            to_raw_value(&value).ok()
        };
        let written_out = numbers(text.get()).any(|number| number.len() > LONGEST_NUMBER || is_beyond_64_bits(number));
        Self(written_out.then(|| shorter(&text)).flatten().unwrap_or(text))
    }
}

impl Default for Metadata {
    /// Returns an object without members.
    fn default() -> Self {
        Self(to_raw_value(&Map::new()).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Tells what is wrong with a JSON text, but not where: a part of what a client sent has other lines and columns.
pub fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(&*text, |(what, _)| what).to_owned()
}

/// Checks texts and depth. Returns how many bytes more Postgres takes for the numbers: it writes out what JSON gives an
/// exponent, so that 5 bytes become 309.
fn check_values(members: &Map<String, Value>) -> Result<usize, Invalid> {
    let (mut level, mut depth, mut grown) = (Vec::new(), 1, 0);
    for (name, value) in members {
        storable(FIELD, name)?;
        level.push(value);
    }
    while !level.is_empty() {
        let mut next = Vec::new();
        for value in level {
            match value {
                Value::String(text) => storable(FIELD, text)?,
                Value::Array(items) => next.extend(items),
                Value::Object(members) => {
                    for (name, value) in members {
                        storable(FIELD, name)?;
                        next.push(value);
                    }
                }
                Value::Number(number) => {
                    let float = number.as_f64().filter(|_| number.is_f64());
                    grown += float.map_or(0, |float| float.to_string().len().saturating_sub(number.to_string().len()));
                }
                Value::Null | Value::Bool(_) => {}
            }
        }
        depth += 1;
        if depth > MAX_DEPTH && !next.is_empty() {
            return Err(Invalid::new(FIELD, format!("must not be nested deeper than {MAX_DEPTH} levels")));
        }
        level = next;
    }
    Ok(grown)
}

/// Returns the numbers of a JSON text, as they are written.
fn numbers(json: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let separates = move |c: char| {
        if quoted {
            (quoted, escaped) = (escaped || c != '"', !escaped && c == '\\');
            return true;
        }
        quoted = c == '"';
        !(c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E'))
    };
    json.split(separates).filter(|part| part.bytes().any(|byte| byte.is_ascii_digit()))
}

fn is_beyond_64_bits(number: &str) -> bool {
    let whole = !number.contains(['.', 'e', 'E']);
    whole && number.parse::<i64>().is_err() && number.parse::<u64>().is_err()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    fn checked(text: &str) -> Result<String, String> {
        let checked = Metadata::check(&raw(text));
        checked.map(|(metadata, _)| metadata.0.get().to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_in_texts_are_none() {
        let text = r#"{"1":"2\"3\\","a":[4,-5.6e+7,true],"\\":8,"b":"\\\"9"}"#;
        assert_eq!(numbers(text).collect::<Vec<_>>(), ["4", "-5.6e+7", "8"]);
    }

    #[test]
    fn integer_beyond_64_bits_is_refused() {
        for number in
            ["18446744073709551616", "-9223372036854775809", "12345678901234567890123", "100000000000000000000"]
        {
            let error = checked(&format!("{{\"a\":[{{\"n\":{number}}}]}}")).expect_err(number);
            assert!(error.contains("`metadata`") && error.contains(number) && error.contains("text"), "{error}");
            let as_text = format!("{{\"n\":\"{number}\"}}");
            assert_eq!(checked(&as_text).as_ref(), Ok(&as_text));
        }
        for number in ["18446744073709551615", "-9223372036854775808", "0", "1e+300", "0.5"] {
            let text = format!("{{\"n\":{number}}}");
            assert_eq!(checked(&text).as_ref(), Ok(&text));
        }
    }

    #[test]
    fn what_cannot_be_read_names_metadata() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(130), "]".repeat(130));
        for text in ["[]", "7", "\"x\"", r#"{"a":"\ud83d"}"#, r#"{"a":1e999}"#, &deep] {
            let error = checked(text).expect_err(text);
            assert!(error.starts_with("`metadata` must be a JSON object: ") && !error.contains("at line"), "{error}");
        }
    }

    #[test]
    fn numbers_count_as_postgres_writes_them() {
        let many = |count: usize| json!({ "n": vec![1e300; count] }).to_string();
        assert!(checked(&many(50)).is_ok());
        let error = checked(&many(60)).expect_err("18,000 digits");
        assert!(error.contains("16384 bytes"), "{error}");
    }

    #[test]
    fn stored_float_is_not_written_out() {
        let stored = |text: &str| Metadata::stored(raw(text)).0.get().to_owned();
        assert_eq!(stored("{\"n\": 10000000000000000000000}"), "{\"n\":1e+22}");
        assert_eq!(stored(&format!("{{\"n\": 0.{}5}}", "0".repeat(323))), "{\"n\":5e-324}");
        assert_eq!(stored("{\"n\": 18446744073709551615}"), "{\"n\": 18446744073709551615}");
    }

    proptest! {
        #[test]
        fn whatever_is_taken_is_taken_again(texts in prop::collection::vec("\\PC{0,9}", 0..4), number: f64, integer: i128) {
            let number = if number.is_finite() { json!(number) } else { json!(null) };
            let text = format!(r#"{{"t":{},"f":{number},"i":{integer}}}"#, json!(texts));
            match Metadata::check(&raw(&text)) {
                Ok((metadata, members)) => {
                    prop_assert!(i64::try_from(integer).is_ok() || u64::try_from(integer).is_ok());
                    prop_assert_eq!(&members["t"], &json!(texts));
                    let (again, _) = Metadata::check(&metadata.0).expect("valid");
                    prop_assert_eq!(again, metadata);
                }
                Err(error) => prop_assert!(error.reason.contains(&integer.to_string()[..5]), "{}", error),
            }
        }
    }
}
