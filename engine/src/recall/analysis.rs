//! From text to terms: lower case, runs of letters and digits, a short stop list, Snowball English stems.
//!
//! Latin letters lose their accents, so that "naive" finds "naïve". Scripts that write no spaces (Han, Hiragana,
//! Katakana) give each letter and each pair of letters that follow one another.

use rust_stemmers::{Algorithm, Stemmer};

/// Words that nearly every text has, and the pieces that an apostrophe leaves over.
const STOP: &[&str] = &[
    "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "did", "do", "does", "for", "from", "had", "has",
    "have", "he", "her", "him", "his", "i", "if", "in", "is", "it", "its", "me", "my", "of", "on", "or", "our", "s",
    "she", "so", "t", "that", "the", "their", "them", "they", "this", "to", "was", "we", "were", "what", "when",
    "where", "which", "who", "will", "with", "would", "you", "your",
];
/// Longer runs (hashes, encoded data) are cut here.
const MAX_TERM_CHARS: usize = 64;

/// Calls `each` with every term of a text, in order, repetitions included.
pub(super) fn terms(text: &str, mut each: impl FnMut(&str)) {
    let stemmer = Stemmer::create(Algorithm::English);
    let mut word = String::new();
    let mut unspaced: Option<char> = None;
    for letter in text.chars().flat_map(char::to_lowercase) {
        if is_unspaced(letter) {
            finish(&stemmer, &mut word, &mut each);
            let mut buffer = [0; 8];
            each(letter.encode_utf8(&mut buffer));
            if let Some(before) = unspaced {
                let first = before.encode_utf8(&mut buffer).len();
                let second = letter.encode_utf8(&mut buffer[first..]).len();
                if let Ok(pair) = std::str::from_utf8(&buffer[..first + second]) {
                    each(pair);
                }
            }
            unspaced = Some(letter);
            continue;
        }
        unspaced = None;
        if letter.is_alphanumeric() {
            match without_accent(letter) {
                Ok(plain) => word.push(plain),
                Err(pair) => word.push_str(pair),
            }
        } else if !is_combining(letter) {
            finish(&stemmer, &mut word, &mut each);
        }
    }
    finish(&stemmer, &mut word, &mut each);
}

fn finish(stemmer: &Stemmer, word: &mut String, each: &mut impl FnMut(&str)) {
    if let Some((end, _)) = word.char_indices().nth(MAX_TERM_CHARS) {
        word.truncate(end);
    }
    if !word.is_empty() && STOP.binary_search(&word.as_str()).is_err() {
        if word.bytes().all(|byte| byte.is_ascii_lowercase()) {
            each(&stemmer.stem(word));
        } else {
            each(word);
        }
    }
    word.clear();
}

fn is_unspaced(letter: char) -> bool {
    matches!(letter, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
}

/// Accents written as letters of their own: they neither end a word nor belong to a term.
fn is_combining(letter: char) -> bool {
    matches!(letter, '\u{300}'..='\u{36f}')
}

fn without_accent(letter: char) -> Result<char, &'static str> {
    Ok(match letter {
        'à'..='å' | 'ā' | 'ă' | 'ą' => 'a',
        'ç' | 'ć' | 'č' => 'c',
        'ď' | 'đ' => 'd',
        'è'..='ë' | 'ē' | 'ė' | 'ę' | 'ě' => 'e',
        'ğ' => 'g',
        'ì'..='ï' | 'ī' | 'į' | 'ı' => 'i',
        'ł' => 'l',
        'ñ' | 'ń' | 'ň' => 'n',
        'ò'..='ö' | 'ø' | 'ō' | 'ő' => 'o',
        'ř' => 'r',
        'ś' | 'š' | 'ş' | 'ș' => 's',
        'ť' | 'ț' | 'ţ' => 't',
        'ù'..='ü' | 'ū' | 'ů' | 'ű' => 'u',
        'ý' | 'ÿ' => 'y',
        'ź' | 'ž' | 'ż' => 'z',
        'ß' => return Err("ss"),
        'æ' => return Err("ae"),
        'œ' => return Err("oe"),
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        terms(text, |term| found.push(term.to_owned()));
        found
    }

    #[test]
    fn the_stop_list_is_sorted() {
        assert!(STOP.is_sorted());
    }

    #[test]
    fn words_are_stemmed_and_figures_kept() {
        assert_eq!(all("Ada's 2 flights were DELAYED; order-4711"), ["ada", "2", "flight", "delay", "order", "4711"]);
    }

    #[test]
    fn accents_do_not_part_a_word() {
        assert_eq!(all("naïve Straße cafe\u{301}"), ["naiv", "strass", "cafe"]);
        assert_eq!(all("東京"), ["東", "京", "東京"]);
    }

    proptest! {
        #[test]
        fn any_text_gives_terms_that_are_short_and_not_empty(text in "\\PC{0,200}") {
            for term in all(&text) {
                prop_assert!(!term.is_empty() && term.chars().count() <= MAX_TERM_CHARS);
            }
        }
    }
}
