//! What can go wrong with a Tenant. Each error knows three things apart: what a status says (`public`), what the
//! metric counts (`reason`), and whether waiting helps (`kind`).

use crds::{ConditionType, Reason};

use crate::{database::DatabaseError, postgres_url::PostgresUrlError};

/// Whether, and when, it is worth trying again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The Tenant or its Tier must change first, and is watched.
    Invalid,
    /// Something that is not watched must change first: look again once a minute.
    Blocked,
    /// It may work the next time: back off and try again.
    Transient,
}

/// Why a Tenant is not what its spec says.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Postgres.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The API server.
    #[error("{operation} {object}")]
    Kubernetes {
        /// What was being done.
        operation: &'static str,
        /// To which object.
        object: String,
        /// Its answer.
        source: Box<kube::Error>,
    },
    /// The spec names no Tier that there is.
    #[error("there is no Tier `{tier}`")]
    TierNotFound {
        /// What the spec says.
        tier: String,
        /// What there is.
        available: Vec<String>,
        /// Whether the tenant goes on with the limits that it had.
        served: bool,
    },
    /// The spec breaks a rule.
    #[error("the spec is invalid: {0}")]
    InvalidSpec(String),
    /// The tier breaks a rule.
    #[error("the tier is invalid: {0}")]
    InvalidTier(String),
    /// The namespace is somebody else's.
    #[error("namespace {0} belongs to somebody else")]
    NamespaceTaken(String),
    /// The Secret is somebody else's.
    #[error("Secret {0} belongs to somebody else")]
    SecretTaken(String),
    /// The engine's URL cannot be made.
    #[error("the database address of dedicated engines")]
    DatabaseAddress(#[source] PostgresUrlError),
    /// A reconciliation took too long.
    #[error("gave up after {0} s")]
    TimedOut(u64),
}

impl Error {
    /// The stable word for conditions, events and metrics.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Database(DatabaseError::Unavailable { .. }) => Reason::PostgresUnavailable,
            Self::Database(DatabaseError::UserIdInUse) => Reason::UserIdInUse,
            Self::Database(DatabaseError::Refused { .. }) => Reason::DatabaseError,
            Self::Kubernetes { .. } | Self::TimedOut(_) => Reason::KubernetesError,
            Self::TierNotFound { .. } => Reason::TierNotFound,
            Self::InvalidSpec(_) => Reason::InvalidSpec,
            Self::InvalidTier(_) | Self::DatabaseAddress(_) => Reason::InvalidTier,
            Self::NamespaceTaken(_) => Reason::NamespaceTaken,
            Self::SecretTaken(_) => Reason::SecretTaken,
        }
    }

    /// Whether waiting helps.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TierNotFound { .. } | Self::InvalidSpec(_) | Self::InvalidTier(_) => ErrorKind::Invalid,
            Self::Database(DatabaseError::UserIdInUse)
            | Self::NamespaceTaken(_)
            | Self::SecretTaken(_)
            | Self::DatabaseAddress(_) => ErrorKind::Blocked,
            Self::Database(_) | Self::Kubernetes { .. } | Self::TimedOut(_) => ErrorKind::Transient,
        }
    }

    /// The condition that turns False. `None`: the error says nothing about any part, so none may flap.
    pub fn condition(&self) -> Option<ConditionType> {
        match self {
            Self::Database(_) => Some(ConditionType::DatabaseReady),
            Self::NamespaceTaken(_) | Self::DatabaseAddress(_) => Some(ConditionType::EngineReady),
            Self::SecretTaken(_) => Some(ConditionType::KeyReady),
            Self::Kubernetes { .. }
            | Self::TierNotFound { .. }
            | Self::InvalidSpec(_)
            | Self::InvalidTier(_)
            | Self::TimedOut(_) => None,
        }
    }

    /// Whether the Tenant is no longer Ready. A call to the API server that will be repeated changes nothing for
    /// whom it serves; a refusal (403, 422) does not go away by itself and must be seen.
    pub fn unreadies(&self) -> bool {
        match self {
            Self::Kubernetes { source, .. } => {
                matches!(&**source, kube::Error::Api(answer) if matches!(answer.code, 400 | 403 | 422))
            }
            Self::TimedOut(_) => false,
            _ => true,
        }
    }

    /// What a status may say. Never a secret.
    pub fn public(&self) -> String {
        match self {
            Self::Database(error) => error.public(),
            Self::Kubernetes { operation, object, source } => match &**source {
                kube::Error::Api(answer) => {
                    format!("the API server refused to {operation} {object}: {} ({})", answer.message, answer.code)
                }
                _ => format!("the API server did not {operation} {object}; trying again"),
            },
            Self::TierNotFound { tier, available, served } => {
                let available = if available.is_empty() {
                    "there is none".to_owned()
                } else {
                    format!("there is {}", available.join(", "))
                };
                let served = if *served { "; the tenant stays served with the limits it had" } else { "" };
                format!("there is no Tier `{tier}` ({available}){served}")
            }
            Self::InvalidSpec(why) => format!("the spec is invalid: {why}"),
            Self::InvalidTier(why) => format!("the tier is invalid: {why}"),
            Self::NamespaceTaken(name) => {
                format!("namespace {name} exists and was not made for this Tenant; delete or rename it, or this Tenant")
            }
            Self::SecretTaken(name) => format!("Secret {name} exists and was not made for this Tenant; delete it"),
            Self::DatabaseAddress(_) => "the operator's flags give no usable database address for engines".to_owned(),
            Self::TimedOut(seconds) => format!("a step took longer than {seconds} s; trying again"),
        }
    }

    /// Whether the API server says that the object is not there.
    pub fn is_not_found(&self) -> bool {
        self.api_code() == Some(404)
    }

    /// The API server's status code, if it answered.
    pub fn api_code(&self) -> Option<u16> {
        match self {
            Self::Kubernetes { source, .. } => match &**source {
                kube::Error::Api(answer) => Some(answer.code),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Names the operation and the object of a failed call.
pub fn kubernetes(operation: &'static str, object: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let object = object.into();
    move |source| Error::Kubernetes { operation, object, source: Box::new(source) }
}
