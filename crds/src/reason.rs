//! Why a condition is as it is. The set is closed, documented in the README, and stable: alerts select on it.

use std::fmt;

/// The reason of a condition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// Nothing has been done yet.
    Pending,
    /// Everything that was asked for is there and serves.
    Serving,
    /// As asked for, and requests are answered 403 because the Tenant is suspended.
    Suspended,
    /// What was asked for is being made.
    Provisioning,
    /// Requests move from one placement to the other; both serve.
    Moving,
    /// Nothing is left to do.
    Settled,
    /// The Tenant is being deleted.
    Deleting,
    /// The database identity and its limits are in place.
    Provisioned,
    /// Postgres does not answer, or refuses the operator's login.
    PostgresUnavailable,
    /// Postgres answered with an error.
    DatabaseError,
    /// `spec.userId` belongs to another Tenant.
    UserIdInUse,
    /// There is no Tier of the name in `spec.tier`.
    TierNotFound,
    /// The spec breaks a rule that the API server could not check.
    InvalidSpec,
    /// The tier's engine size cannot be used.
    InvalidTier,
    /// A namespace of the tenant's name exists and belongs to somebody else.
    NamespaceTaken,
    /// A Secret of the key's name exists and belongs to somebody else.
    SecretTaken,
    /// The shared engine serves this tenant.
    PooledEngine,
    /// The tenant's own engine serves it.
    EngineServing,
    /// The tenant's own engine is starting or rolling.
    EngineRolling,
    /// The tenant's own engine does not become ready in time.
    EngineNotReady,
    /// The API key in the Secret works.
    KeyInSecret,
    /// The API server refused or did not answer.
    KubernetesError,
}

impl Reason {
    /// All reasons, for documentation and tests.
    pub const ALL: [Self; 22] = [
        Self::Pending,
        Self::Serving,
        Self::Suspended,
        Self::Provisioning,
        Self::Moving,
        Self::Settled,
        Self::Deleting,
        Self::Provisioned,
        Self::PostgresUnavailable,
        Self::DatabaseError,
        Self::UserIdInUse,
        Self::TierNotFound,
        Self::InvalidSpec,
        Self::InvalidTier,
        Self::NamespaceTaken,
        Self::SecretTaken,
        Self::PooledEngine,
        Self::EngineServing,
        Self::EngineRolling,
        Self::EngineNotReady,
        Self::KeyInSecret,
        Self::KubernetesError,
    ];

    /// The word in the condition and on the event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Serving => "Serving",
            Self::Suspended => "Suspended",
            Self::Provisioning => "Provisioning",
            Self::Moving => "Moving",
            Self::Settled => "Settled",
            Self::Deleting => "Deleting",
            Self::Provisioned => "Provisioned",
            Self::PostgresUnavailable => "PostgresUnavailable",
            Self::DatabaseError => "DatabaseError",
            Self::UserIdInUse => "UserIdInUse",
            Self::TierNotFound => "TierNotFound",
            Self::InvalidSpec => "InvalidSpec",
            Self::InvalidTier => "InvalidTier",
            Self::NamespaceTaken => "NamespaceTaken",
            Self::SecretTaken => "SecretTaken",
            Self::PooledEngine => "PooledEngine",
            Self::EngineServing => "EngineServing",
            Self::EngineRolling => "EngineRolling",
            Self::EngineNotReady => "EngineNotReady",
            Self::KeyInSecret => "KeyInSecret",
            Self::KubernetesError => "KubernetesError",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConditionType;

    #[test]
    fn the_readme_tells_every_condition_and_every_reason() {
        let readme = include_str!("../../README.md");
        let said = |word: &str| readme.contains(&format!("`{word}`"));
        let reasons = Reason::ALL.iter().map(|reason| reason.as_str());
        let conditions = ConditionType::ALL.iter().map(|condition| condition.as_str());
        assert_eq!(reasons.chain(conditions).find(|word| !said(word)), None);
    }
}
