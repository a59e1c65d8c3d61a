//! Where Postgres is: read from a mounted file, which may appear late and may change (a rotated password).

use std::{path::PathBuf, str::FromStr, time::Duration};

use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};
use tenancy::RoleName;
use tokio_util::sync::CancellationToken;

use super::Store;

/// An idle connection closes after this: connections × engines × tenants must fit Postgres' max_connections.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// No connection gets older, so that a moved Postgres and a rotated password are noticed.
pub(super) const MAX_LIFETIME: Duration = Duration::from_mins(30);
/// How long a request waits for a connection.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that was idle for longer is tried before it is used.
pub(super) const TRUSTED_FOR: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_secs(1);
const FOLLOW: Duration = Duration::from_secs(10);

/// How to reach Postgres. Holds a password: no `Debug`.
#[derive(Clone)]
pub struct Database {
    url: String,
    options: PgConnectOptions,
}

/// The text is no database URL. It is not repeated, for it may hold a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the database URL must look like postgres://user:password@host:port/database?sslmode=prefer")]
pub struct DatabaseUrlError;

impl FromStr for Database {
    type Err = DatabaseUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = text.trim();
        let options = PgConnectOptions::from_str(url).map_err(|_| DatabaseUrlError)?;
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(DatabaseUrlError);
        }
        let options = options
            .application_name("stellar-engine")
            // See the module `store`: no statement is named, so there is nothing to keep.
            .statement_cache_capacity(0)
            // Statements are static texts, but a debug log of each would drown everything else.
            .log_statements(tracing::log::LevelFilter::Trace);
        Ok(Self { url: url.to_owned(), options })
    }
}

impl Database {
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// The text, to derive from. A secret.
    pub(crate) fn expose(&self) -> &str {
        &self.url
    }

    /// The same server and database with another login.
    #[must_use]
    pub fn with_login(&self, role: &RoleName, password: &str) -> Self {
        Self { url: self.url.clone(), options: self.options.clone().username(role.as_str()).password(password) }
    }

    /// The same server with another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        Self { url: self.url.clone(), options: self.options.clone().database(name) }
    }

    /// Waits until the file holds a database URL. Says once that it waits. `None`: cancelled meanwhile.
    pub async fn from_file(path: &PathBuf, cancel: &CancellationToken) -> Option<Self> {
        let mut said = false;
        loop {
            let why = match tokio::fs::read_to_string(path).await {
                Ok(text) => match text.parse() {
                    Ok(database) => return Some(database),
                    Err(error) => format!("{error}"),
                },
                Err(error) => error.to_string(),
            };
            if !said {
                tracing::warn!(path = %path.display(), why, "waiting for the database URL");
                said = true;
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = cancel.cancelled() => return None,
            }
        }
    }
}

/// Looks at the file every 10 s and gives a changed URL to the pool, until cancelled.
pub async fn follow_url(path: PathBuf, mut current: Database, store: Store, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(FOLLOW) => {}
            () = cancel.cancelled() => return,
        }
        let read = tokio::fs::read_to_string(&path).await.ok().and_then(|text| text.parse::<Database>().ok());
        if let Some(database) = read.filter(|database| database.url != current.url) {
            tracing::info!("the database URL has changed: new connections use it");
            store.set_database(&database);
            current = database;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_never_repeats_the_url() {
        let error = "mysql://u:hunter2@h/db".parse::<Database>().err().expect("refused");
        assert!(!error.to_string().contains("hunter2"));
        assert!("postgres://u:p@127.0.0.1:5432/stellar\n".parse::<Database>().is_ok());
    }
}
