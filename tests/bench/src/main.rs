//! Measures the data plane on this machine and prints a table: real Postgres, engine and gateway on loopback.
//!
//!   bench            all of it
//!   bench PART…      some parts of it, by name
//!
//! With the folder of another build's programs in BASELINE there is one part more, `baseline`, which measures both builds.
//!
//! Machines differ and drift, so the figures to quote are ratios of two things measured in turn in one run.
//! Every loop is bounded by a count. Memories are made of words drawn by a Zipf law from a seeded generator, so that
//! two runs store the same text.

mod baseline;
mod crowd;
mod fan_out;
mod frames;
mod idle;
mod plain;
mod process;
mod requests;
mod row_security;
mod sockets;
mod speaker;
mod stalled;
mod table;
mod text;

use std::{pin::Pin, time::Instant};

use anyhow::{Result, ensure};

type Part = fn() -> Pin<Box<dyn Future<Output = Result<()>>>>;

const PARTS: [(&str, Part); 7] = [
    ("baseline", || Box::pin(baseline::measure())),
    ("requests", || Box::pin(requests::measure())),
    ("sockets", || Box::pin(sockets::measure())),
    ("fan-out", || Box::pin(fan_out::measure())),
    ("stalled", || Box::pin(stalled::measure())),
    ("row-security", || Box::pin(row_security::measure())),
    ("idle", || Box::pin(idle::measure())),
];

#[tokio::main]
async fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted == [plain::ARGUMENT] {
        return plain::serve().await;
    }
    for name in &wanted {
        let names = PARTS.map(|(name, _)| name).join(", ");
        ensure!(PARTS.iter().any(|(part, _)| part == name), "`{name}` is no part of this: there are {names}");
    }
    // Ten thousand sockets have two ends, one of them here; the programs that this one starts inherit it.
    rlimit::increase_nofile_limit(u64::MAX)?;
    table::head();
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            let start = Instant::now();
            part().await?;
            println!("--- {name} took {:.0} s", start.elapsed().as_secs_f64());
        }
    }
    Ok(())
}
