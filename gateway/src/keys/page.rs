//! Pages of the lists under /auth: a limit, and a cursor that says where the last page ended.

use time::OffsetDateTime;
use uuid::Uuid;

use super::is_agent;
use crate::error::Error;

/// Entries of a page when no limit is given.
const PAGE: i64 = 50;
/// The most of them.
const PAGE_MOST: i64 = 100;

/// A place in a list.
pub(super) trait Cursor: Sized {
    fn parse(text: &str) -> Option<Self>;
}

/// The last key of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct KeyAfter {
    pub(super) created_at: OffsetDateTime,
    pub(super) id: Uuid,
}

impl KeyAfter {
    /// Opaque to clients.
    pub(super) fn encode(self) -> String {
        // Postgres counts microseconds.
        format!("{:016x}{}", self.created_at.unix_timestamp_nanos() as i64 / 1000, self.id.simple())
    }
}

impl Cursor for KeyAfter {
    fn parse(text: &str) -> Option<Self> {
        let (micros, id) = text.split_at_checked(16)?;
        let micros = i64::from_str_radix(micros, 16).ok()?;
        let created_at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok()?;
        // Postgres holds no instant before the year -4713.
        if created_at.year() < 1 {
            return None;
        }
        Some(Self { created_at, id: Uuid::try_parse(id).ok()? })
    }
}

/// The last agent of a page, by name.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct AgentAfter(pub(super) String);

impl Cursor for AgentAfter {
    fn parse(text: &str) -> Option<Self> {
        is_agent(text).then(|| Self(text.to_owned()))
    }
}

/// Cuts what was asked for with one entry more than a page has. Returns the page's last entry if others follow it.
pub(super) fn cut<T>(items: &mut Vec<T>, limit: i64) -> Option<&T> {
    let more = items.len() as i64 > limit;
    items.truncate(limit as usize);
    items.last().filter(|_| more)
}

/// `limit` and `cursor` of a query string.
///
/// # Errors
/// [`Error::Invalid`] names the one that is out of range.
pub(super) fn page_of<C: Cursor>(query: &str) -> Result<(i64, Option<C>), Error> {
    let (mut limit, mut after) = (PAGE, None);
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "limit" => {
                limit = value
                    .parse()
                    .ok()
                    .filter(|n| (1..=PAGE_MOST).contains(n))
                    .ok_or_else(|| Error::Invalid(format!("`limit` is a number from 1 to {PAGE_MOST}.")))?;
            }
            "cursor" => {
                let place = C::parse(&value);
                after = Some(
                    place
                        .ok_or_else(|| Error::Invalid("`cursor` is a `next_cursor` of an earlier page.".to_owned()))?,
                );
            }
            _ => {}
        }
    }
    Ok((limit, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_to_the_microsecond() {
        let created_at = OffsetDateTime::from_unix_timestamp_nanos(1_790_000_000_123_456_000).expect("a time");
        let after = KeyAfter { created_at, id: Uuid::new_v4() };
        assert_eq!(KeyAfter::parse(&after.encode()), Some(after));
        let before_postgres = format!("-2f0000000000000{}", after.id.simple());
        for rubbish in ["", "0", &"g".repeat(48), "ä", &before_postgres] {
            assert_eq!(KeyAfter::parse(rubbish), None, "{rubbish}");
        }
        assert_eq!(AgentAfter::parse("agent-7"), Some(AgentAfter("agent-7".to_owned())));
        assert_eq!(AgentAfter::parse("Agent 7"), None);
    }

    #[test]
    fn pages_are_bounded() {
        assert!(matches!(page_of::<KeyAfter>(""), Ok((PAGE, None))));
        assert!(matches!(page_of::<KeyAfter>("limit=100&other=1"), Ok((100, None))));
        for query in ["limit=0", "limit=101", "limit=x", "cursor=x"] {
            assert!(page_of::<KeyAfter>(query).is_err(), "{query}");
        }
    }
}
