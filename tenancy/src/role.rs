//! The name of a tenant's Postgres role.

use std::{fmt, str::FromStr};

use crate::TenantId;

/// `t_` and the 32 hex digits of the tenant's id: short enough that Postgres never truncates it to another's.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RoleName(String);

/// The text is not the name of a tenant's role.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a tenant's role is `t_` followed by 32 lower-case hex digits")]
pub struct RoleNameError;

impl RoleName {
    /// The role of a tenant.
    pub fn of(tenant: TenantId) -> Self {
        Self(format!("t_{}", tenant.uuid().simple()))
    }

    /// The name, as Postgres has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RoleName {
    type Err = RoleNameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("t_").ok_or(RoleNameError)?;
        let well_formed =
            digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if well_formed { Ok(Self(text.to_owned())) } else { Err(RoleNameError) }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
