//! What tenants at rest cost Postgres: the processor time of all its processes, with a hundred tenants and with twenty
//! thousand, while gateway and engine do what they do without being asked.
//!
//! The gateway reads its whole directory again from time to time, in case a notice was lost. That is measured apart, by a
//! gateway that does so all the time, and counted as often as it happens.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::{DataPlane, Program, eventually_within};
use sqlx::Connection as _;

use crate::{
    process::tree_seconds,
    table::{figure, ratio},
};

const FEW: usize = 100;
const MANY: usize = 20_000;
const WINDOW: Duration = Duration::from_secs(45);
/// Between two whole reloads, by default.
const RELOAD_EVERY: f64 = 600.0;
const RELOADS: f64 = 10.0;
const PATIENCE: Duration = Duration::from_mins(1);

/// Seconds of processor time.
struct Cost {
    /// In a minute of rest.
    minute: f64,
    /// Of one whole reload of the directory.
    reload: f64,
}

impl Cost {
    fn with_reloads(&self) -> f64 {
        self.minute + self.reload * 60.0 / RELOAD_EVERY
    }
}

pub async fn measure() -> Result<()> {
    let plane = DataPlane::start().await?;
    let mut superuser = plane.postgres.superuser("stellar").await?;
    // It would look after the catalogs of a server that was just made, while one number of tenants is measured or the other.
    for once in ["ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()"] {
        sqlx::raw_sql(once).execute(&mut superuser).await?;
    }
    superuser.close().await?;
    let mut costs = Vec::new();
    for (from, to) in [(1, FEW), (FEW + 1, MANY)] {
        add(&plane, from, to).await?;
        let cost = cost(&plane, to).await?;
        figure(&format!("Postgres at rest with {to} tenants, a minute"), cost.minute * 1e3, "ms");
        figure(&format!("a gateway's whole reload of {to} tenants"), cost.reload * 1e3, "ms");
        costs.push(cost);
    }
    let (few, many) = (&costs[0], &costs[1]);
    ratio(&format!("background work of {MANY} tenants to {FEW}, between reloads (aim 2)"), many.minute / few.minute);
    let with_reloads = many.with_reloads() / few.with_reloads();
    ratio("the same with a reload every ten minutes (aim 2)", with_reloads);
    Ok(())
}

/// Tenants with a key each, as the operator's functions leave them.
async fn add(plane: &DataPlane, from: usize, to: usize) -> Result<()> {
    let mut superuser = plane.postgres.superuser("stellar").await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "INSERT INTO stellar.users (id, name, tier, capability_hash)
         SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'idle-' || n, 'free', sha256('c' || n::text::bytea)
         FROM generate_series({from}, {to}) n;
         INSERT INTO stellar.usage (user_id, memory_limit)
         SELECT id, 1000 FROM stellar.users u WHERE NOT EXISTS (SELECT FROM stellar.usage g WHERE g.user_id = u.id);
         INSERT INTO stellar.api_keys (user_id, agent, key_hash, prefix, managed)
         SELECT id, 'default', sha256(id::text::bytea), 'sk-stellar-00000000', true
         FROM stellar.users u WHERE NOT EXISTS (SELECT FROM stellar.api_keys k WHERE k.user_id = u.id);"
    )))
    .execute(&mut superuser)
    .await
    .context("add tenants")?;
    // The session's end reports what it wrote: after a vacuum that would have autovacuum come once more.
    superuser.close().await?;
    let mut superuser = plane.postgres.superuser("stellar").await?;
    // What autovacuum would do some time, and once.
    for once in ["VACUUM (ANALYZE)", "CHECKPOINT"] {
        sqlx::raw_sql(once).execute(&mut superuser).await?;
    }
    knows(&plane.gateway, to).await;
    Ok(())
}

async fn knows(gateway: &Program, tenants: usize) {
    let line = format!("directory_tenants {tenants}\n");
    eventually_within(PATIENCE, "the gateway knows every tenant", || async {
        gateway.metrics().await.ok().filter(|page| page.contains(&line)).map(drop)
    })
    .await;
}

async fn cost(plane: &DataPlane, tenants: usize) -> Result<Cost> {
    let minute = spent(plane, WINDOW).await? / WINDOW.as_secs_f64() * 60.0;
    let hasty = plane.another_gateway_with(&["--full-reload-interval", "1s"]).await?;
    knows(&hasty, tenants).await;
    let window = Duration::from_secs_f64(RELOADS);
    let with_reloads = spent(plane, window).await?;
    Ok(Cost { minute, reload: (with_reloads - minute * RELOADS / 60.0).max(0.0) / RELOADS })
}

/// What Postgres spends in this time.
async fn spent(plane: &DataPlane, window: Duration) -> Result<f64> {
    let pid = plane.postgres.pid().context("Postgres runs")?;
    // What came before is worked off, connections that nobody needs included.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = tree_seconds(pid)?;
    tokio::time::sleep(window).await;
    Ok(tree_seconds(pid)? - before)
}
