//! A real Postgres, made for one test process.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::sync::OnceCell;

use crate::{
    Workdir, eventually_within, free_port,
    unprivileged::{give_to_nobody, is_root, unprivileged},
};

const PASSWORD: &str = "admin-of-a-test";
/// The folder of a server's data in its workdir.
const DATA: &str = "postgres";

/// A running server on 127.0.0.1 with password authentication, an administrator that is no superuser, and the
/// database `stellar` that it owns.
pub struct Postgres {
    workdir: Workdir,
    binaries: PathBuf,
    child: Option<Child>,
    /// The port on 127.0.0.1.
    pub port: u16,
}

/// The folder with the server's programs: of `POSTGRES_BIN` if set, else Debian's, newest first.
///
/// # Errors
/// When there is no server on this machine.
pub fn find_postgres() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("POSTGRES_BIN") {
        return Ok(folder.into());
    }
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").exists())
        .collect();
    found.sort();
    found
        .pop()
        .context("no Postgres server found: install the package postgresql, or set POSTGRES_BIN to its bin folder")
}

impl Postgres {
    /// Makes and starts a server.
    ///
    /// # Errors
    /// When there are no binaries or a step of the set-up fails.
    pub async fn start(workdir: &Workdir) -> Result<Self> {
        let template = TEMPLATE.get_or_try_init(Template::make).await?;
        copy(&template.workdir.path().join(DATA), &workdir.path().join(DATA))?;
        Self::of(workdir, &template.binaries).await
    }

    /// Starts a server on the data that is in the folder.
    async fn of(workdir: &Workdir, binaries: &Path) -> Result<Self> {
        let mut postgres =
            Self { workdir: workdir.clone(), binaries: binaries.to_owned(), child: None, port: free_port()? };
        postgres.start_again().await?;
        Ok(postgres)
    }

    /// The folder with the server's programs, within reach of the unprivileged user.
    pub fn binaries(&self) -> &Path {
        &self.binaries
    }

    /// The id of the server's first process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The URL of the administrator, which owns the database and has CREATEROLE.
    pub fn admin_url(&self) -> String {
        format!("postgres://admin:{PASSWORD}@127.0.0.1:{}/stellar", self.port)
    }

    /// The URL of the superuser.
    pub fn superuser_url(&self) -> String {
        format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/stellar", self.port)
    }

    /// A connection as the superuser, which sees what row-level security hides.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn superuser(&self, database: &str) -> Result<PgConnection> {
        self.options("postgres", PASSWORD, database).connect().await.context("connect as the superuser")
    }

    /// Options for a connection as any login.
    pub fn options(&self, user: &str, password: &str, database: &str) -> PgConnectOptions {
        PgConnectOptions::new().host("127.0.0.1").port(self.port).username(user).password(password).database(database)
    }

    /// Starts the server (again) and returns once it answers.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start_again(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.workdir.path().join("postgres.log"))?;
        let child = unprivileged(&self.binaries.join("postgres"))
            .arg("-D")
            .arg(self.workdir.path().join(DATA))
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories=", "-c", "max_connections=200"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start postgres")?;
        self.workdir.adopt(&child, "INT")?;
        self.child = Some(child);
        eventually_within(Duration::from_secs(30), "Postgres answers", || async {
            let connection = self.options("postgres", PASSWORD, "postgres").connect().await.ok()?;
            connection.close().await.ok()
        })
        .await;
        Ok(())
    }

    /// Stops the server as a crash would (SIGQUIT: immediate, recovery at the next start).
    ///
    /// # Errors
    /// When the server was not running.
    pub fn stop(&mut self) -> Result<()> {
        self.end("QUIT")
    }

    fn end(&mut self, signal: &str) -> Result<()> {
        let mut child = self.child.take().context("Postgres is not running")?;
        Command::new("kill").args(["-s", signal, &child.id().to_string()]).status()?;
        child.wait()?;
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.child.is_some() {
            // The janitor ends what cannot be ended here.
            let _ = self.stop();
        }
    }
}

/// What every server of this test process begins as. To copy it takes a tenth of the time of making it anew.
struct Template {
    workdir: Workdir,
    binaries: PathBuf,
}

static TEMPLATE: OnceCell<Template> = OnceCell::const_new();

impl Template {
    async fn make() -> Result<Self> {
        let workdir = Workdir::new()?;
        let binaries = reachable(find_postgres()?, &workdir)?;
        let data = workdir.path().join(DATA);
        fs::create_dir(&data)?;
        let password_file = workdir.path().join("superuser");
        fs::write(&password_file, PASSWORD)?;
        // Postgres refuses to run as root.
        give_to_nobody(&data)?;
        let output = unprivileged(&binaries.join("initdb"))
            .args(["--username=postgres", "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"])
            .arg(format!("--pwfile={}", password_file.display()))
            .arg("--pgdata")
            .arg(&data)
            .output()
            .context("run initdb")?;
        if !output.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        // Not on the command line, which ALTER SYSTEM cannot change.
        let mut configuration = File::options().append(true).open(data.join("postgresql.conf"))?;
        writeln!(configuration, "fsync = off")?;
        let mut postgres = Postgres::of(&workdir, &binaries).await?;
        let mut superuser = postgres.superuser("postgres").await?;
        for statement in
            ["CREATE ROLE admin LOGIN CREATEROLE PASSWORD 'admin-of-a-test'", "CREATE DATABASE stellar OWNER admin"]
        {
            sqlx::query(statement).execute(&mut superuser).await.context("make the administrator and its database")?;
        }
        superuser.close().await?;
        // In order: nothing is left to recover.
        postgres.end("INT")?;
        Ok(Self { workdir, binaries })
    }
}

/// Binaries in root's home are out of reach for the unprivileged user: then a copy serves.
fn reachable(binaries: PathBuf, workdir: &Workdir) -> Result<PathBuf> {
    if !is_root() || binaries.starts_with("/usr") {
        return Ok(binaries);
    }
    let reachable = workdir.path().join("postgres-binaries");
    copy(&binaries.join(".."), &reachable)?;
    Ok(reachable.join("bin"))
}

/// Copies a folder, owners and modes included.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().context("run cp")?;
    if !copied.success() {
        bail!("cannot copy {} to {}", from.display(), to.display());
    }
    Ok(())
}
