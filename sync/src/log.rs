//! What a tenant's log tells, as it travels from an engine to a room: every change is serialised once, where it is read.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// One change: its number, and the whole JSON object that clients read.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its number in the log.
    pub seq: i64,
    /// `{"type":"change","seq":…}`
    pub json: String,
}

/// A page of the log.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The number of the last change there is, whether or not it is in this page.
    pub seq: i64,
    /// What comes after the place that was asked for, in order and without a gap.
    pub changes: Vec<Change>,
    /// The log does not reach back to that place, or never got there: there is nothing in the page, and whoever was there
    /// has to read everything anew and goes on from `seq`.
    pub resync: bool,
}

#[derive(Serialize, Deserialize)]
struct Page<'a> {
    seq: i64,
    #[serde(default, skip_serializing_if = "is_false")]
    resync: bool,
    #[serde(borrow)]
    changes: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Numbered {
    seq: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Changes {
    /// The page as JSON.
    ///
    /// # Errors
    /// When a change's text is no JSON.
    pub fn to_json(&self) -> serde_json::Result<String> {
        let changes = self.changes.iter().map(|change| serde_json::from_str::<&RawValue>(&change.json));
        let page = Page { seq: self.seq, resync: self.resync, changes: changes.collect::<Result<_, _>>()? };
        serde_json::to_string(&page)
    }

    /// Reads a page that was asked for from the place `since` on.
    ///
    /// # Errors
    /// When it is no page, or has a gap.
    pub fn from_json(text: &str, since: Option<i64>) -> serde_json::Result<Self> {
        let Page { seq, resync, changes } = serde_json::from_str(text)?;
        let read = |raw: &RawValue| {
            let Numbered { seq } = serde_json::from_str(raw.get())?;
            Ok(Change { seq, json: raw.get().to_owned() })
        };
        let changes: Vec<Change> = changes.into_iter().map(read).collect::<serde_json::Result<_>>()?;
        // A client may name any place: what follows the last of all is not counted from it.
        let gapless = changes.windows(2).all(|pair| pair[0].seq == pair[1].seq.wrapping_sub(1))
            && changes.first().is_none_or(|change| since.is_none_or(|since| change.seq.wrapping_sub(1) == since));
        if !gapless {
            return Err(serde::de::Error::custom("the page has a gap"));
        }
        Ok(Self { seq, changes, resync })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(seq: i64) -> Change {
        Change { seq, json: format!(r#"{{"type":"change","seq":{seq},"op":"store","content":"\u00e9\" ]"}}"#) }
    }

    #[test]
    fn a_page_reads_back_and_its_texts_are_untouched() {
        let page = Changes { seq: 9, changes: vec![change(7), change(8)], resync: false };
        let read = Changes::from_json(&page.to_json().expect("JSON"), Some(6)).expect("a page");
        assert_eq!((read.seq, read.resync), (9, false));
        let none = Changes { seq: 9, resync: true, ..Changes::default() }.to_json().expect("JSON");
        assert!(Changes::from_json(&none, Some(i64::MAX)).is_ok_and(|page| page.resync), "beyond the end of all logs");
        assert_eq!(
            read.changes.iter().map(|c| (c.seq, c.json.clone())).collect::<Vec<_>>(),
            [(7, change(7).json), (8, change(8).json)]
        );
    }

    #[test]
    fn a_gap_is_no_page() {
        for (changes, since) in [(vec![change(7), change(9)], 6), (vec![change(8)], 6)] {
            let text = Changes { seq: 9, changes, resync: false }.to_json().expect("JSON");
            assert!(Changes::from_json(&text, Some(since)).is_err());
        }
        assert!(Changes::from_json("[]", None).is_err());
    }
}
