//! A narrative: what the recalled memories tell about a topic, in the order of time. Composed, not generated: it says
//! nothing that was not stored.

use std::fmt::Write as _;

use super::Memory;

/// The text. Memories of one day stand under one date; who spoke is named where it is known.
///
/// `memories` in any order; the text is in the order of [`Memory::occurred_at`].
pub fn narrative(topic: &str, memories: &[Memory]) -> String {
    if memories.is_empty() {
        return format!("Nothing is remembered about {topic}.");
    }
    let ordered = in_order(memories);
    let count = match ordered.len() {
        1 => "one memory".to_owned(),
        n => format!("{n} memories"),
    };
    let mut text = format!("What is remembered about {topic}, from {count}:\n");
    let mut day = None;
    for memory in ordered {
        let date = memory.occurred_at.date();
        if day != Some(date) {
            day = Some(date);
            let _ = write!(text, "\nOn {} {} {}:\n", date.day(), date.month(), date.year());
        }
        let content = memory.content.trim();
        // Writing to a String cannot fail.
        let _ = match memory.speaker.as_deref().or(memory.source.as_deref()) {
            Some(speaker) => writeln!(text, "- {speaker}: {content}"),
            None => writeln!(text, "- {content}"),
        };
    }
    text
}

/// The memories in the order in which they happened.
pub fn in_order(memories: &[Memory]) -> Vec<&Memory> {
    let mut ordered: Vec<&Memory> = memories.iter().collect();
    ordered.sort_by_key(|memory| (memory.occurred_at, memory.id));
    ordered
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::memory::sample;

    fn memory(n: u128, at: time::OffsetDateTime, speaker: Option<&str>, content: &str) -> Memory {
        Memory { occurred_at: at, speaker: speaker.map(str::to_owned), ..sample(n, content) }
    }

    #[test]
    fn is_told_in_the_order_of_time_under_dates() {
        let memories = [
            memory(2, datetime!(2026-02-02 10:00 UTC), None, "It slipped to April"),
            memory(1, datetime!(2026-02-01 10:00 UTC), Some("Ada"), "The launch is planned for March"),
        ];
        assert_eq!(
            narrative("the launch", &memories),
            "What is remembered about the launch, from 2 memories:\n\
             \nOn 1 February 2026:\n- Ada: The launch is planned for March\n\
             \nOn 2 February 2026:\n- It slipped to April\n"
        );
    }

    #[test]
    fn says_that_nothing_is_known() {
        assert_eq!(narrative("zebras", &[]), "Nothing is remembered about zebras.");
    }
}
