//! Tenants, tiers and keys: the functions of the migration `control`.

use std::time::Duration;

use sqlx::{Executor, postgres::types::PgInterval};
use tenancy::{ApiKey, CapabilityHash, Placement, TenantId, TierName};

use super::{Database, DatabaseError, named};

/// The limits of a tenant, as the database keeps them (-1 for none).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TenantLimits {
    /// Memories stored at one time.
    pub max_memories: i32,
    /// Named agents.
    pub max_agents: i32,
    /// Live API keys.
    pub max_api_keys: i32,
    /// Requests a minute; at least 1.
    pub requests_per_minute: i32,
}

impl Database {
    /// Makes a tenant's rows or brings them to this.
    ///
    /// # Errors
    /// [`DatabaseError::UserIdInUse`] when the identity is another living tenant's.
    pub async fn tenant_apply(
        &self,
        id: TenantId,
        name: &str,
        tier: &TierName,
        suspended: bool,
        limits: TenantLimits,
        capability: (i32, CapabilityHash),
    ) -> Result<(), DatabaseError> {
        let TenantLimits { max_memories, max_agents, max_api_keys, requests_per_minute } = limits;
        let query = sqlx::query("SELECT stellar.tenant_apply($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)")
            .bind(id.uuid())
            .bind(name)
            .bind(tier.as_str())
            .bind(suspended)
            .bind(max_memories)
            .bind(max_agents)
            .bind(max_api_keys)
            .bind(requests_per_minute)
            .bind(capability.0)
            .bind(capability.1.as_bytes().as_slice());
        self.pool.execute(query).await.map(drop).map_err(named("write the tenant"))
    }

    /// Lets the tenant's role in while it is still placed pooled.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tenant_admit_role(&self, id: TenantId) -> Result<(), DatabaseError> {
        let query = sqlx::query("SELECT stellar.tenant_admit_role($1)").bind(id.uuid());
        self.pool.execute(query).await.map(drop).map_err(named("admit the tenant's role"))
    }

    /// Ends an admission that came to nothing.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tenant_dismiss_role(&self, id: TenantId) -> Result<(), DatabaseError> {
        let query = sqlx::query("SELECT stellar.tenant_dismiss_role($1)").bind(id.uuid());
        self.pool.execute(query).await.map(drop).map_err(named("dismiss the tenant's role"))
    }

    /// Sends requests to the new place; the old one stays valid for `drain`. Returns whether anything changed.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tenant_place(
        &self,
        id: TenantId,
        placement: Placement,
        endpoint: Option<&str>,
        drain: Duration,
    ) -> Result<bool, DatabaseError> {
        let drain =
            PgInterval { months: 0, days: 0, microseconds: i64::try_from(drain.as_micros()).unwrap_or(i64::MAX) };
        sqlx::query_scalar("SELECT stellar.tenant_place($1, $2, $3, $4)")
            .bind(id.uuid())
            .bind(placement.as_str())
            .bind(endpoint)
            .bind(drain)
            .fetch_one(&self.pool)
            .await
            .map_err(named("place the tenant"))
    }

    /// Whether cleaning up after a Tenant of this name may touch the identity.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tenant_owned(&self, id: TenantId, name: &str) -> Result<bool, DatabaseError> {
        sqlx::query_scalar("SELECT stellar.tenant_owned($1, $2)")
            .bind(id.uuid())
            .bind(name)
            .fetch_one(&self.pool)
            .await
            .map_err(named("look for the tenant"))
    }

    /// Ends service and keys; rows stay.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tenant_retire(&self, id: TenantId, name: &str) -> Result<(), DatabaseError> {
        let query = sqlx::query("SELECT stellar.tenant_retire($1, $2)").bind(id.uuid()).bind(name);
        self.pool.execute(query).await.map(drop).map_err(named("retire the tenant"))
    }

    /// Erases at most `batch` rows. True: nothing is left.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tenant_erase(&self, id: TenantId, name: &str, batch: i32) -> Result<bool, DatabaseError> {
        sqlx::query_scalar("SELECT stellar.tenant_erase($1, $2, $3)")
            .bind(id.uuid())
            .bind(name)
            .bind(batch)
            .fetch_one(&self.pool)
            .await
            .map_err(named("erase the tenant"))
    }

    /// Makes a key work; other keys of the operator's end after `overlap`. False: the key cannot be this tenant's
    /// (it was another's once), and a new one is needed.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn key_ensure(
        &self,
        id: TenantId,
        agent: &str,
        key: &ApiKey,
        overlap: Duration,
    ) -> Result<bool, DatabaseError> {
        let hash = key.hash();
        let live = "SELECT EXISTS (SELECT FROM stellar.api_keys k WHERE k.user_id = $1 AND k.key_hash = $2 \
                    AND k.revoked_at IS NULL AND k.expires_at IS NULL)";
        let overlap =
            PgInterval { months: 0, days: 0, microseconds: i64::try_from(overlap.as_micros()).unwrap_or(i64::MAX) };
        let ensure = sqlx::query("SELECT stellar.key_ensure($1, $2, $3, $4, $5)")
            .bind(id.uuid())
            .bind(agent)
            .bind(hash.as_bytes().as_slice())
            .bind(key.display_prefix())
            .bind(overlap);
        self.pool.execute(ensure).await.map_err(named("write the API key"))?;
        sqlx::query_scalar(live)
            .bind(id.uuid())
            .bind(hash.as_bytes().as_slice())
            .fetch_one(&self.pool)
            .await
            .map_err(named("read the API key"))
    }

    /// Makes a tier or brings it to this.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tier_apply(
        &self,
        name: &str,
        placement: Placement,
        limits: TenantLimits,
    ) -> Result<(), DatabaseError> {
        let TenantLimits { max_memories, max_agents, max_api_keys, requests_per_minute } = limits;
        let query = sqlx::query("SELECT stellar.tier_apply($1, $2, $3, $4, $5, $6)")
            .bind(name)
            .bind(placement.as_str())
            .bind(max_memories)
            .bind(max_agents)
            .bind(max_api_keys)
            .bind(requests_per_minute);
        self.pool.execute(query).await.map(drop).map_err(named("write the tier"))
    }

    /// Removes a tier. Tenants of it keep their limits.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tier_delete(&self, name: &str) -> Result<(), DatabaseError> {
        let query = sqlx::query("SELECT stellar.tier_delete($1)").bind(name);
        self.pool.execute(query).await.map(drop).map_err(named("delete the tier"))
    }

    /// Removes what is kept for a bounded time: log entries after 7 days, audit entries after 90. Returns how many
    /// rows went, at most `batch` of each kind.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn prune(&self, batch: i32) -> Result<i64, DatabaseError> {
        sqlx::query_scalar("SELECT stellar.prune('7 days', '90 days', $1)")
            .bind(batch)
            .fetch_one(&self.pool)
            .await
            .map_err(named("prune old entries"))
    }
}
