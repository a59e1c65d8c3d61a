//! A folder and the processes that live in it, both gone when the test process is.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, ensure};

use crate::binary;

/// A folder under the system's temporary one, readable for the unprivileged user that runs Postgres.
#[derive(Clone)]
pub struct Workdir(Arc<Inner>);

struct Inner {
    path: PathBuf,
    /// The folder of the product's programs; beside the running one if `None`.
    programs: Option<PathBuf>,
    /// Its standard input is a pipe that only this process holds: end of file means that this process is gone.
    janitor: Mutex<Child>,
}

/// A number alone may be another process' by then: numbers are given again, so the time of its start goes with it.
const JANITOR: &str = r#"
cat >/dev/null
ours() { [ "$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -d ' ' -f 20)" = "$start" ]; }
if [ -f "$1/pids" ]; then
    while read -r signal pid start; do ours && kill -s "$signal" "$pid" 2>/dev/null; done <"$1/pids"
    tries=0
    while read -r signal pid start; do
        while ours && [ "$tries" -lt 100 ]; do tries=$((tries + 1)); sleep 0.1; done
        ours && kill -s KILL "$pid" 2>/dev/null
    done <"$1/pids"
fi
rm -rf "$1"
"#;

impl Workdir {
    /// Makes the folder and its janitor.
    ///
    /// # Errors
    /// When the temporary folder cannot be written or `sh` is missing.
    pub fn new() -> Result<Self> {
        Self::make(None)
    }

    /// The same, for programs of another build.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_programs(folder: &Path) -> Result<Self> {
        Self::make(Some(folder.to_owned()))
    }

    fn make(programs: Option<PathBuf>) -> Result<Self> {
        let path =
            tempfile::Builder::new().prefix("stellar-test-").tempdir().context("make a temporary folder")?.keep();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .context("open the temporary folder to Postgres")?;
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the janitor")?;
        Ok(Self(Arc::new(Inner { path, programs, janitor: Mutex::new(janitor) })))
    }

    /// The path of a program of the product.
    ///
    /// # Errors
    /// When it is not built.
    pub fn binary(&self, name: &str) -> Result<PathBuf> {
        let Some(folder) = &self.0.programs else { return binary(name) };
        let path = folder.join(name);
        ensure!(path.exists(), "{} is missing", path.display());
        Ok(path)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Puts a process into the janitor's care, to be ended with `signal` (a name as `kill -s` takes it).
    ///
    /// # Errors
    /// When the process is gone, or the list in the folder cannot be written.
    pub fn adopt(&self, child: &Child, signal: &str) -> Result<()> {
        let stat = stat(child.id()).context("find the process")?;
        let start = stat.get(19).context("read when the process began")?;
        let mut pids = OpenOptions::new().create(true).append(true).open(self.0.path.join("pids"))?;
        writeln!(pids, "{signal} {} {start}", child.id()).context("note a process for the janitor")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Ok(mut janitor) = self.janitor.lock() else { return };
        drop(janitor.stdin.take());
        // An error here means that the janitor is gone already.
        let _ = janitor.wait();
    }
}

/// What proc(5) tells of a process after its name, which may hold blanks itself: state, parent, …
///
/// # Errors
/// When the process is gone.
pub fn stat(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(") ").context("stat has a name in brackets")?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

/// Below the ports that Linux gives to outgoing connections (32768 and up) and those of Kubernetes (30000 and up): a
/// port of theirs could be taken between the moment it is found and the moment a program listens.
const PORTS: Range<u32> = 10_000..30_000;

/// A port of 127.0.0.1 on which nobody listens, and which this process is not told again for a long time.
///
/// # Errors
/// When the machine has none left.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Two processes that look at one time begin far from each other.
    let first = std::process::id().wrapping_mul(7919);
    PORTS
        .map(|_| first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start) + PORTS.start)
        .filter_map(|port| u16::try_from(port).ok())
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("find a free port")
}
