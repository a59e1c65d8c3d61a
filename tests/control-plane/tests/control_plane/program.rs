//! `operator run` as a process outside the cluster.

use std::{
    fmt::{Display, from_fn},
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use harness::{Collector, Workdir, binary, eventually, free_port};

/// What it is started with.
#[derive(Clone)]
pub struct Start {
    pub workdir: Workdir,
    pub kubeconfig: PathBuf,
    pub url_file: PathBuf,
    pub key_file: PathBuf,
    pub drain_seconds: u32,
    /// The name of its pod, as which it holds the Lease.
    pub pod: &'static str,
    /// What is logged, if not as usual.
    pub log_filter: Option<&'static str>,
    /// Where its traces go, if anywhere.
    pub traces: Option<Collector>,
}

/// A running operator; killed when dropped.
pub struct Operator {
    child: Arc<Mutex<Child>>,
    log: PathBuf,
    health: u16,
}

/// Kills an operator (SIGKILL), from wherever.
#[derive(Clone)]
pub struct Trigger(Arc<Mutex<Child>>);

impl Trigger {
    pub fn pull(&self) {
        let mut child = self.0.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Operator {
    pub fn start(with: &Start) -> Self {
        let health = free_port().unwrap();
        let log = with.workdir.path().join(format!("operator-{health}.log"));
        let file = File::create(&log).unwrap();
        let text = |path: &Path| path.display().to_string();
        let child = Command::new(binary("operator").unwrap())
            .env_remove("RUST_LOG")
            .envs(with.log_filter.map(|filter| ("RUST_LOG", filter)))
            .envs(with.traces.iter().flat_map(Collector::environment))
            .args(["run", "--namespace", "stellar-system", "--service-account", "stellar-memory-operator"])
            .args(["--engine-image", "engine:test", "--drain-seconds", &with.drain_seconds.to_string()])
            .args(["--database-url-file", &text(&with.url_file), "--master-key-file", &text(&with.key_file)])
            .args(["--health-listen", &format!("127.0.0.1:{health}")])
            .env("KUBECONFIG", &with.kubeconfig)
            .env("POD_NAME", with.pod)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        with.workdir.adopt(&child, "TERM").unwrap();
        Self { child: Arc::new(Mutex::new(child)), log, health }
    }

    pub fn trigger(&self) -> Trigger {
        Trigger(self.child.clone())
    }

    pub fn has_ended(&self) -> bool {
        self.child.lock().unwrap().try_wait().unwrap().is_some()
    }

    /// As Kubernetes ends a pod; returns once it has ended, and how.
    pub async fn terminate(self) -> bool {
        let pid = self.child.lock().unwrap().id();
        Command::new("kill").args(["-s", "TERM", &pid.to_string()]).status().unwrap();
        self.ends().await
    }

    /// Returns once it has ended by itself, and whether with code 0.
    pub async fn ends(&self) -> bool {
        eventually("the operator ends", || async {
            self.child.lock().unwrap().try_wait().unwrap().map(|status| status.success())
        })
        .await
    }

    /// Its whole log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its metrics page, once it answers.
    pub async fn metrics(&self) -> Option<String> {
        reqwest::get(format!("http://127.0.0.1:{}/metrics", self.health)).await.ok()?.text().await.ok()
    }

    /// What is waited for, with the end of its log when it does not come.
    pub fn brings(&self, what: &str) -> impl Display {
        from_fn(move |f| write!(f, "{what}; the operator's log ends:\n{}", self.log_tail()))
    }

    /// The end of its log, for a message.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().rev().take(25).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        // Both fail only when the process is gone already.
        let _ = child.kill();
        let _ = child.wait();
    }
}
