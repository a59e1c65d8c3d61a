//! Cursors: where a page ended, as an opaque text: base64url without padding. Bytes of most: kind, key (8), id (16).

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    memory::{AnchoredScore, Invalid},
    store::{AuditAfter, ListAfter, TimeAfter},
};

const BY_SCORE: u8 = 1;
const BY_TIME: u8 = 2;
const OF_AUDIT: u8 = 3;

/// A place in a list that a text can carry.
pub(super) trait Cursor: Sized {
    fn encode(self) -> String;
    fn decode(text: &str) -> Result<Self, Invalid>;
}

impl Cursor for ListAfter {
    fn encode(self) -> String {
        join(BY_SCORE, i64::from(self.score.to_stored().to_bits()), self.id)
    }

    fn decode(text: &str) -> Result<Self, Invalid> {
        let (key, id) = split(BY_SCORE, text)?;
        let score =
            u32::try_from(key).ok().map(f32::from_bits).filter(|score| score.is_finite()).ok_or_else(unknown)?;
        Ok(Self { score: AnchoredScore::from_stored(score), id })
    }
}

impl Cursor for TimeAfter {
    fn encode(self) -> String {
        join(BY_TIME, microseconds(self.at), self.id)
    }

    fn decode(text: &str) -> Result<Self, Invalid> {
        let (key, id) = split(BY_TIME, text)?;
        Ok(Self { at: instant(key)?, id })
    }
}

/// Bytes: kind, number of the change (8), instant (8) and id (16) of the audit's entry.
impl Cursor for AuditAfter {
    fn encode(self) -> String {
        let (at, id) = self.audit;
        let mut bytes = vec![OF_AUDIT];
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(microseconds(at).to_be_bytes());
        bytes.extend(id.as_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    fn decode(text: &str) -> Result<Self, Invalid> {
        let bytes: [u8; 33] =
            BASE64_URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(unknown)?;
        let (seq, rest) = bytes[1..].split_first_chunk().ok_or_else(unknown)?;
        let (at, id) = rest.split_first_chunk().ok_or_else(unknown)?;
        if bytes[0] != OF_AUDIT {
            return Err(unknown());
        }
        let id = Uuid::from_slice(id).map_err(|_| unknown())?;
        Ok(Self { seq: i64::from_be_bytes(*seq), audit: (instant(i64::from_be_bytes(*at))?, id) })
    }
}

/// The years that a list can hold. Postgres holds no instant before the year -4713.
const YEARS: std::ops::RangeInclusive<i32> = 1..=9999;

/// Postgres counts microseconds.
fn microseconds(at: OffsetDateTime) -> i64 {
    (at.unix_timestamp_nanos() / 1000) as i64
}

fn instant(microseconds: i64) -> Result<OffsetDateTime, Invalid> {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(microseconds) * 1000).ok();
    at.filter(|at| YEARS.contains(&at.year())).ok_or_else(unknown)
}

fn join(kind: u8, key: i64, id: Uuid) -> String {
    let mut bytes = [0; 25];
    bytes[0] = kind;
    bytes[1..9].copy_from_slice(&key.to_be_bytes());
    bytes[9..].copy_from_slice(id.as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn split(kind: u8, text: &str) -> Result<(i64, Uuid), Invalid> {
    let bytes: [u8; 25] =
        BASE64_URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(unknown)?;
    let (key, id) = bytes[1..].split_first_chunk().ok_or_else(unknown)?;
    if bytes[0] != kind {
        return Err(unknown());
    }
    Ok((i64::from_be_bytes(*key), Uuid::from_slice(id).map_err(|_| unknown())?))
}

fn unknown() -> Invalid {
    Invalid::new("cursor", "must be a next_cursor of this list")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The first microsecond of a year, about.
    fn year(year: i64) -> i64 {
        (year - 1970) * 31_556_952_000_000
    }

    #[test]
    fn cursor_with_impossible_time_is_refused() {
        for micros in [year(-9998), year(-5000), year(-4713), year(-1), i64::MIN, i64::MAX] {
            assert!(TimeAfter::decode(&join(BY_TIME, micros, Uuid::nil())).is_err(), "{micros}");
            let audit = [&[OF_AUDIT][..], &1i64.to_be_bytes(), &micros.to_be_bytes(), Uuid::nil().as_bytes()].concat();
            assert!(AuditAfter::decode(&BASE64_URL_SAFE_NO_PAD.encode(audit)).is_err(), "{micros}");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_reads_back(score in -10.0f32..100.0, micros in -62_135_596_800_000_000i64..253_370_764_800_000_000, id: u128) {
            let id = Uuid::from_u128(id);
            let by_score = ListAfter { score: AnchoredScore::from_stored(score), id };
            prop_assert_eq!(ListAfter::decode(&by_score.encode()), Ok(by_score));
            let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).expect("in range");
            prop_assert_eq!(TimeAfter::decode(&TimeAfter { at, id }.encode()), Ok(TimeAfter { at, id }));
            prop_assert!(TimeAfter::decode(&by_score.encode()).is_err());
            for of_audit in [AuditAfter { seq: micros, audit: (at, id) }, AuditAfter::start()] {
                prop_assert_eq!(AuditAfter::decode(&of_audit.encode()), Ok(of_audit));
                prop_assert!(TimeAfter::decode(&of_audit.encode()).is_err());
            }
        }

        #[test]
        fn whatever_a_cursor_decodes_to_postgres_holds(
            kind in 0u8..5, key: i64, micros in prop_oneof![any::<i64>(), year(-9999)..year(9999)], id: u128,
        ) {
            let id = Uuid::from_u128(id);
            for text in [join(kind, key, id), join(kind, micros, id)] {
                if let Ok(ListAfter { score, .. }) = ListAfter::decode(&text) {
                    prop_assert!(score.to_stored().is_finite());
                }
                if let Ok(TimeAfter { at, .. }) = TimeAfter::decode(&text) {
                    prop_assert!(YEARS.contains(&at.year()));
                }
            }
            let audit = [&[kind][..], &key.to_be_bytes(), &micros.to_be_bytes(), id.as_bytes()].concat();
            if let Ok(AuditAfter { audit: (at, _), .. }) = AuditAfter::decode(&BASE64_URL_SAFE_NO_PAD.encode(audit)) {
                prop_assert!(YEARS.contains(&at.year()));
            }
        }

        #[test]
        fn rubbish_is_refused(text in "\\PC{0,40}") {
            prop_assume!(text.len() != 34);
            prop_assert!(ListAfter::decode(&text).is_err());
        }
    }
}
