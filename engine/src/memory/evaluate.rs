//! Importance by estimate, for a client that asks for it (`auto_evaluate`) and gives none.

/// Words that people use when something is to be kept.
const KEEP: &[&str] = &[
    "remember",
    "important",
    "never",
    "always",
    "must",
    "urgent",
    "critical",
    "deadline",
    "promise",
    "promised",
    "forget",
    "allergic",
    "allergy",
    "emergency",
    "secret",
    "decided",
    "decision",
    "agreed",
];
/// Words that tell what somebody is like or wants.
const PERSONAL: &[&str] = &[
    "prefer",
    "prefers",
    "preferred",
    "favorite",
    "favourite",
    "love",
    "loves",
    "hate",
    "hates",
    "like",
    "likes",
    "want",
    "wants",
    "need",
    "needs",
    "birthday",
    "married",
    "wife",
    "husband",
    "son",
    "daughter",
    "mother",
    "father",
    "name",
    "live",
    "lives",
    "works",
];
const BASE: f32 = 0.35;

/// An estimate of a text's importance, 0.35 to 0.95, without any model:
/// 0.35, + 0.2 for a word such as "never" or "deadline", + 0.15 for a word about a person's likes or family, + 0.1 for a
/// figure (a date, an amount), + 0.1 for a name (a capital letter after the first word), + 0.05 for 12 words or more.
///
/// The weights are set by hand: what a reader would call important gets above the default of 0.5, small talk below it.
pub fn estimate_importance(content: &str) -> f32 {
    let words: Vec<&str> =
        content.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty()).collect();
    let any = |list: &[&str]| words.iter().any(|word| list.iter().any(|kept| word.eq_ignore_ascii_case(kept)));
    let mut importance = BASE;
    if any(KEEP) {
        importance += 0.2;
    }
    if any(PERSONAL) {
        importance += 0.15;
    }
    if words.iter().any(|word| word.starts_with(|c: char| c.is_numeric())) {
        importance += 0.1;
    }
    if words.iter().skip(1).any(|word| word.chars().count() > 1 && word.starts_with(char::is_uppercase)) {
        importance += 0.1;
    }
    if words.len() >= 12 {
        importance += 0.05;
    }
    importance
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_promise_with_a_date_outweighs_small_talk() {
        let promise = estimate_importance("We agreed that the deadline for Orbit is 12 May");
        let talk = estimate_importance("ok, sounds good");
        assert!(promise > 0.5 && talk < 0.5, "{promise} {talk}");
    }

    proptest! {
        #[test]
        fn any_text_has_an_importance_in_range(text in ".{0,300}") {
            prop_assert!((0.0..=1.0).contains(&estimate_importance(&text)));
        }
    }
}
