//! The schema: waits for Postgres, then runs the migrations of this release, each in a transaction of its own and
//! all under an advisory lock, so that two runs at a time do no harm.

use std::time::{Duration, Instant};

use crds::Tier;
use sqlx::{ConnectOptions, Connection, PgConnection, migrate::Migrator};
use tenancy::Placement;

use super::MigrateError;
use crate::{
    database::TIER_APPLY,
    lint::{self, Finding, Severity},
    postgres_url::PostgresUrl,
};

const RETRY: Duration = Duration::from_secs(1);

/// Connects as the administrator, waiting at most `patience` for a Postgres that starts.
pub(super) async fn connect(admin: &PostgresUrl, patience: Duration) -> Result<PgConnection, MigrateError> {
    let options = admin
        .connect_options("stellar-migrate")
        .map_err(|source| MigrateError::Url { of: "the administrator", source })?
        // The record of migrations stays in `public`: an administrator named `stellar` would otherwise look for it
        // in the schema of that name as soon as there is one.
        .options([("search_path", "public")]);
    let start = Instant::now();
    let mut said = String::new();
    loop {
        let error = match tokio::time::timeout(Duration::from_secs(10), options.connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => error,
            Err(_) => sqlx::Error::PoolTimedOut,
        };
        if start.elapsed() >= patience {
            return Err(MigrateError::Unreachable { patience, source: error });
        }
        if said != error.to_string() {
            said = error.to_string();
            tracing::info!(reason = said, "waiting for Postgres");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Runs the migrations that this database has not seen.
pub(super) async fn migrate(admin: &mut PgConnection) -> Result<(), MigrateError> {
    let mut migrations = migrations();
    // After a rollback this release meets migrations of a later one, which it does not know.
    migrations.set_ignore_missing(true);
    migrations.run_direct(None, admin, false).await.map_err(|e| MigrateError::Schema(Box::new(e)))?;
    // The operator's linter asks whether the schema is that of its own release.
    sqlx::query("GRANT SELECT ON public._sqlx_migrations TO stellar_operator")
        .persistent(false)
        .execute(admin)
        .await
        .map_err(|source| MigrateError::Postgres { operation: "show the operator which migrations have run", source })?;
    Ok(())
}

/// The migrations of this release.
pub(crate) fn migrations() -> Migrator {
    sqlx::migrate!("../migrations")
}

/// Looks for what weakens the isolation of the schema as it now is, and logs all of it.
pub(super) async fn lint(admin: &mut PgConnection, allow_findings: bool) -> Result<(), MigrateError> {
    let findings = lint::lint(admin).await?;
    for Finding { severity, rule, object, advice } in &findings {
        match severity {
            Severity::Error => tracing::error!(rule, object, "{advice}"),
            Severity::Warning => tracing::warn!(rule, object, "{advice}"),
        }
    }
    match lint::count(&findings) {
        (0, _) => Ok(()),
        (errors, _) if allow_findings => {
            tracing::warn!(errors, "going on in spite of findings that weaken the isolation");
            Ok(())
        }
        (errors, _) => Err(MigrateError::Weakened { errors }),
    }
}

/// Writes the tiers straight to the database, for an installation without Kubernetes.
pub(super) async fn write_tiers(admin: &mut PgConnection, tiers: &[Tier]) -> Result<(), MigrateError> {
    let failed = |source| MigrateError::Postgres { operation: "write the tiers", source };
    let mut transaction = admin.begin().await.map_err(failed)?;
    sqlx::query("SET LOCAL ROLE stellar_maintainer").execute(&mut *transaction).await.map_err(failed)?;
    for tier in tiers {
        let name = tier.metadata.name.as_deref().unwrap_or_default();
        let limits = &tier.spec.limits;
        limits.to_limits().ok_or_else(|| MigrateError::Tier(name.to_owned()))?;
        sqlx::query(TIER_APPLY)
            .bind(name)
            .bind(Placement::from(tier.spec.placement).as_str())
            .bind(limits.max_memories)
            .bind(limits.max_agents)
            .bind(limits.max_api_keys)
            .bind(limits.requests_per_minute)
            .bind(limits.max_sockets)
            .bind(limits.socket_messages_per_second)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}
