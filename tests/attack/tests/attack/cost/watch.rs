//! What a program takes: its memory, and its metrics.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Between two looks at the memory of programs.
const LOOK: Duration = Duration::from_millis(20);

/// MiB that a connection may take of a program that serves it.
const CONNECTION: f64 = 0.25;

/// Memory of a program in MiB: at rest, and the most meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub rest: f64,
    pub peak: f64,
}

impl Held {
    pub fn grown(self) -> f64 {
        (self.peak - self.rest).max(0.0)
    }

    /// Says so if the program grew by as much as `most` MiB.
    pub fn over(self, program: &str, most: f64) -> Option<String> {
        let grown = self.grown();
        (grown >= most).then(|| format!("the {program} grew by {grown:.1} MiB, not by less than {most:.1}"))
    }

    /// Says so if the program grew by more than what so many connections may take.
    pub fn over_connections(self, program: &str, connections: usize) -> Option<String> {
        self.over(program, 1.5 * self.rest + connections as f64 * CONNECTION)
    }
}

/// Resident memory of a process in MiB; nothing if it has ended.
pub fn resident(pid: u32) -> f64 {
    harness::resident(pid).unwrap_or(0.0) / 1024.0
}

/// The most that each of these processes takes until told to stop. They are asked for at each look: a program may begin again.
pub async fn peaks<const N: usize>(pids: impl Fn() -> [u32; N], stop: &AtomicBool) -> [f64; N] {
    let mut peaks = [0.0_f64; N];
    loop {
        let last = stop.load(Ordering::Relaxed);
        for (peak, pid) in peaks.iter_mut().zip(pids()) {
            *peak = peak.max(resident(pid));
        }
        if last {
            return peaks;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The sum of a metric at a program's health port, over all whose labels have this in them.
pub async fn metric(health_port: u16, name: &str, labels: &str) -> f64 {
    let page = reqwest::get(format!("http://127.0.0.1:{health_port}/metrics")).await.unwrap().text().await.unwrap();
    let of_it = |line: &&str| line.split(['{', ' ']).next() == Some(name) && line.contains(labels);
    let mut found = page.lines().filter(of_it).peekable();
    assert!(found.peek().is_some() || !labels.is_empty(), "there is no metric {name}:\n{page}");
    found.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
