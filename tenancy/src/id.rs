//! The identity of a tenant.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The identity of a tenant: the primary key of `stellar.users`. Never the nil UUID.
///
/// It is `spec.userId` of the `Tenant` if given, else the object's UID. It is not a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(Uuid);

/// The tenant that owns everything when authentication is off (local mode), and that adopts rows without an owner.
pub const LOCAL_TENANT: TenantId = TenantId(Uuid::from_u128(0x5eed_0000_0000_4000_8000_0000_0000_0001));

/// Why a text is not a tenant's identity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TenantIdError {
    /// Not the 36 character form of a UUID.
    #[error("a tenant id is a UUID such as 6f1d4b0e-8a52-4e0c-9d54-0b6a2f6f9f11")]
    NotAUuid,
    /// The nil UUID names nobody.
    #[error("the nil UUID cannot be a tenant id")]
    Nil,
}

impl TenantId {
    /// Takes a UUID as an identity.
    ///
    /// # Errors
    /// [`TenantIdError::Nil`] for the nil UUID.
    pub fn new(uuid: Uuid) -> Result<Self, TenantIdError> {
        if uuid.is_nil() { Err(TenantIdError::Nil) } else { Ok(Self(uuid)) }
    }

    /// The UUID, for a database parameter.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl FromStr for TenantId {
    type Err = TenantIdError;

    /// Only the hyphenated form counts: one identity has one spelling.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 36 {
            return Err(TenantIdError::NotAUuid);
        }
        Self::new(Uuid::try_parse(text).map_err(|_| TenantIdError::NotAUuid)?)
    }
}

impl TryFrom<String> for TenantId {
    type Error = TenantIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TenantId> for String {
    fn from(id: TenantId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_identity_has_one_spelling() {
        let text = "6f1d4b0e-8a52-4e0c-9d54-0b6a2f6f9f11";
        assert_eq!(text.parse::<TenantId>().map(|id| id.to_string()), Ok(text.to_owned()));
        for other in ["", "6f1d4b0e8a524e0c9d540b6a2f6f9f11", "{6f1d4b0e-8a52-4e0c-9d54-0b6a2f6f9f11}", "acme"] {
            assert_eq!(other.parse::<TenantId>(), Err(TenantIdError::NotAUuid), "{other}");
        }
    }

    #[test]
    fn nil_names_nobody() {
        assert_eq!("00000000-0000-0000-0000-000000000000".parse::<TenantId>(), Err(TenantIdError::Nil));
    }
}
