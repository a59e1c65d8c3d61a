//! A program of the product, run as a process.

use std::{
    fmt::from_fn,
    fs::File,
    io::ErrorKind,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    Workdir, eventually_within, free_port,
    unprivileged::{give_to_nobody, unprivileged},
};

/// A running `gateway` or `engine`, with its health port. Killed when dropped.
pub struct Program {
    name: &'static str,
    command: Command,
    workdir: Workdir,
    child: Child,
    log: PathBuf,
    /// Where its API listens: 127.0.0.1 and this port.
    pub port: u16,
    /// Where its health and metrics are: 127.0.0.1 and this port.
    pub health_port: u16,
}

/// The path of a program of the product, built beside the one that asks.
///
/// # Errors
/// When it is not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("a program is in a folder")?;
    // Tests are in `target/debug/deps`, programs in `target/debug`.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = folder.join(name);
    if !path.exists() {
        bail!("{} is missing: run `cargo build --workspace --bins` first", path.display());
    }
    Ok(path)
}

impl Program {
    /// Starts a program and returns once its `/readyz` answers 200.
    ///
    /// # Errors
    /// When it is not built or cannot be started.
    ///
    /// # Panics
    /// When it is not ready within 30 s; the end of its log is in the message.
    pub async fn start(workdir: &Workdir, name: &'static str, args: &[String]) -> Result<Self> {
        Self::start_in(workdir, name, args, &[]).await
    }

    /// The same, with further variables in its environment.
    ///
    /// # Errors
    /// As [`Self::start`].
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_in(
        workdir: &Workdir,
        name: &'static str,
        args: &[String],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let program = Self::launch_in(workdir, name, args, environment)?;
        program.ready().await;
        Ok(program)
    }

    /// Starts a program without waiting for it.
    ///
    /// # Errors
    /// When it is not built or cannot be started.
    pub fn launch(workdir: &Workdir, name: &'static str, args: &[String]) -> Result<Self> {
        Self::launch_in(workdir, name, args, &[])
    }

    /// Starts a program as the user who runs the test or, if that is root, as `nobody`, with a home of its own, and
    /// returns once its `/readyz` answers 200.
    ///
    /// # Errors
    /// As [`Self::start`].
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_unprivileged(workdir: &Workdir, name: &'static str, args: &[String]) -> Result<Self> {
        // A copy: cargo's own folder may be closed to that user.
        let (copy, home) = (workdir.path().join(name), workdir.path().join("home"));
        if !copy.exists() {
            std::fs::copy(workdir.binary(name)?, &copy).context("copy a program for the unprivileged user")?;
            std::fs::create_dir(&home)?;
            give_to_nobody(&home)?;
        }
        let mut command = unprivileged(&copy);
        command.env("HOME", &home).env_remove("XDG_DATA_HOME");
        let program = Self::launch_command(command, workdir, name, args, &[])?;
        program.ready().await;
        Ok(program)
    }

    fn launch_in(workdir: &Workdir, name: &'static str, args: &[String], environment: &[(&str, &str)]) -> Result<Self> {
        Self::launch_command(Command::new(workdir.binary(name)?), workdir, name, args, environment)
    }

    fn launch_command(
        mut command: Command,
        workdir: &Workdir,
        name: &'static str,
        args: &[String],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let (port, health_port) = (free_port()?, free_port()?);
        let log = workdir.path().join(format!("{name}-{port}.log"));
        command
            .args(args)
            .args(["--listen", &format!("127.0.0.1:{port}"), "--health-listen", &format!("127.0.0.1:{health_port}")])
            .envs(environment.iter().copied())
            .stdin(Stdio::null());
        let child = spawn(&mut command, workdir, &log)?;
        Ok(Self { name, command, workdir: workdir.clone(), child, log, port, health_port })
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Panics
    /// When it does not within 30 s.
    pub async fn ready(&self) {
        let url = format!("http://127.0.0.1:{}/readyz", self.health_port);
        let what = from_fn(|f| write!(f, "{} is ready; its log ends:\n{}", self.name, self.log_tail()));
        eventually_within(Duration::from_secs(30), what, || async {
            reqwest::get(&url).await.ok().filter(|answer| answer.status().is_success()).map(drop)
        })
        .await;
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks the process to end (SIGTERM), as Kubernetes does.
    ///
    /// # Errors
    /// When `kill` cannot be run.
    pub fn terminate(&self) -> Result<()> {
        Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status()?;
        Ok(())
    }

    /// Whether the process has ended by itself, and its exit status.
    pub fn exited(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Starts it again on the same ports, without waiting for readiness.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.child = spawn(&mut self.command, &self.workdir, &self.log)?;
        Ok(())
    }

    /// Its whole log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its metrics page.
    ///
    /// # Errors
    /// When the page cannot be read.
    pub async fn metrics(&self) -> Result<String> {
        Ok(reqwest::get(format!("http://127.0.0.1:{}/metrics", self.health_port)).await?.text().await?)
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

fn spawn(command: &mut Command, workdir: &Workdir, log: &PathBuf) -> Result<Child> {
    let file = File::options().create(true).append(true).open(log)?;
    command.stdout(file.try_clone()?).stderr(file);
    let child = start(command).context("start a program")?;
    workdir.adopt(&child, "TERM")?;
    Ok(child)
}

/// A program that was just copied counts as open for writing while another thread's child, forked meanwhile, has not yet
/// become its own program.
fn start(command: &mut Command) -> std::io::Result<Child> {
    let mut attempts = 100;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && attempts > 0 => {
                attempts -= 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            started => return started,
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
