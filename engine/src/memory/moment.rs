//! Instants and days as clients write them.

use time::{Date, Duration, OffsetDateTime, Time, UtcOffset, format_description::well_known::Rfc3339};

use super::Invalid;

/// The years that every time zone can show.
const YEARS: std::ops::RangeInclusive<i32> = 1..=9998;
/// Postgres counts microseconds.
const LEAST: Duration = Duration::microseconds(1);

/// Which instant a plain date means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edge {
    /// Its first, in UTC.
    Start,
    /// Its last, in UTC.
    End,
}

/// Reads an RFC 3339 instant, into UTC. The years 1 to 9998: that far every time zone can show it.
///
/// # Errors
/// [`Invalid`] for that field.
pub fn instant(field: &'static str, text: &str) -> Result<OffsetDateTime, Invalid> {
    parse_instant(text).ok_or_else(|| Invalid::new(field, "must be a time such as 2026-03-01T09:30:00Z (RFC 3339)"))
}

/// Reads an RFC 3339 instant or a plain date, of which `edge` is meant.
///
/// # Errors
/// [`Invalid`] for that field; it shows both forms.
pub fn day_or_instant(field: &'static str, text: &str, edge: Edge) -> Result<OffsetDateTime, Invalid> {
    if let Some(at) = parse_day(text, edge).or_else(|| parse_instant(text)) {
        return Ok(at);
    }
    let mut reason =
        "must be a date such as 2026-03-01 or a time such as 2026-03-01T09:30:00+01:00 (RFC 3339)".to_owned();
    if lost_its_plus(text) {
        reason += "; in a query string a `+` means a space: write it as %2B";
    }
    Err(Invalid::new(field, reason))
}

fn parse_instant(text: &str) -> Option<OffsetDateTime> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?.checked_to_offset(UtcOffset::UTC)?;
    YEARS.contains(&at.year()).then_some(at)
}

fn parse_day(text: &str, edge: Edge) -> Option<OffsetDateTime> {
    let form = time::macros::format_description!("[year repr:full padding:zero sign:automatic]-[month]-[day]");
    let date = Date::parse(text, &form).ok().filter(|date| text.len() == 10 && YEARS.contains(&date.year()))?;
    match edge {
        Edge::Start => Some(date.with_time(Time::MIDNIGHT).assume_utc()),
        Edge::End => Some(date.next_day()?.with_time(Time::MIDNIGHT).assume_utc() - LEAST),
    }
}

/// Whether it would be a time if its last space were a plus.
fn lost_its_plus(text: &str) -> bool {
    text.rsplit_once(' ').is_some_and(|(time, offset)| parse_instant(&format!("{time}+{offset}")).is_some())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        let at = |text: &str| instant("occurred_at", text);
        assert_eq!(at("2026-03-01T10:30:00+01:00"), at("2026-03-01T09:30:00Z"));
        for text in [
            "yesterday",
            "2026-13-01T00:00:00Z",
            "2026-03-01",
            "+999999-01-01T00:00:00Z",
            "9999-12-31T23:59:59-23:59",
            "",
        ] {
            assert!(at(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_day_is_all_of_it() {
        let read = |text, edge| day_or_instant("start", text, edge);
        assert_eq!(read("2026-03-01", Edge::Start), Ok(datetime!(2026-03-01 00:00 UTC)));
        assert_eq!(read("2026-03-01", Edge::End), Ok(datetime!(2026-03-01 23:59:59.999999 UTC)));
        assert_eq!(read("2024-02-29", Edge::Start), Ok(datetime!(2024-02-29 00:00 UTC)));
        assert_eq!(read("2026-03-01T01:00:00+02:00", Edge::End), Ok(datetime!(2026-02-28 23:00 UTC)));
        for text in
            ["2026-02-29", "2026-3-1", "26-03-01", "2026-03", "+2026-03-01", "2026-03-01 ", "9999-01-01", "march"]
        {
            let error = read(text, Edge::Start).expect_err(text).to_string();
            assert!(error.contains("2026-03-01 ") && error.contains("T09:30:00+01:00"), "{error}");
            assert!(!error.contains("%2B"), "{error}");
        }
    }

    #[test]
    fn a_plus_that_became_a_space_is_named() {
        let error = day_or_instant("end", "2026-03-01T10:30:00 01:00", Edge::End).expect_err("no offset").to_string();
        assert!(error.contains("%2B"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "\\PC{0,40}") {
            let _ = day_or_instant("start", &text, Edge::Start);
            let _ = day_or_instant("end", &text, Edge::End);
        }
    }
}
