//! What the kernel knows of a process's time.

use std::fs;

use anyhow::{Context, Result};
use harness::stat;

/// Processor time of a process, its children, and those of its children that have ended, in seconds.
pub fn tree_seconds(pid: u32) -> Result<f64> {
    let mut seconds = on_processor(pid)? + ended_children(pid)?;
    for child in children(pid)? {
        // One that has ended meanwhile is among the ended ones next time.
        seconds += on_processor(child).unwrap_or(0.0);
    }
    Ok(seconds)
}

/// From the scheduler, in nanoseconds: clock ticks are too coarse for what is at rest.
fn on_processor(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let nanoseconds: f64 = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(nanoseconds / 1e9)
}

/// The kernel keeps these in ticks alone, of which a second has a hundred on Linux.
fn ended_children(pid: u32) -> Result<f64> {
    let stat = stat(pid)?;
    let ticks = |field: usize| stat.get(field).context("a field of stat")?.parse::<f64>().context("a number of ticks");
    Ok((ticks(13)? + ticks(14)?) / 100.0)
}

fn children(parent: u32) -> Result<Vec<u32>> {
    let parent = parent.to_string();
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids.filter(|pid| stat(*pid).is_ok_and(|stat| stat.get(1) == Some(&parent))).collect())
}
