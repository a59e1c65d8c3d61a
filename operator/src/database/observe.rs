//! What the database holds: one tenant in detail, or fingerprints of some hundred in one query, so that a system at rest is
//! checked at the price of small queries and no write.

use std::{collections::BTreeSet, time::Duration};

use sqlx::{Row, postgres::PgRow};
use tenancy::{Placement, TenantId, TierName};
use uuid::Uuid;

use super::{Database, DatabaseError, TenantLimits, named};
use crate::{
    controller::Pass,
    lint::{self, Finding, LintError},
};

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
    /// What it uses.
    pub usage: Usage,
}

/// How much a tenant keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
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
    u.max_sockets, u.socket_messages_per_second, u.retired_at IS NOT NULL AS retired,
    coalesce(u.role_access_until = 'infinity', false) AS role_admitted,
    CASE WHEN u.role_access_until > now() AND u.role_access_until < 'infinity'
        THEN extract(epoch FROM u.role_access_until - now())::float8 END AS role_drain,
    coalesce(g.memory_count, 0) AS memory_count, coalesce(g.memory_limit, 0) AS memory_limit,
    CASE WHEN r.rolcanlogin THEN r.rolconnlimit END AS login_connections
FROM stellar.users u
LEFT JOIN stellar.usage g ON g.user_id = u.id
LEFT JOIN pg_catalog.pg_roles r ON r.rolname = u.role_name
WHERE u.id = $1";

/// Index lookups for at most so many rows of `users`: the sub-selects with LIMIT keep Postgres from reading all roles or all of
/// another table for them, so it takes as long with 20,000 tenants as with a few.
const SWEEP: &str = "
SELECT u.id, coalesce(g.memory_count, 0) AS memory_count, coalesce(g.memory_limit, 0) AS memory_limit,
    md5(concat_ws('|', u.name, u.tier, u.placement, u.endpoint, u.suspended, u.max_agents, u.max_api_keys,
        u.requests_per_minute, u.max_sockets, u.socket_messages_per_second, u.capability_generation,
        u.retired_at IS NULL, u.updated_at, g.memory_limit, r.rolcanlogin, r.rolconnlimit, r.rolinherit, r.rolvaliduntil,
        r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolcreatedb,
        pg_has_role(r.oid, (SELECT t.oid FROM pg_catalog.pg_roles t WHERE t.rolname = 'stellar_tenants'), 'USAGE'),
        k.hashes)) AS fingerprint
FROM (
    SELECT v.id, v.name, v.tier, v.placement, v.endpoint, v.suspended, v.max_agents, v.max_api_keys, v.requests_per_minute,
        v.max_sockets, v.socket_messages_per_second, v.capability_generation, v.retired_at, v.updated_at, v.role_name
    FROM stellar.users v WHERE v.id BETWEEN $1 AND $2 ORDER BY v.id LIMIT $3
) u
LEFT JOIN LATERAL (
    SELECT h.memory_count, h.memory_limit FROM stellar.usage h WHERE h.user_id = u.id LIMIT 1
) g ON true
LEFT JOIN LATERAL (
    SELECT q.oid, q.rolcanlogin, q.rolconnlimit, q.rolinherit, q.rolvaliduntil, q.rolsuper, q.rolbypassrls,
        q.rolcreaterole, q.rolcreatedb
    FROM pg_catalog.pg_roles q WHERE q.rolname = u.role_name LIMIT 1
) r ON true
LEFT JOIN LATERAL (
    SELECT string_agg(encode(a.key_hash, 'hex'), ',' ORDER BY a.key_hash) AS hashes
    FROM stellar.api_keys a
    WHERE a.user_id = u.id AND a.managed AND a.revoked_at IS NULL AND a.expires_at IS NULL
) k ON true
ORDER BY u.id";

/// What was written by a transaction that the look which gave the mark did not see yet, and the next mark. A row that is
/// frozen may come once more, which does no harm.
const USAGE: &str = "
SELECT s.mark, g.user_id, g.memory_count, g.memory_limit
FROM (SELECT pg_snapshot_xmin(pg_current_snapshot())::xid::text AS mark) s
LEFT JOIN stellar.usage g ON age(g.xmin) <= age($1::text::xid)";

impl Database {
    /// One tenant. `None` if it has no row.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tenant(&self, id: TenantId) -> Result<Option<TenantRow>, DatabaseError> {
        let operation = "read the tenant";
        let mut connection = self.connection(operation).await?;
        let row =
            sqlx::query(TENANT).bind(id.uuid()).fetch_optional(&mut *connection).await.map_err(named(operation))?;
        row.map(|row| read_tenant(&row)).transpose().map_err(named(operation))
    }

    /// The fingerprints of the first `most` tenants of a pass, by id.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn sweep(&self, pass: Pass, most: i64) -> Result<Vec<Swept>, DatabaseError> {
        let operation = "check the tenants";
        let mut connection = self.connection(operation).await?;
        let query = sqlx::query(SWEEP).bind(pass.from).bind(pass.to).bind(most);
        let rows = query.fetch_all(&mut *connection).await.map_err(named(operation))?;
        let read = |row: &PgRow| -> Result<Swept, sqlx::Error> {
            Ok(Swept {
                id: row.try_get("id")?,
                fingerprint: row.try_get("fingerprint")?,
                usage: Usage { memories: row.try_get("memory_count")?, limit: row.try_get("memory_limit")? },
            })
        };
        rows.iter().map(read).collect::<Result<_, _>>().map_err(named(operation))
    }

    /// The usage of tenants for whom it changed since the call that gave the mark, and the next mark. Without a mark: only that.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn usage_since(&self, mark: Option<&str>) -> Result<(String, Vec<(Uuid, Usage)>), DatabaseError> {
        let operation = "read what tenants use";
        let mut connection = self.connection(operation).await?;
        let rows = sqlx::query(USAGE).bind(mark).fetch_all(&mut *connection).await.map_err(named(operation))?;
        let mark = rows.first().ok_or(sqlx::Error::RowNotFound).and_then(|row| row.try_get("mark"));
        let read = |row: &PgRow| -> Result<Option<(Uuid, Usage)>, sqlx::Error> {
            let Some(id) = row.try_get("user_id")? else { return Ok(None) };
            Ok(Some((id, Usage { memories: row.try_get("memory_count")?, limit: row.try_get("memory_limit")? })))
        };
        let usage = rows.iter().filter_map(|row| read(row).transpose()).collect::<Result<_, _>>();
        Ok((mark.map_err(named(operation))?, usage.map_err(named(operation))?))
    }

    /// What weakens the isolation of this database.
    ///
    /// # Errors
    /// [`LintError`].
    pub async fn lint(&self) -> Result<Vec<Finding>, LintError> {
        let failed = |source| LintError::Query { operation: "connect to look at the catalog", source };
        lint::lint(&mut *self.pool.acquire().await.map_err(failed)?).await
    }

    /// The grants that somebody took away, each as object and what is not granted.
    ///
    /// # Errors
    /// [`LintError`].
    pub async fn missing_grants(&self) -> Result<BTreeSet<(String, String)>, LintError> {
        let failed = |source| LintError::Query { operation: "connect to look for the grants", source };
        lint::missing_grants(&mut *self.pool.acquire().await.map_err(failed)?).await
    }

    /// All tiers.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tiers(&self) -> Result<Vec<TierRow>, DatabaseError> {
        let operation = "read the tiers";
        let mut connection = self.connection(operation).await?;
        let rows = sqlx::query(
            "SELECT name, placement, max_memories, max_agents, max_api_keys, requests_per_minute, max_sockets, \
             socket_messages_per_second FROM stellar.tiers",
        )
        .fetch_all(&mut *connection)
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
        max_sockets: row.try_get("max_sockets")?,
        socket_messages_per_second: row.try_get("socket_messages_per_second")?,
    })
}

fn decoding(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}
