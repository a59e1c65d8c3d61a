//! What one client, or one free tenant, can take from everybody: memory of the programs that all share, room in the database,
//! and the answers that others wait for. Every behaviour here is one that a client may show. While it lasts two bystanders
//! recall, a writer stores, and the memory of the programs is watched.
//!
//! Memory, rows and answers are counted and bounded. Times are printed and never compared: a busy machine has any. `weakened`
//! shows each bound switched off, which the same checks have to notice.
//!
//! The table: `ATTACK=whole cargo test -p attack --test attack cost -- --nocapture --test-threads 1`

mod bystander;
mod database;
mod readers;
mod restarts;
mod stage;
mod table;
mod tenants;
mod text;
mod watch;
mod weakened;
mod wire;
mod writers;

use std::time::Duration;

use attack::tries;

/// How long a behaviour goes on that nothing else ends.
fn lasting() -> Duration {
    Duration::from_millis(tries(1_000, 20_000) as u64)
}

/// Asserts that nothing is wrong.
fn nothing(found: &[Vec<String>]) {
    assert_eq!(found.concat(), Vec::<String>::new());
}
