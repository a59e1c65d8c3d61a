//! Where Postgres is: read from a mounted file, which may appear late and may change (a rotated password).

use std::{path::Path, str::FromStr, time::Duration};

use login_pool::{NotAUrl, UrlFile};
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
/// Puts away what SQL of one tenant could leave in the session for the next, whichever way a request ended: settings (a
/// statement timeout of 1 ms, read-only transactions, commits that are not durable), notices on the way, cursors, named
/// statements, locks, and a transaction whose BEGIN nobody waited for. Plans stay, unlike with DISCARD ALL.
pub(super) const PUT_IN_ORDER: &str = "BEGIN; ROLLBACK; RESET ALL; CLOSE ALL; DEALLOCATE ALL; UNLISTEN *; \
    SELECT pg_catalog.pg_advisory_unlock_all()";
const POLL: Duration = Duration::from_secs(1);
const FOLLOW: Duration = Duration::from_secs(10);

/// How to reach Postgres. Holds passwords: no `Debug`.
#[derive(Clone)]
pub struct Database {
    url: String,
    options: PgConnectOptions,
    /// Where the URL is from, if from a file.
    file: Option<UrlFile>,
}

impl FromStr for Database {
    type Err = NotAUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let options = prepare(login_pool::parse(text)?);
        Ok(Self { url: text.trim().to_owned(), options, file: None })
    }
}

fn prepare(options: PgConnectOptions) -> PgConnectOptions {
    options
        .application_name("stellar-engine")
        // See the module `store`: no statement is named, so there is nothing to keep.
        .statement_cache_capacity(0)
        // Statements are static texts, but a debug log of each would drown everything else.
        .log_statements(tracing::log::LevelFilter::Trace)
}

impl Database {
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    pub(super) fn file(&self) -> Option<UrlFile> {
        self.file.clone()
    }

    /// The text, to derive from. A secret.
    pub(crate) fn expose(&self) -> &str {
        &self.url
    }

    /// The same server and database with another login.
    #[must_use]
    pub fn with_login(&self, role: &RoleName, password: &str) -> Self {
        let options = self.options.clone().username(role.as_str()).password(password);
        Self { url: self.url.clone(), options, file: None }
    }

    /// The same server with another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        Self { url: self.url.clone(), options: self.options.clone().database(name), file: None }
    }

    /// Waits until the file holds a database URL. Says once that it waits. `None`: cancelled meanwhile.
    pub async fn from_file(path: &Path, cancel: &CancellationToken) -> Option<Self> {
        let mut said = false;
        loop {
            let why = match tokio::fs::read_to_string(path).await {
                Ok(text) => match text.parse::<Self>() {
                    Ok(database) => {
                        return Some(Self { file: Some(UrlFile { path: path.to_owned(), prepare }), ..database });
                    }
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

/// Looks at the file of the database URL every 10 s, until cancelled: new connections use a changed one.
pub async fn follow_url(store: Store, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(FOLLOW) => {}
            () = cancel.cancelled() => return,
        }
        if store.look_for_url().await {
            tracing::info!("the database URL has changed: new connections use it");
        }
    }
}
