//! What can go wrong with Postgres, by what a caller can do about it. Texts of Postgres stay in the source: for the log,
//! never for a client.

use std::sync::Arc;

use sqlx::postgres::PgDatabaseError;

/// The operation whose failure leaves open what happened.
pub(super) const COMMIT: &str = "commit";

/// Why a statement did not do its work.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The tenant is not served by this engine (now), or the capability is not its own.
    #[error("the tenant is not served here")]
    NotServedHere,
    /// As many memories are stored as the tier allows.
    #[error("{used} of {limit} memories are used")]
    QuotaReached {
        /// Memories stored.
        used: i64,
        /// Memories allowed.
        limit: i64,
        /// The smallest tier that would do.
        next_tier: Option<String>,
    },
    /// The operation's name (Idempotency-Key or op_id) was used for something else.
    #[error("the name of the operation was used for something else")]
    KeyReused,
    /// The tenant has a memory of the id that was given for a new one.
    #[error("there is a memory of that id already")]
    IdTaken,
    /// Postgres cannot be reached, is too busy, or took too long.
    #[error("cannot {doing} just now")]
    Unavailable {
        /// The operation.
        doing: &'static str,
        /// What Postgres or the driver said.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// The tenant's memories need more index memory than one tenant may have.
    #[error("the index of the tenant would be larger than {limit} bytes")]
    IndexTooLarge {
        /// Bytes that it may have.
        limit: usize,
    },
    /// Too many operations of this tenant wait already.
    #[error("too many operations wait")]
    Overloaded,
    /// A fault of ours.
    #[error("failed to {doing}")]
    Failed {
        /// The operation.
        doing: &'static str,
        /// What Postgres or the driver said.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// A task ended without an answer.
    #[error("the task that had to {0} ended without an answer")]
    Lost(&'static str),
}

impl StoreError {
    /// For `map_err`: the error of an operation.
    pub(super) fn while_(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |error| Self::of(doing, error)
    }

    fn of(doing: &'static str, error: sqlx::Error) -> Self {
        match kind(&error) {
            Kind::Quota { used, limit } => Self::QuotaReached { used, limit, next_tier: None },
            Kind::Taken => Self::IdTaken,
            Kind::NotServed => {
                tracing::info!(doing, error = %error, "the tenant stopped being served here within a transaction");
                Self::NotServedHere
            }
            Kind::Transient => Self::Unavailable { doing, source: Arc::new(error) },
            Kind::Fault => Self::Failed { doing, source: Arc::new(error) },
        }
    }

    /// Whether the transaction may have been committed all the same: the answer to COMMIT was lost.
    pub fn is_undecided(&self) -> bool {
        matches!(self, Self::Unavailable { doing: COMMIT, .. } | Self::Failed { doing: COMMIT, .. })
    }

    /// Whether a pooled connection proved dead, so that another one is worth a try. Never after a wait for one.
    pub(super) fn is_dead_connection(&self) -> bool {
        let Self::Unavailable { source, .. } = self else { return false };
        match &**source {
            sqlx::Error::Io(_) | sqlx::Error::BeginFailed => true,
            sqlx::Error::Database(error) => {
                error.code().is_some_and(|code| matches!(&*code, "57P01" | "57P02" | "57P05" | "08006"))
            }
            _ => false,
        }
    }
}

enum Kind {
    Quota { used: i64, limit: i64 },
    Taken,
    NotServed,
    Transient,
    Fault,
}

fn kind(error: &sqlx::Error) -> Kind {
    let error = match error {
        sqlx::Error::Database(error) => error,
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => return Kind::Transient,
        _ => return Kind::Fault,
    };
    let Some(error) = error.try_downcast_ref::<PgDatabaseError>() else { return Kind::Fault };
    match error.code() {
        "SM403" => match error.detail().and_then(quota) {
            Some((used, limit)) => Kind::Quota { used, limit },
            None => Kind::Fault,
        },
        "23505" if error.table() == Some("memories") => Kind::Taken,
        // The tenant is being erased; or moved between two statements, so that its policies hide everything; or the
        // session's role was dropped, and means nobody.
        "SM410" | "42501" | "42704" | "23503" => Kind::NotServed,
        // Serialization, deadlock, lock timeout, statement timeout, shutdown, too many connections, login refused
        // (a role that was just switched off, a password that is just being rotated), read-only standby.
        code if ["40", "08", "53", "57", "28"].iter().any(|class| code.starts_with(class)) => Kind::Transient,
        "55P03" | "25006" | "25P03" => Kind::Transient,
        _ => Kind::Fault,
    }
}

fn quota(detail: &str) -> Option<(i64, i64)> {
    let detail: serde_json::Value = serde_json::from_str(detail).ok()?;
    Some((detail.get("used")?.as_i64()?, detail.get("limit")?.as_i64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detail_of_a_quota_error_is_read() {
        assert_eq!(quota(r#"{"used" : 30, "limit" : 30}"#), Some((30, 30)));
        assert_eq!(quota("rubbish"), None);
    }
}
