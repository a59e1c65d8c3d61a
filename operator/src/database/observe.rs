//! What the database holds: one tenant in detail, or a fingerprint of every tenant in one query, so that a system
//! at rest is checked at the price of one query and no write.

use std::time::Duration;

use sqlx::{Row, postgres::PgRow};
use tenancy::{Placement, TenantId, TierName};
use uuid::Uuid;

use super::{Database, DatabaseError, TenantLimits, named};

/// A tenant as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRow {
    /// The name of its Tenant.
    pub name: String,
    /// Its tier.
    pub tier: TierName,
    /// Where it is served.
    pub placement: Placement,
    /// host:port of its own engine while dedicated.
    pub endpoint: Option<String>,
    /// Its effective limits.
    pub limits: TenantLimits,
    /// Memories stored.
    pub memories: i32,
    /// Counted up by a rotation of its capability.
    pub capability_generation: i32,
    /// Its Tenant was deleted with policy Retain.
    pub retired: bool,
    /// Its role is let in ahead of a flip to dedicated.
    pub role_admitted: bool,
    /// For how long its former engine still serves it after a flip to pooled.
    pub role_drain: Option<Duration>,
    /// Most connections of its role, if that may log in.
    pub login_connections: Option<i32>,
}

/// One tenant of a sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swept {
    /// Whose row.
    pub id: Uuid,
    /// Changes with every control value, role attribute, membership and managed key.
    pub fingerprint: String,
    /// Memories stored.
    pub memories: i32,
    /// The most that may be stored; -1 for no limit.
    pub limit: i32,
}

/// A tier as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierRow {
    /// Its name.
    pub name: String,
    /// Where its tenants are served.
    pub placement: String,
    /// What they may use.
    pub limits: TenantLimits,
}

const TENANT: &str = "
SELECT u.name, u.tier, u.placement, u.endpoint, u.max_agents, u.max_api_keys, u.requests_per_minute,
    u.capability_generation, u.retired_at IS NOT NULL AS retired,
    coalesce(u.role_access_until = 'infinity', false) AS role_admitted,
    CASE WHEN u.role_access_until > now() AND u.role_access_until < 'infinity'
        THEN extract(epoch FROM u.role_access_until - now())::float8 END AS role_drain,
    coalesce(g.memory_count, 0) AS memory_count, coalesce(g.memory_limit, 0) AS memory_limit,
    CASE WHEN r.rolcanlogin THEN r.rolconnlimit END AS login_connections
FROM stellar.users u
LEFT JOIN stellar.usage g ON g.user_id = u.id
LEFT JOIN pg_catalog.pg_roles r ON r.rolname = u.role_name
WHERE u.id = $1";

const SWEEP: &str = "
SELECT u.id, coalesce(g.memory_count, 0) AS memory_count, coalesce(g.memory_limit, 0) AS memory_limit,
    md5(concat_ws('|', u.name, u.tier, u.placement, u.endpoint, u.suspended, u.max_agents, u.max_api_keys,
        u.requests_per_minute, u.capability_generation, u.retired_at IS NULL, u.updated_at, g.memory_limit,
        r.rolcanlogin, r.rolconnlimit, r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolcreatedb,
        m.member IS NOT NULL, k.hashes)) AS fingerprint
FROM stellar.users u
LEFT JOIN stellar.usage g ON g.user_id = u.id
LEFT JOIN pg_catalog.pg_roles r ON r.rolname = u.role_name
LEFT JOIN pg_catalog.pg_auth_members m
    ON m.member = r.oid AND m.roleid = (SELECT t.oid FROM pg_catalog.pg_roles t WHERE t.rolname = 'stellar_tenants')
LEFT JOIN LATERAL (
    SELECT string_agg(encode(a.key_hash, 'hex'), ',' ORDER BY a.key_hash) AS hashes
    FROM stellar.api_keys a
    WHERE a.user_id = u.id AND a.managed AND a.revoked_at IS NULL AND a.expires_at IS NULL
) k ON true
WHERE $1::uuid IS NULL OR u.id = $1";

impl Database {
    /// One tenant. `None` if it has no row.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tenant(&self, id: TenantId) -> Result<Option<TenantRow>, DatabaseError> {
        let operation = "read the tenant";
        let row = sqlx::query(TENANT).bind(id.uuid()).fetch_optional(&self.pool).await.map_err(named(operation))?;
        row.map(|row| read_tenant(&row)).transpose().map_err(named(operation))
    }

    /// The fingerprints of all tenants, or of one.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn sweep(&self, only: Option<TenantId>) -> Result<Vec<Swept>, DatabaseError> {
        let operation = "check the tenants";
        let rows =
            sqlx::query(SWEEP).bind(only.map(TenantId::uuid)).fetch_all(&self.pool).await.map_err(named(operation))?;
        let read = |row: &PgRow| -> Result<Swept, sqlx::Error> {
            Ok(Swept {
                id: row.try_get("id")?,
                fingerprint: row.try_get("fingerprint")?,
                memories: row.try_get("memory_count")?,
                limit: row.try_get("memory_limit")?,
            })
        };
        rows.iter().map(read).collect::<Result<_, _>>().map_err(named(operation))
    }

    /// All tiers.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tiers(&self) -> Result<Vec<TierRow>, DatabaseError> {
        let operation = "read the tiers";
        let rows = sqlx::query(
            "SELECT name, placement, max_memories, max_agents, max_api_keys, requests_per_minute FROM stellar.tiers",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(named(operation))?;
        let read = |row: &PgRow| -> Result<TierRow, sqlx::Error> {
            Ok(TierRow {
                name: row.try_get("name")?,
                placement: row.try_get("placement")?,
                limits: read_limits(row, "max_memories")?,
            })
        };
        rows.iter().map(read).collect::<Result<_, _>>().map_err(named(operation))
    }
}

fn read_tenant(row: &PgRow) -> Result<TenantRow, sqlx::Error> {
    let placement: String = row.try_get("placement")?;
    let tier: String = row.try_get("tier")?;
    let drain: Option<f64> = row.try_get("role_drain")?;
    Ok(TenantRow {
        name: row.try_get("name")?,
        tier: tier.parse().map_err(decoding)?,
        placement: placement.parse().map_err(decoding)?,
        endpoint: row.try_get("endpoint")?,
        limits: read_limits(row, "memory_limit")?,
        memories: row.try_get("memory_count")?,
        capability_generation: row.try_get("capability_generation")?,
        retired: row.try_get("retired")?,
        role_admitted: row.try_get("role_admitted")?,
        role_drain: drain.map(|seconds| Duration::from_secs_f64(seconds.max(0.0))),
        login_connections: row.try_get("login_connections")?,
    })
}

fn read_limits(row: &PgRow, memories: &str) -> Result<TenantLimits, sqlx::Error> {
    Ok(TenantLimits {
        max_memories: row.try_get(memories)?,
        max_agents: row.try_get("max_agents")?,
        max_api_keys: row.try_get("max_api_keys")?,
        requests_per_minute: row.try_get("requests_per_minute")?,
    })
}

fn decoding(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}
