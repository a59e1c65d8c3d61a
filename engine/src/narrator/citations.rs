//! Citations in a model's text: `[2]`, `[1, 3]`, `[2-4]`. Those of memories that it was given are renumbered in the order of
//! their first mention; all others are removed.

/// Longer brackets are text.
const LONGEST: usize = 400;
/// A range that holds more than was ever given is none.
const WIDEST: usize = 50;

/// The text with citations 1, 2, 3, … and, for each of these in order, which of the `given` memories it is (from 0).
///
/// A bracket is looked at when it ends: so one that only the removal of another makes a citation is seen as well.
pub(super) fn renumber(text: &str, given: usize) -> (String, Vec<usize>) {
    let (mut out, mut cited) = (String::with_capacity(text.len()), Vec::new());
    let mut rest = text;
    while let Some(end) = rest.find(']') {
        out.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        let Some((begin, inside)) = citation(&out) else {
            out.push(']');
            continue;
        };
        let mut numbers: Vec<usize> = Vec::new();
        for n in inside.split([',', ';', ' ']).flat_map(numbers_of).filter(|n| (1..=given).contains(n)) {
            let place = cited.iter().position(|known| *known == n - 1).unwrap_or_else(|| {
                cited.push(n - 1);
                cited.len() - 1
            });
            if !numbers.contains(&(place + 1)) {
                numbers.push(place + 1);
            }
        }
        if numbers.is_empty() {
            out.truncate(out[..begin].trim_end_matches(' ').len());
        } else {
            let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
            out.truncate(begin);
            out.push('[');
            out.push_str(&numbers.join(", "));
            out.push(']');
        }
    }
    out.push_str(rest);
    (out, cited)
}

/// Where the last bracket of the text begins, and what is in it, if that is a citation.
fn citation(text: &str) -> Option<(usize, &str)> {
    let begin = text.bytes().rev().take(LONGEST).position(|byte| byte == b'[').map(|back| text.len() - 1 - back)?;
    let inside = &text[begin + 1..];
    let is_one = inside.contains(|c: char| c.is_ascii_digit())
        && inside.chars().all(|c| c.is_ascii_digit() || matches!(c, ',' | ';' | ' ' | '-' | '–'));
    is_one.then_some((begin, inside))
}

fn numbers_of(part: &str) -> Vec<usize> {
    let number = |text: &str| text.parse::<usize>().ok();
    match part.split_once(['-', '–']) {
        None => number(part).into_iter().collect(),
        Some((first, last)) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last && last - first < WIDEST => (first..=last).collect(),
            _ => Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_given_is_renumbered_and_what_was_not_is_removed() {
        let cases = [
            ("It slipped [3], as Ada said [1].", "It slipped [1], as Ada said [2].", vec![2, 0]),
            ("Invented [9]. True [2].", "Invented. True [1].", vec![1]),
            ("Both [1, 9; 3] and again [3][1]", "Both [1, 2] and again [2][1]", vec![0, 2]),
            ("A range [1-3], and none [3–1] [0]", "A range [1, 2, 3], and none", vec![0, 1, 2]),
            ("An [array] and an open [1", "An [array] and an open [1", vec![]),
            ("[99999999999999999999999] é[2]", " é[1]", vec![1]),
            ("In [2026] nothing", "In nothing", vec![]),
            ("[[2]]", "[[1]]", vec![1]),
            ("Hidden [2[9]] and [[7]2]", "Hidden [1] and [1]", vec![1]),
        ];
        for (text, wanted, cited) in cases {
            assert_eq!(renumber(text, 3), (wanted.to_owned(), cited), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_cited_that_was_not_given(text in "([\\[\\]0-9,; -–é]|\\PC){0,60}", given in 0usize..5) {
            let (text, cited) = renumber(&text, given);
            prop_assert!(cited.iter().all(|n| *n < given));
            let mut distinct = cited.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), cited.len());
            // Every citation that is left names one of them, and so a second reading changes nothing.
            let (again, all) = renumber(&text, cited.len());
            prop_assert_eq!(&again, &text);
            prop_assert!(all.iter().copied().eq(0..all.len()));
        }
    }
}
