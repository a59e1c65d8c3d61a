//! What a tier allows.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The name of a tier: a DNS label of 1 to 63 characters, and not `team`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TierName(String);

/// Why a text is not a tier's name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TierNameError {
    /// The old name of promax.
    #[error("tier `team` was renamed to promax")]
    Renamed,
    /// Not a DNS label.
    #[error("a tier's name has 1 to 63 characters a-z, 0-9 and -, and starts and ends with a letter or digit")]
    NotALabel,
}

impl TierName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TierName {
    type Err = TierNameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let well_formed =
            (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-');
        match text {
            "team" => Err(TierNameError::Renamed),
            _ if well_formed => Ok(Self(text.to_owned())),
            _ => Err(TierNameError::NotALabel),
        }
    }
}

impl TryFrom<String> for TierName {
    type Error = TierNameError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TierName> for String {
    fn from(name: TierName) -> Self {
        name.0
    }
}

impl fmt::Display for TierName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A count that may have no upper bound. On the wire and in Postgres: -1 for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// At most this many.
    AtMost(u32),
    /// No bound.
    Unlimited,
}

impl Limit {
    /// Reads the stored form. `None` for anything below -1 or above `u32::MAX`.
    pub fn from_stored(stored: i64) -> Option<Self> {
        if stored == -1 { Some(Self::Unlimited) } else { u32::try_from(stored).ok().map(Self::AtMost) }
    }

    /// The stored form: the bound, or -1.
    pub fn to_stored(self) -> i64 {
        match self {
            Self::AtMost(most) => i64::from(most),
            Self::Unlimited => -1,
        }
    }
}

/// What a tenant may do, by its tier (or by its own overrides).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TierLimits {
    /// Memories stored at one time.
    pub max_memories: Limit,
    /// Named agents that hold keys.
    pub max_agents: Limit,
    /// API keys that are neither revoked nor expired.
    pub max_api_keys: Limit,
    /// Requests a minute over all gateways; at least 1.
    pub requests_per_minute: u32,
    /// Sync sockets open at one time over all gateways.
    pub max_sockets: Limit,
    /// Operations a second of one sync socket; at least 1.
    pub socket_messages_per_second: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn team_is_told_its_new_name() {
        assert_eq!("team".parse::<TierName>(), Err(TierNameError::Renamed));
        assert!(TierNameError::Renamed.to_string().contains("renamed to promax"));
    }

    #[test]
    fn only_labels_are_names() {
        assert!("enterprise-2".parse::<TierName>().is_ok());
        for text in ["", "Free", "-a", "a-", "a_b", &"a".repeat(64)] {
            assert_eq!(text.parse::<TierName>(), Err(TierNameError::NotALabel), "{text}");
        }
    }

    #[test]
    fn a_limit_reads_back() {
        for stored in [-1, 0, 1, 1000, i64::from(u32::MAX)] {
            assert_eq!(Limit::from_stored(stored).map(Limit::to_stored), Some(stored));
        }
        assert_eq!(Limit::from_stored(-2), None);
    }
}
