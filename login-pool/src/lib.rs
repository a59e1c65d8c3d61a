//! Connections to Postgres as a login whose password changes while programs run, without a failed request.
//!
//! Postgres knows one password of a role at a time. Whoever rotates it therefore first puts the URL with the next password
//! beside the present one (`url` and `url-next`), waits until every program can read both, then tells Postgres, then puts
//! the next one in the place of the present. An open connection survives all of this. A new one that is refused makes the
//! pool read both files again and try another login: who waits for the connection waits a little longer, no more. So does
//! one for which nobody answers, if another address is written by then.

mod known;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use sqlx::{
    PgPool, Postgres, Transaction,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use known::Known;

/// A login that was refused is followed by a try with one that stands beside it, and with one that was written meanwhile.
const OTHER_LOGINS: u32 = 3;

/// The text is no database URL. It is not repeated, for it may hold a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the database URL must look like postgres://user:password@host:port/database?sslmode=prefer")]
pub struct NotAUrl;

/// Reads a database URL.
///
/// # Errors
/// [`NotAUrl`]; the driver's own error may repeat the text.
pub fn parse(text: &str) -> Result<PgConnectOptions, NotAUrl> {
    let url = text.trim();
    if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
        return Err(NotAUrl);
    }
    PgConnectOptions::from_str(url).map_err(|_| NotAUrl)
}

/// The file that a login's URL is in, and what a program adds to it.
#[derive(Clone)]
pub struct UrlFile {
    /// The file. One beside it with `-next` at its name's end holds the URL of a password to come.
    pub path: PathBuf,
    /// What the program adds to what the URL says, such as its name.
    pub prepare: fn(PgConnectOptions) -> PgConnectOptions,
}

impl UrlFile {
    /// The logins that are written, the present one first. `None` while there is none.
    async fn read(&self) -> Option<Vec<PgConnectOptions>> {
        // The next one is read first: were the present one read before a rotation ends and the next one after, both would
        // be missing.
        let next = read(&self.next()).await;
        let present = read(&self.path).await?;
        Some([Some(present), next].into_iter().flatten().map(self.prepare).collect())
    }

    fn next(&self) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push("-next");
        self.path.with_file_name(name)
    }
}

async fn read(path: &Path) -> Option<PgConnectOptions> {
    match tokio::fs::read_to_string(path).await {
        Ok(text) => parse(&text).ok(),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "a database URL cannot be read");
            }
            None
        }
    }
}

/// A pool of connections. Clones share it.
#[derive(Clone)]
pub struct LoginPool {
    pool: PgPool,
    known: Arc<Known>,
    file: Option<UrlFile>,
}

impl fmt::Debug for LoginPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginPool").field("connections", &self.pool.size()).finish_non_exhaustive()
    }
}

impl LoginPool {
    /// A pool that connects when it is first used. Without a file its login stays as it is.
    pub fn new(options: PgPoolOptions, login: PgConnectOptions, file: Option<UrlFile>) -> Self {
        let known = Known::new(login.clone());
        Self { pool: options.connect_lazy_with(login), known: Arc::new(known), file }
    }

    /// A connection, by whichever login Postgres takes.
    ///
    /// # Errors
    /// As [`PgPool::acquire`]; a refused login only when no other one is written.
    pub async fn acquire(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        self.by_some_login(|| self.pool.acquire()).await
    }

    /// A transaction that this statement begins.
    ///
    /// # Errors
    /// As [`Self::acquire`], or when the statement fails.
    pub async fn begin_with(&self, statement: &'static str) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        self.by_some_login(|| self.pool.begin_with(statement)).await
    }

    /// The pool itself, as a listener needs it: an attempt of its own to connect knows one login only. A connection was
    /// there a moment ago.
    ///
    /// # Errors
    /// As [`Self::acquire`].
    pub async fn connected(&self) -> Result<&PgPool, sqlx::Error> {
        self.acquire().await.map(|_| &self.pool)
    }

    /// Looks at the files. New connections use what has changed there: true, if anything has.
    pub async fn look(&self) -> bool {
        let Some(logins) = self.written().await else { return false };
        let changed = self.known.replace(logins);
        if let Some(login) = changed.clone() {
            self.pool.set_connect_options(login);
        }
        changed.is_some()
    }

    /// The most connections that it may hold.
    pub fn max_connections(&self) -> u32 {
        self.pool.options().get_max_connections()
    }

    /// Connections: open ones, and how many of them are idle.
    pub fn connections(&self) -> (u32, usize) {
        (self.pool.size(), self.pool.num_idle())
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn by_some_login<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, sqlx::Error>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let mut others = OTHER_LOGINS;
        loop {
            let used = self.known.used();
            match attempt().await {
                Err(error) if is_refused_login(&error) && others > 0 => {
                    others -= 1;
                    if !self.leave(used).await {
                        return Err(error);
                    }
                }
                // Postgres may have moved, and its new address be written.
                Err(error) if is_unreachable(&error) && others > 0 => {
                    others -= 1;
                    // Another one that waited may have found it before.
                    if !self.look().await && self.known.used() == used {
                        return Err(error);
                    }
                }
                result => return result,
            }
        }
    }

    /// Takes another login than the one that was refused. False: there is none.
    async fn leave(&self, refused: u64) -> bool {
        let written = self.written().await;
        match self.known.leave(refused, written) {
            known::Left::For(login) => {
                tracing::info!("a login was refused; taking the other one that is written");
                self.pool.set_connect_options(*login);
                true
            }
            known::Left::Already => true,
            known::Left::Nothing => false,
        }
    }

    async fn written(&self) -> Option<Vec<PgConnectOptions>> {
        match &self.file {
            Some(file) => file.read().await,
            None => None,
        }
    }
}

/// SQLSTATE class 28: the password is another one, or the role may not log in. PgBouncer tells it as a violation of the
/// protocol, as it does everything else, so that there the words decide.
fn is_refused_login(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    let Some(code) = error.code() else { return false };
    code.starts_with("28") || (code == "08P01" && error.message().contains("authentication failed"))
}

fn is_unreachable(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut)
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, error::Error};

    use super::*;

    #[test]
    fn an_error_never_repeats_the_url() {
        for text in ["", "hunter2", "mysql://u:hunter2@h/db", "postgres://u:hunter2@h/db?sslmode=hunter2"] {
            let error = parse(text).expect_err("no URL of Postgres");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        assert!(parse("postgres://u:p@127.0.0.1:5432/stellar\n").is_ok());
    }

    /// What a server said: SQLSTATE and message.
    #[derive(Debug, thiserror::Error)]
    #[error("{1}")]
    struct Said(&'static str, &'static str);

    impl sqlx::error::DatabaseError for Said {
        fn message(&self) -> &str {
            self.1
        }
        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }
        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }
        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }
        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }
        fn kind(&self) -> sqlx::error::ErrorKind {
            sqlx::error::ErrorKind::Other
        }
    }

    #[test]
    fn a_refusal_is_known_from_postgres_and_from_pgbouncer() {
        let refused = |code, message| is_refused_login(&sqlx::Error::Database(Box::new(Said(code, message))));
        assert!(refused("28P01", "password authentication failed for user \"stellar_pool\""));
        assert!(refused("28000", "role \"stellar_pool\" is not permitted to log in"));
        assert!(refused("08P01", "SASL authentication failed"));
        assert!(!refused("08P01", "query_wait_timeout"));
        assert!(!refused("57P03", "the database system is starting up"));
    }

    #[tokio::test]
    async fn the_url_beside_it_is_found_and_comes_second() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pool-url");
        let file = UrlFile { path: path.clone(), prepare: |login| login.application_name("a-test") };
        assert!(file.read().await.is_none());
        let write = |name: &str, user: &str| {
            std::fs::write(folder.path().join(name), format!("postgres://{user}@127.0.0.1/x")).expect("writes");
        };
        let users = async || -> Option<Vec<String>> {
            let logins = file.read().await?;
            assert!(logins.iter().all(|login| login.get_application_name() == Some("a-test")));
            Some(logins.iter().map(|login| login.get_username().to_owned()).collect())
        };
        write("pool-url-next", "next");
        assert_eq!(users().await, None, "what comes next comes after something");
        write("pool-url", "present");
        assert_eq!(users().await, Some(vec!["present".to_owned(), "next".to_owned()]));
    }
}
