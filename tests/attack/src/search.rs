//! Secrets, in every form in which one could be written down, and the search for them.

use std::collections::{BTreeSet, HashMap};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD, prelude::BASE64_URL_SAFE_NO_PAD};

/// Shorter forms are found by chance.
const SHORTEST: usize = 10;
const KEY: usize = 8;

/// What is looked for.
#[derive(Clone, Default)]
pub struct Search {
    /// By the first bytes of a form.
    forms: HashMap<[u8; KEY], Vec<(String, Vec<u8>)>>,
}

impl Search {
    /// Adds a secret: as it is, in hexadecimal, in base64 at each alignment, escaped, and as a list of numbers.
    pub fn add(&mut self, name: &str, secret: impl AsRef<[u8]>) {
        let secret = secret.as_ref();
        let hex = hex(secret);
        let numbers: Vec<String> = secret.iter().map(u8::to_string).collect();
        let mut forms = vec![
            secret.to_vec(),
            hex.to_uppercase().into_bytes(),
            hex.into_bytes(),
            numbers.join(", ").into_bytes(),
            secret.escape_ascii().to_string().into_bytes(),
        ];
        for shift in 0..3 {
            // What the bytes before and after it would change is left out.
            let shifted = [&vec![0; shift], secret].concat();
            let (begin, end) = (shift * 8_usize, shifted.len() * 8);
            for encoded in [BASE64_STANDARD_NO_PAD.encode(&shifted), BASE64_URL_SAFE_NO_PAD.encode(&shifted)] {
                forms.push(encoded.as_bytes()[begin.div_ceil(6)..end / 6].to_vec());
            }
        }
        for form in forms.into_iter().filter(|form| form.len() >= SHORTEST) {
            if let Some(key) = form.first_chunk::<KEY>() {
                self.forms.entry(*key).or_default().push((name.to_owned(), form));
            }
        }
    }

    /// The secrets that are in it.
    pub fn find(&self, text: impl AsRef<[u8]>) -> BTreeSet<String> {
        let text = text.as_ref();
        // Most places are passed over by their first two bytes.
        let mut begins = vec![false; 1 << 16];
        for key in self.forms.keys() {
            begins[usize::from(key[0]) << 8 | usize::from(key[1])] = true;
        }
        let mut found = BTreeSet::new();
        for (at, key) in text.windows(KEY).enumerate() {
            if begins[usize::from(key[0]) << 8 | usize::from(key[1])]
                && let Some(forms) = self.forms.get(key)
            {
                found.extend(
                    forms.iter().filter(|(_, form)| text[at..].starts_with(form)).map(|(name, _)| name.clone()),
                );
            }
        }
        found
    }

    /// Asserts that none of them is in it.
    ///
    /// # Panics
    /// With the names of those that are, and a line that holds one.
    pub fn assert_none(&self, place: &str, text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        let found = self.find(text);
        if let Some(name) = found.first() {
            let lines = String::from_utf8_lossy(text);
            let line = lines.lines().find(|line| self.find(line).contains(name)).unwrap_or_default();
            let shown: String = line.chars().take(2_000).collect();
            panic!("{place} holds {found:?}, such as in:\n{shown}");
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_every_form() {
        let mut search = Search::default();
        let secret = "a secret \"of\" 24 bytes\u{7}!";
        search.add("it", secret);
        let base64 = |before: &str| BASE64_STANDARD_NO_PAD.encode(format!("{before}{secret} and more"));
        let hex = hex(secret.as_bytes());
        for text in [
            secret.to_owned(),
            format!("{:?}", secret.as_bytes()),
            format!("b\"{}\"", secret.as_bytes().escape_ascii()),
            format!("\\x{hex}"),
            hex.to_uppercase(),
            base64(""),
            base64("1"),
            base64("12"),
        ] {
            assert!(search.find(format!("before {text} after")).contains("it"), "{text}");
        }
        assert!(search.find("a secret of 24 bytes").is_empty());
    }
}
