//! What the kernel knows of a process's memory.

use std::fs;

use anyhow::{Context, Result};

/// Memory of a process, in KiB.
pub struct Memory {
    /// Resident pages.
    pub resident: f64,
    /// The same, with pages that are shared divided by the number of their users.
    pub proportional: f64,
}

impl Memory {
    /// Counts the pages of a process, one by one.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("read a process's memory")?;
        Ok(Self { resident: field(&text, "Rss:")?, proportional: field(&text, "Pss:")? })
    }
}

/// Resident pages of a process, in KiB, as the kernel keeps count of them: cheap enough to be asked many times a second.
///
/// # Errors
/// When the process is gone.
pub fn resident(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("read a process's status")?;
    field(&text, "VmRSS:")
}

fn field(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    line.trim().trim_end_matches(" kB").parse().context("a number of kB")
}
