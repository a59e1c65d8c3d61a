//! What the directory reads from Postgres. A row that makes no sense is left out and said, never fatal.

use std::{collections::HashMap, sync::Arc};

use futures::TryStreamExt;
use login_pool::LoginPool;
use sqlx::FromRow;
use tenancy::{ApiKeyHash, Placement, TenantId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{KeyHolder, Rows, Target, TenantRow};

#[derive(FromRow)]
struct User {
    id: Uuid,
    tier: String,
    placement: String,
    endpoint: Option<String>,
    suspended: bool,
    requests_per_minute: i32,
    max_sockets: i32,
    socket_messages_per_second: i32,
    capability_generation: i32,
}

#[derive(FromRow)]
struct Key {
    user_id: Uuid,
    id: Uuid,
    agent: String,
    #[sqlx(rename = "key_hash")]
    hash: Vec<u8>,
    expires_at: Option<OffsetDateTime>,
}

/// Every tenant that is served, with its keys.
pub(super) async fn all(pool: &LoginPool) -> Result<Rows, sqlx::Error> {
    some(pool, None).await
}

/// These tenants, as far as they are served, with their keys.
pub(super) async fn these(pool: &LoginPool, ids: &[TenantId]) -> Result<Rows, sqlx::Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    some(pool, Some(&ids)).await
}

/// The tenants that hold live keys of these hashes.
pub(super) async fn holders(pool: &LoginPool, hashes: &[ApiKeyHash]) -> Result<Vec<TenantId>, sqlx::Error> {
    let hashes: Vec<&[u8]> = hashes.iter().map(|hash| &hash.as_bytes()[..]).collect();
    let holders = sqlx::query_scalar::<_, Uuid>(
        "SELECT user_id FROM stellar.api_keys WHERE key_hash = ANY ($1) AND revoked_at IS NULL",
    );
    let holders = holders.bind(hashes).persistent(false).fetch_all(&mut *pool.acquire().await?).await?;
    Ok(holders.into_iter().filter_map(|id| TenantId::new(id).ok()).collect())
}

/// Tenants first: a key that is made in between has a notice of its own.
async fn some(pool: &LoginPool, ids: Option<&[Uuid]>) -> Result<Rows, sqlx::Error> {
    let mut rows = Rows::default();
    let mut connection = pool.acquire().await?;

    let mut users = sqlx::query_as::<_, User>(
        "SELECT id, tier, placement, endpoint, suspended, requests_per_minute, max_sockets, \
             socket_messages_per_second, capability_generation \
         FROM stellar.users WHERE retired_at IS NULL AND ($1::uuid[] IS NULL OR id = ANY ($1))",
    )
    .bind(ids)
    .persistent(false)
    .fetch(&mut *connection);
    while let Some(user) = users.try_next().await? {
        rows.tenants.extend(tenant_row(user));
    }
    drop(users);

    let mut agents: HashMap<String, Arc<str>> = HashMap::new();
    let mut keys = sqlx::query_as::<_, Key>(
        "SELECT user_id, id, agent, key_hash, expires_at FROM stellar.api_keys \
         WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) \
         AND ($1::uuid[] IS NULL OR user_id = ANY ($1))",
    )
    .bind(ids)
    .persistent(false)
    .fetch(&mut *connection);
    while let Some(Key { user_id, id, agent, hash, expires_at }) = keys.try_next().await? {
        let (Ok(tenant), Ok(hash)) = (TenantId::new(user_id), <[u8; 32]>::try_from(hash)) else { continue };
        // Most agents of most tenants have one of a few names.
        let agent = agents.entry(agent).or_insert_with_key(|name| name.as_str().into()).clone();
        rows.keys.push((ApiKeyHash::from_bytes(hash), KeyHolder { tenant, agent, key_id: id, expires_at }));
    }
    Ok(rows)
}

fn tenant_row(user: User) -> Option<TenantRow> {
    let User {
        id,
        tier,
        placement,
        endpoint,
        suspended,
        requests_per_minute,
        max_sockets,
        socket_messages_per_second,
        capability_generation,
    } = user;
    let target = match (placement.parse(), endpoint) {
        (Ok(Placement::Pooled), _) => Target::Pooled,
        (Ok(Placement::Dedicated), Some(endpoint)) => Target::Dedicated(endpoint.into()),
        (Ok(Placement::Dedicated), None) | (Err(_), _) => {
            tracing::warn!(tenant = %id, placement, "a tenant's placement makes no sense; it is not served");
            return None;
        }
    };
    let id = TenantId::new(id).ok()?;
    let at_least_one = |rate: i32| u32::try_from(rate).unwrap_or(1).max(1);
    Some(TenantRow {
        id,
        tier,
        target,
        suspended,
        requests_per_minute: at_least_one(requests_per_minute),
        max_sockets: u32::try_from(max_sockets).ok(),
        socket_messages_per_second: at_least_one(socket_messages_per_second),
        capability_generation,
    })
}
