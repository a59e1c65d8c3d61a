//! The table: one row for each behaviour, in a form that a document can take.

use std::sync::Once;

/// The first column is this wide, and each of the others as its title.
const WHAT: usize = 74;
const TITLES: [&str; 10] = [
    "gateway MiB",
    "pooled engine MiB",
    "own engine MiB",
    "database MiB",
    "pooled p99 alone",
    "during (ms)",
    "own p99 alone",
    "during (ms)",
    "failed",
    "lost",
];

/// What a behaviour cost. Memory in MiB, durations in seconds.
pub struct Row<'a> {
    pub what: &'a str,
    /// By how much gateway, pooled engine and the bystander's own engine grew.
    pub grown: [f64; 3],
    pub database: f64,
    /// Of the pooled bystander and of the one with its own engine: durations of its recalls alone, and during it.
    pub recalls: [[&'a [f64]; 2]; 2],
    /// Recalls that failed.
    pub failed: usize,
    /// Stores that were acknowledged and are not there.
    pub lost: usize,
}

impl Row<'_> {
    pub fn print(&self) {
        static HEAD: Once = Once::new();
        HEAD.call_once(|| {
            println!("{}", line("what (memory: growth of its peak)", &TITLES.map(str::to_owned)));
            println!("{}", line(&"-".repeat(WHAT), &TITLES.map(|title| format!("{}:", "-".repeat(title.len() - 1)))));
        });
        let [gateway, pooled, own] = self.grown.map(|mib| format!("{mib:.1}"));
        let [[pooled_alone, pooled_during], [own_alone, own_during]] = self.recalls.map(|both| both.map(p99));
        let cells = [
            gateway,
            pooled,
            own,
            format!("{:.1}", self.database),
            pooled_alone,
            pooled_during,
            own_alone,
            own_during,
            self.failed.to_string(),
            self.lost.to_string(),
        ];
        println!("{}", line(self.what, &cells));
    }
}

fn line(what: &str, cells: &[String; TITLES.len()]) -> String {
    let cells: Vec<String> = cells.iter().zip(TITLES).map(|(cell, title)| format!("{cell:>0$}", title.len())).collect();
    format!("| {what:<WHAT$} | {} |", cells.join(" | "))
}

/// The value below which 99 of 100 are (nearest rank), in ms.
fn p99(seconds: &[f64]) -> String {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len().saturating_sub(1) as f64 * 0.99).round() as usize;
    sorted.get(at).map_or_else(|| "none".to_owned(), |seconds| format!("{:.1}", seconds * 1e3))
}
