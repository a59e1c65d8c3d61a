//! Tenants, tiers and keys: the functions of the migration `control`.

use std::time::Duration;

use sqlx::postgres::types::PgInterval;
use tenancy::{ApiKey, CapabilityHash, Placement, TenantId, TierName};

use super::{Database, DatabaseError};

const TENANT_APPLY: &str = "SELECT stellar.tenant_apply($1, $2, $3, $4, $5, $6, $7, $8, $9, $10,
    p_max_sockets => $11, p_socket_messages_per_second => $12)";

/// Makes a tier or brings it to this: name, placement and six limits.
pub(crate) const TIER_APPLY: &str = "SELECT stellar.tier_apply($1, $2, $3, $4, $5, $6, $7, $8)";

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
    /// Open sync sockets.
    pub max_sockets: i32,
    /// Operations a second of one sync socket; at least 1.
    pub socket_messages_per_second: i32,
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
        let TenantLimits {
            max_memories,
            max_agents,
            max_api_keys,
            requests_per_minute,
            max_sockets,
            socket_messages_per_second,
        } = limits;
        let query = sqlx::query(TENANT_APPLY)
            .bind(id.uuid())
            .bind(name)
            .bind(tier.as_str())
            .bind(suspended)
            .bind(max_memories)
            .bind(max_agents)
            .bind(max_api_keys)
            .bind(requests_per_minute)
            .bind(capability.0)
            .bind(capability.1.as_bytes().as_slice())
            .bind(max_sockets)
            .bind(socket_messages_per_second);
        self.execute("write the tenant", query).await
    }

    /// Lets the tenant's role in while it is still placed pooled.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tenant_admit_role(&self, id: TenantId) -> Result<(), DatabaseError> {
        let query = sqlx::query("SELECT stellar.tenant_admit_role($1)").bind(id.uuid());
        self.execute("admit the tenant's role", query).await
    }

    /// Ends an admission that came to nothing.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tenant_dismiss_role(&self, id: TenantId) -> Result<(), DatabaseError> {
        let query = sqlx::query("SELECT stellar.tenant_dismiss_role($1)").bind(id.uuid());
        self.execute("dismiss the tenant's role", query).await
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
        let query = sqlx::query_scalar("SELECT stellar.tenant_place($1, $2, $3, $4)")
            .bind(id.uuid())
            .bind(placement.as_str())
            .bind(endpoint)
            .bind(drain);
        self.scalar("place the tenant", query).await
    }

    /// Whether cleaning up after a Tenant of this name may touch the identity.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tenant_owned(&self, id: TenantId, name: &str) -> Result<bool, DatabaseError> {
        let query = sqlx::query_scalar("SELECT stellar.tenant_owned($1, $2)").bind(id.uuid()).bind(name);
        self.scalar("look for the tenant", query).await
    }

    /// Ends service and keys; rows stay.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tenant_retire(&self, id: TenantId, name: &str) -> Result<(), DatabaseError> {
        let query = sqlx::query("SELECT stellar.tenant_retire($1, $2)").bind(id.uuid()).bind(name);
        self.execute("retire the tenant", query).await
    }

    /// Erases at most `batch` rows. True: nothing is left.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tenant_erase(&self, id: TenantId, name: &str, batch: i32) -> Result<bool, DatabaseError> {
        let query =
            sqlx::query_scalar("SELECT stellar.tenant_erase($1, $2, $3)").bind(id.uuid()).bind(name).bind(batch);
        self.scalar("erase the tenant", query).await
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
        let overlap =
            PgInterval { months: 0, days: 0, microseconds: i64::try_from(overlap.as_micros()).unwrap_or(i64::MAX) };
        let hash = key.hash();
        let query = sqlx::query_scalar("SELECT stellar.key_ensure($1, $2, $3, $4, $5)")
            .bind(id.uuid())
            .bind(agent)
            .bind(hash.as_bytes().as_slice())
            .bind(key.display_prefix())
            .bind(overlap);
        self.scalar("write the API key", query).await
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
        let TenantLimits {
            max_memories,
            max_agents,
            max_api_keys,
            requests_per_minute,
            max_sockets,
            socket_messages_per_second,
        } = limits;
        let query = sqlx::query(TIER_APPLY)
            .bind(name)
            .bind(placement.as_str())
            .bind(max_memories)
            .bind(max_agents)
            .bind(max_api_keys)
            .bind(requests_per_minute)
            .bind(max_sockets)
            .bind(socket_messages_per_second);
        self.execute("write the tier", query).await
    }

    /// Removes a tier. Tenants of it keep their limits.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tier_delete(&self, name: &str) -> Result<(), DatabaseError> {
        let query = sqlx::query("SELECT stellar.tier_delete($1)").bind(name);
        self.execute("delete the tier", query).await
    }

    /// Gives every grant of the migrations again, save those on the database, which are its administrator's. What the one
    /// owner cannot give keeps the others from nothing.
    ///
    /// # Errors
    /// The first [`DatabaseError`].
    pub async fn give_grants(&self) -> Result<(), DatabaseError> {
        let mut outcome = Ok(());
        for query in [
            "SELECT stellar.owner_grants()",
            "SELECT stellar.maintainer_grants()",
            "SELECT stellar.role_manager_grants()",
        ] {
            let given = self.execute("give back what was granted", sqlx::query(query)).await;
            outcome = outcome.and(given);
        }
        outcome
    }

    /// Removes what is kept for a bounded time: log entries after 30 days, audit entries after 90. Returns how many
    /// rows went, at most `batch` of each kind.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn prune(&self, batch: i32) -> Result<i64, DatabaseError> {
        let query = sqlx::query_scalar("SELECT stellar.prune('30 days', '90 days', $1)").bind(batch);
        self.scalar("prune old entries", query).await
    }

    /// Returns for how long the oldest row that [`Self::prune`] should remove has been waiting for it.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn prune_lag(&self) -> Result<Duration, DatabaseError> {
        let query = sqlx::query_scalar("SELECT stellar.prune_lag('30 days', '90 days')");
        let seconds: f64 = self.scalar("look for entries to prune", query).await?;
        Ok(Duration::try_from_secs_f64(seconds).unwrap_or_default())
    }

    /// Returns the size of the database on disk, in bytes.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn size(&self) -> Result<i64, DatabaseError> {
        let query = sqlx::query_scalar("SELECT pg_database_size(current_database())");
        self.scalar("ask for the size of the database", query).await
    }
}
