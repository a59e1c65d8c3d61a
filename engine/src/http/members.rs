//! The members of a JSON object, each as it is written: what cannot be read of one leaves the others as they are, and is
//! named.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::memory::without_place;

/// Names and values of an object, in its order; a name may be there twice.
pub(super) struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads an object; `None`: the text is none.
    pub(super) fn of(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Takes the first value of this name out.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let at = self.0.iter().position(|(known, _)| text_of(known).is_some_and(|known| known == name))?;
        Some(self.0.remove(at).1)
    }

    /// Writes the object, of those that are left.
    pub(super) fn to_json(&self) -> String {
        let members: Vec<String> =
            self.0.iter().map(|(name, value)| format!("{}:{}", name.get(), value.get())).collect();
        format!("{{{}}}", members.join(","))
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

fn text_of(name: &RawValue) -> Option<String> {
    serde_json::from_str(name.get()).ok()
}

/// Tells why an object cannot be read as what it should be, and which member's value is to blame. A field that is unknown,
/// missing or there twice is named by the error itself.
pub(super) fn fault(object: &str, error: &serde_json::Error) -> String {
    let what = without_place(error);
    match member_at(object, error) {
        Some(name) => format!("`{name}`: {what}"),
        None => what,
    }
}

/// The member whose value holds the place of the error.
fn member_at(object: &str, error: &serde_json::Error) -> Option<String> {
    let lines_before = error.line().checked_sub(1)?;
    let at = object.split_inclusive('\n').take(lines_before).map(str::len).sum::<usize>() + error.column();
    let holds = |value: &RawValue| {
        let start = value.get().as_ptr().addr().wrapping_sub(object.as_ptr().addr());
        (start..=start.wrapping_add(value.get().len())).contains(&at)
    };
    let Members(members) = Members::of(object)?;
    members.into_iter().find(|(_, value)| holds(value)).and_then(|(name, _)| text_of(name))
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::memory::{Draft, PatchDraft};

    fn told<T: DeserializeOwned>(text: &str) -> String {
        match serde_json::from_str::<T>(text) {
            Ok(_) => panic!("{text} is valid"),
            Err(error) => fault(text, &error),
        }
    }

    #[test]
    fn value_of_wrong_type_is_blamed_by_name() {
        for (name, value) in [("importance", "\"high\""), ("content", "7"), ("session", "[1]"), ("id", "{\"a\":2}")] {
            for text in [
                format!("{{\"{name}\":{value}}}"),
                format!("{{\"speaker\":\"importance\\\":\",\n \"{name}\" :\n{value}, \"source\":\"x\"}}"),
            ] {
                let told = told::<Draft>(&text);
                assert!(told.starts_with(&format!("`{name}`: invalid type")), "{text}: {told}");
            }
        }
        assert!(told::<Draft>(r#"{"content":"\ud83d","source":"x"}"#).starts_with("`content`: "));
    }

    #[test]
    fn field_that_is_none_is_blamed_alone() {
        for (text, told_so) in [
            (r#"{"content":"x","user_id":"a"}"#, "unknown field `user_id`"),
            ("{\"content\":\"x\"\n,\n\"user_id\" : \"a\"}", "unknown field `user_id`"),
            (r#"{"content":"x","content":"y"}"#, "duplicate field `content`"),
            (r#"{"importance":1}"#, "missing field `content`"),
        ] {
            let told = told::<Draft>(text);
            assert!(told.starts_with(told_so), "{text}: {told}");
        }
        assert!(told::<PatchDraft>(r#"{"content":"x","session":"s"}"#).starts_with("unknown field `session`"));
        assert!(!told::<Draft>("{\"content\":").contains("`content`"));
    }

    #[test]
    fn members_are_taken_by_name_and_kept_as_written() {
        let text = r#"{"a": 1e999, "\u0062":"\ud83d", "a":[2], "\ud83d":3}"#;
        let mut members = Members::of(text).expect("an object");
        assert_eq!(members.take("a").map(RawValue::get), Some("1e999"));
        assert_eq!(members.take("b").map(RawValue::get), Some(r#""\ud83d""#));
        assert_eq!(members.to_json(), r#"{"a":[2],"\ud83d":3}"#);
        assert!(members.take("c").is_none() && Members::of("[1]").is_none());
    }
}
