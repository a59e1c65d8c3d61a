//! What local mode does as the administrator of its database, once at start: schema, tenant, the tenant's login. In a
//! cluster the migrate Job and the operator do this; an engine there has no such rights.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, migrate::Migrator};
use tenancy::{CapabilityHash, RoleName, TenantId};

use super::{Database, sql};

const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(500);

/// The tenant that local mode serves, as Postgres gets to know it.
pub struct LocalTenant {
    /// Its identity.
    pub id: TenantId,
    /// What its capability hashes to.
    pub capability: CapabilityHash,
    /// The SCRAM verifier of its role's password.
    pub verifier: String,
    /// Connections that its role may have.
    pub connections: u32,
}

/// Why the database could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Postgres did not answer.
    #[error("Postgres does not accept the administrator's login")]
    Unreachable(#[source] sqlx::Error),
    /// A migration failed; it was rolled back.
    #[error("cannot bring the schema up to date")]
    Schema(#[source] Box<sqlx::migrate::MigrateError>),
    /// A statement failed.
    #[error("cannot {0}")]
    Statement(&'static str, #[source] sqlx::Error),
}

/// Brings schema, tenant and login up to date. May be repeated.
///
/// # Errors
/// [`SetupError`]
pub async fn set_up(admin: &Database, tenant: &LocalTenant) -> Result<(), SetupError> {
    let LocalTenant { id, capability, verifier, connections } = tenant;
    let mut connection = connect(admin).await?;
    let mut migrations: Migrator = sqlx::migrate!("../migrations");
    migrations.set_ignore_missing(true);
    migrations.run_direct(None, &mut connection, false).await.map_err(|error| SetupError::Schema(Box::new(error)))?;

    let failed = |error| SetupError::Statement("make the local tenant", error);
    let mut tx = connection.begin().await.map_err(failed)?;
    // The operator's functions, as the role that owns them: the administrator is a member of it.
    sql("SET LOCAL ROLE stellar_maintainer").execute(&mut *tx).await.map_err(failed)?;
    sql("SELECT stellar.tenant_apply($1, 'local', 'local', false, -1, -1, -1, 1000000, 1, $2,
             p_max_sockets => -1, p_socket_messages_per_second => 100000)")
    .bind(id.uuid())
    .bind(capability.as_bytes().as_slice())
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    sql("SELECT stellar.tenant_admit_role($1)").bind(id.uuid()).execute(&mut *tx).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;

    let failed = |error| SetupError::Statement("make the local tenant's login", error);
    let mut tx = connection.begin().await.map_err(failed)?;
    sql("SET LOCAL ROLE stellar_role_manager").execute(&mut *tx).await.map_err(failed)?;
    sql("SELECT stellar.role_ensure($1)").bind(id.uuid()).execute(&mut *tx).await.map_err(failed)?;
    // Several local engines over one database share the login: room for a few of them.
    sql("SELECT stellar.role_login($1, $2, $3, true)")
        .bind(id.uuid())
        .bind(verifier)
        .bind(i32::try_from(*connections).unwrap_or(i32::MAX).saturating_mul(4))
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    let _ = connection.close().await;
    tracing::info!(role = %RoleName::of(*id), "the local database is up to date");
    Ok(())
}

/// Makes a database if it is missing. The name is a constant of ours.
///
/// # Errors
/// [`SetupError`]
pub async fn create_database(admin: &Database, name: &'static str) -> Result<(), SetupError> {
    let failed = |error| SetupError::Statement("make the database", error);
    let mut connection = connect(admin).await?;
    let found = sql("SELECT 1 FROM pg_catalog.pg_database d WHERE d.datname = $1").bind(name);
    if found.fetch_optional(&mut connection).await.map_err(failed)?.is_none() {
        let statement = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::query(statement).persistent(false).execute(&mut connection).await.map_err(failed)?;
    }
    let _ = connection.close().await;
    Ok(())
}

async fn connect(admin: &Database) -> Result<PgConnection, SetupError> {
    // The record of migrations stays in `public`, whatever the administrator is called.
    let options = admin.options().clone().options([("search_path", "public")]);
    let started = Instant::now();
    loop {
        match options.connect().await {
            Ok(connection) => return Ok(connection),
            Err(error) if started.elapsed() > PATIENCE => return Err(SetupError::Unreachable(error)),
            Err(sqlx::Error::Io(_)) => tokio::time::sleep(RETRY).await,
            Err(error) => return Err(SetupError::Unreachable(error)),
        }
    }
}
