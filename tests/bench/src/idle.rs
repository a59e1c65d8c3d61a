//! What tenants at rest cost: the processor time of Postgres, gateway and engine, with a hundred tenants and with twenty
//! thousand, while gateway, engine and operator do what they do without being asked. The operator's part is what it asks of
//! Postgres; its own time, of which Kubernetes' watches are a part, is not counted.
//!
//! The gateway reads its whole directory again from time to time, in case a notice was lost, and the operator looks over the
//! catalog for what weakens the isolation. Both are measured apart, and counted as often as they happen.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::{DataPlane, Program, eventually_within};
use operator::Database;
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
/// Between two looks at the catalog.
const LINT_EVERY: f64 = 600.0;
const LINTS: u32 = 5;
const PATIENCE: Duration = Duration::from_mins(1);

/// Seconds of processor time.
struct Cost {
    /// In a minute of rest.
    minute: f64,
    /// Of one whole reload of the directory.
    reload: f64,
    /// Of one look at the catalog.
    lint: f64,
}

impl Cost {
    fn with_what_is_seldom(&self) -> f64 {
        self.minute + self.reload * 60.0 / RELOAD_EVERY + self.lint * 60.0 / LINT_EVERY
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
        figure(&format!("processor time at rest with {to} tenants, a minute"), cost.minute * 1e3, "ms");
        figure(&format!("a gateway's whole reload of {to} tenants"), cost.reload * 1e3, "ms");
        figure(&format!("the operator's look at the catalog with {to} tenants"), cost.lint * 1e3, "ms");
        costs.push(cost);
    }
    let (few, many) = (&costs[0], &costs[1]);
    ratio(&format!("background work of {MANY} tenants to {FEW} (aim 2)"), many.minute / few.minute);
    let all = many.with_what_is_seldom() / few.with_what_is_seldom();
    ratio("the same with a reload and a look at the catalog every ten minutes (aim 2)", all);
    Ok(())
}

/// Tenants with a key and a role each, as the operator's functions leave them.
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
         FROM stellar.users u WHERE NOT EXISTS (SELECT FROM stellar.api_keys k WHERE k.user_id = u.id);
         SELECT count(stellar.role_ensure(u.id)) FROM stellar.users u;"
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
    let url = std::fs::read_to_string(plane.secrets().join("operator-url"))?;
    let database = Database::new(&url.trim().parse()?, None)?;
    let minute = {
        let window = spent(plane, rest(WINDOW));
        tokio::select! {
            spent = window => spent?,
            Err(error) = operator::ask_at_rest(&database) => bail!(error),
        }
    } / WINDOW.as_secs_f64()
        * 60.0;
    let linting = async {
        for _ in 0..LINTS {
            database.lint().await?;
        }
        Ok(())
    };
    // Nothing that counts happens beside it: it takes a second or two.
    let lint = spent(plane, linting).await? / f64::from(LINTS);
    let hasty = plane.another_gateway_with(&["--full-reload-interval", "1s"]).await?;
    knows(&hasty, tenants).await;
    let with_reloads = spent(plane, rest(Duration::from_secs_f64(RELOADS))).await?;
    Ok(Cost { minute, reload: (with_reloads - minute * RELOADS / 60.0).max(0.0) / RELOADS, lint })
}

/// What Postgres, gateway and engine spend while this is done.
async fn spent(plane: &DataPlane, work: impl Future<Output = Result<()>>) -> Result<f64> {
    let postgres = plane.postgres.pid().context("Postgres runs")?;
    let all =
        || -> Result<f64> { [postgres, plane.gateway.pid(), plane.engine.pid()].into_iter().map(tree_seconds).sum() };
    // What came before is worked off, connections that nobody needs included.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = all()?;
    work.await?;
    Ok(all()? - before)
}

async fn rest(window: Duration) -> Result<()> {
    tokio::time::sleep(window).await;
    Ok(())
}
