//! All SQL of the operator. What writes is a function of the migrations, run with their owner's rights: the
//! operator's own login can read control tables and nothing else. Those functions write only what differs.

mod control;
mod observe;
mod roles;

use std::{borrow::Cow, path::Path, time::Duration};

use login_pool::{LoginPool, UrlFile};
use sqlx::{
    Postgres,
    pool::PoolConnection,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
    query::{Query, QueryScalar},
};

use crate::postgres_url::{PostgresUrl, PostgresUrlError};

pub(crate) use control::TIER_APPLY;
pub use control::TenantLimits;
pub use observe::{Swept, TenantRow, TierRow, Usage};

const APPLICATION: &str = "stellar-operator";
const CONNECTIONS: u32 = 8;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
const SQLSTATE_USER_ID_IN_USE: &str = "SM409";

/// The operator's connection to Postgres.
#[derive(Clone)]
pub struct Database {
    pool: LoginPool,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Nobody answers, or the login is refused.
    #[error("{operation}: Postgres is unavailable")]
    Unavailable {
        /// What was being done.
        operation: &'static str,
        /// The driver's reason.
        source: sqlx::Error,
    },
    /// The identity belongs to another Tenant.
    #[error("the user id belongs to another tenant")]
    UserIdInUse,
    /// Postgres answered with an error.
    #[error("{operation}: Postgres refused ({code})")]
    Refused {
        /// What was being done.
        operation: &'static str,
        /// The SQLSTATE, or a word of the driver.
        code: String,
        /// The driver's reason.
        source: sqlx::Error,
    },
}

impl DatabaseError {
    fn from_sqlx(operation: &'static str, source: sqlx::Error) -> Self {
        let code = source.as_database_error().and_then(sqlx::error::DatabaseError::code).map(Cow::into_owned);
        match code {
            Some(code) if code == SQLSTATE_USER_ID_IN_USE => Self::UserIdInUse,
            // Connection exceptions, refused logins, missing database, no resources, shutdown.
            Some(code) if ["08", "28", "3D", "53", "57P"].iter().any(|class| code.starts_with(class)) => {
                Self::Unavailable { operation, source }
            }
            Some(code) => Self::Refused { operation, code, source },
            None => match source {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => Self::Unavailable { operation, source },
                other => Self::Refused { operation, code: "driver".to_owned(), source: other },
            },
        }
    }

    /// What a status may say about it. Never a secret, never a tenant's data.
    pub fn public(&self) -> String {
        match self {
            Self::UserIdInUse => "userId belongs to another Tenant".to_owned(),
            Self::Unavailable { .. } => "Postgres does not answer; trying again".to_owned(),
            Self::Refused { operation, code, .. } => {
                format!("Postgres refused to {operation} (SQLSTATE {code}); trying again")
            }
        }
    }
}

impl Database {
    /// A pool that connects when it is first used. `file`: where the URL is from, and where one with another password
    /// appears when that is rotated.
    ///
    /// # Errors
    /// [`PostgresUrlError`] if the URL has a parameter that the driver does not know.
    pub fn new(url: &PostgresUrl, file: Option<&Path>) -> Result<Self, PostgresUrlError> {
        let login = prepare(url.connect_options(APPLICATION)?);
        let options = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(Duration::from_mins(1));
        let file = file.map(|path| UrlFile { path: path.to_owned(), prepare });
        Ok(Self { pool: LoginPool::new(options, login, file) })
    }

    /// The pool, to listen with.
    pub fn pool(&self) -> &LoginPool {
        &self.pool
    }

    async fn connection(&self, operation: &'static str) -> Result<PoolConnection<Postgres>, DatabaseError> {
        self.pool.acquire().await.map_err(named(operation))
    }

    async fn execute(
        &self,
        operation: &'static str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<(), DatabaseError> {
        let mut connection = self.connection(operation).await?;
        query.execute(&mut *connection).await.map(drop).map_err(named(operation))
    }

    async fn scalar<T>(
        &self,
        operation: &'static str,
        query: QueryScalar<'_, Postgres, T, PgArguments>,
    ) -> Result<T, DatabaseError>
    where
        T: Send + Unpin,
        (T,): for<'r> sqlx::FromRow<'r, PgRow>,
    {
        let mut connection = self.connection(operation).await?;
        query.fetch_one(&mut *connection).await.map_err(named(operation))
    }
}

fn prepare(login: PgConnectOptions) -> PgConnectOptions {
    login.application_name(APPLICATION).options([
        ("statement_timeout", "30s"),
        ("lock_timeout", "10s"),
        ("search_path", "pg_catalog"),
    ])
}

/// Names the operation of a failure.
fn named(operation: &'static str) -> impl FnOnce(sqlx::Error) -> DatabaseError {
    move |source| DatabaseError::from_sqlx(operation, source)
}
