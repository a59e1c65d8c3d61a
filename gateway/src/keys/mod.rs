//! The routes under /auth: a tenant's usage and its API keys, through the definer functions of `0007_gateway.sql`.
//!
//! They alone need Postgres while a request waits; without it they answer 503 and memories are served on.

mod database;
mod page;
pub(crate) mod usage;

use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header::LOCATION};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sqlx::{FromRow, postgres::types::PgInterval};
use tenancy::ApiKey;
use time::OffsetDateTime;
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    auth::Caller,
    error::Error,
    router::{Gateway, is_json, json},
};
use database::in_time;
use page::{KeyAfter, cut, page_of};
pub(crate) use usage::{agents, usage};

const KEY_BODY: usize = 16 * 1024;
const MAX_EXPIRY_DAYS: i64 = 3650;
/// Seconds. Time to hand a new key to whoever holds the old one.
const OVERLAP: i64 = 600;
/// A week.
const OVERLAP_MOST: i64 = 7 * 24 * 3600;

/// A key, without its text.
#[derive(FromRow, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(crate) struct Key {
    /// What names it.
    id: Uuid,
    /// Whose it is.
    #[schema(example = "planner")]
    agent: String,
    /// How its text begins.
    #[schema(example = "sk-stellar-3f9a1c")]
    prefix: String,
    /// Made by the operator: its text is in a Secret, and deleting that Secret replaces it.
    managed: bool,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// When it ends. Null: never by itself.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required = true)]
    expires_at: Option<OffsetDateTime>,
    /// When it was used last, to about half a minute. Null: never.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required = true)]
    last_used_at: Option<OffsetDateTime>,
}

/// A page of a tenant's live keys, oldest first.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKeyPage)]
pub(crate) struct KeyPage {
    items: Vec<Key>,
    /// Where the next page begins; absent on the last one.
    #[schema(value_type = String, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A key to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateApiKeyRequest)]
pub(crate) struct NewKey {
    /// Whose it shall be.
    #[schema(example = "planner", max_length = 63, pattern = "^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")]
    agent: String,
    /// When it shall end; never by itself when left out.
    #[schema(example = 90, minimum = 1, maximum = 3650)]
    expires_in_days: Option<i64>,
}

/// How a key shall be replaced.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RotateApiKeyRequest)]
pub(crate) struct Rotation {
    /// How long the old key opens on, in seconds. 0: not at all.
    #[schema(example = 600, minimum = 0, maximum = 604_800, default = 600)]
    overlap_seconds: Option<i64>,
    /// When the new key shall end; never by itself when left out.
    #[schema(example = 90, minimum = 1, maximum = 3650)]
    expires_in_days: Option<i64>,
}

/// A key that was made.
#[derive(Serialize, ToSchema)]
#[schema(as = NewApiKey)]
pub(crate) struct MadeKey {
    /// What names it.
    id: Uuid,
    /// Whose it is.
    #[schema(example = "planner")]
    agent: String,
    /// Its text. This is the only time that it is shown.
    #[schema(example = "sk-stellar-3f9a1c00000000000000000000000000")]
    api_key: String,
    /// How its text begins.
    #[schema(example = "sk-stellar-3f9a1c")]
    prefix: String,
    /// When it ends. Null: never by itself.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required = true)]
    expires_at: Option<OffsetDateTime>,
    /// After a rotation, the key that this one replaces.
    #[schema(value_type = Replaced, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<Replaced>,
}

/// A key that another one replaces.
#[derive(Serialize, ToSchema)]
#[schema(as = ReplacedApiKey)]
pub(crate) struct Replaced {
    id: Uuid,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

/// What became of a key.
#[derive(Serialize, ToSchema)]
#[schema(as = RevokedApiKey)]
pub(crate) struct Revoked {
    /// True.
    revoked: bool,
}

/// Lists the live keys, without their texts.
#[utoipa::path(get, path = "/api/v1/auth/api-keys", tag = "keys", operation_id = "list_api_keys", params(
    ("limit" = Option<i64>, Query, minimum = 1, maximum = 100, description = "Keys of a page, 50 by default"),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
), responses(
    (status = 200, description = "A page of keys", body = KeyPage),
))]
pub(crate) async fn list(gateway: &Gateway, caller: &Caller, query: Option<&str>) -> Result<Response<Body>, Error> {
    let (limit, after) = page_of::<KeyAfter>(query.unwrap_or_default())?;
    let query = sqlx::query_as::<_, Key>(
        "SELECT id, agent, prefix, managed, created_at, expires_at, last_used_at FROM stellar.api_keys \
         WHERE user_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) \
         AND ($2::timestamptz IS NULL OR (created_at, id) > ($2, $3)) \
         ORDER BY created_at, id LIMIT $4",
    );
    let query = query
        .bind(caller.tenant.id.uuid())
        .bind(after.map(|after| after.created_at))
        .bind(after.map(|after| after.id))
        .bind(limit + 1)
        .persistent(false);
    let rows = async { query.fetch_all(&mut *gateway.pool.acquire().await?).await };
    let mut items = in_time("listing API keys", rows).await?;
    let next_cursor = cut(&mut items, limit).map(|key| KeyAfter { created_at: key.created_at, id: key.id }.encode());
    Ok(json(StatusCode::OK, &KeyPage { items, next_cursor }))
}

/// Makes a key for an agent, new or known.
#[utoipa::path(post, path = "/api/v1/auth/api-keys", tag = "keys", operation_id = "create_api_key",
    request_body = NewKey,
    responses((status = 201, description = "The key, whose text is shown this once", body = MadeKey, headers(
        ("Location" = String, description = "Where it is revoked"),
    ))),
    extensions(("x-problems" = json!(["key-quota-reached"]))),
)]
pub(crate) async fn create(
    gateway: &Gateway,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response<Body>, Error> {
    if !is_json(headers) {
        return Err(Error::NotJson);
    }
    let body = read(headers, body, gateway.times.request_timeout).await?;
    let NewKey { agent, expires_in_days } = parse(&body)?;
    if !is_agent(&agent) {
        let rule =
            "`agent` has 1 to 63 characters a-z, 0-9, `.`, `_` and `-`, and starts and ends with a letter or digit.";
        return Err(Error::Invalid(rule.to_owned()));
    }
    let expires_at = expiry(expires_in_days)?;
    let key = ApiKey::generate();
    let hash = key.hash();
    let query = sqlx::query_scalar::<_, Uuid>("SELECT stellar.key_create($1, $2, $3, $4, $5, $6, $7)")
        .bind(caller.tenant.id.uuid())
        .bind(&agent)
        .bind(&hash.as_bytes()[..])
        .bind(key.display_prefix())
        .bind(expires_at)
        .bind(caller.key_id)
        .bind(&*caller.agent)
        .persistent(false);
    let made = async { query.fetch_one(&mut *gateway.pool.acquire().await?).await };
    let id = in_time("creating an API key", made).await?;
    shown(gateway, caller, &key, Made { id, agent, expires_at, replaces: None }).await
}

/// Replaces a key by a new one of the same agent
///
/// The old one opens for the overlap, but never longer than it would have anyway. Meanwhile there may be one key more than
/// the tier allows, not two: one that comes in the place of a key that is being replaced already ends when that would have.
/// The key that the operator keeps in a Secret is replaced by deleting that Secret.
#[utoipa::path(post, path = "/api/v1/auth/api-keys/{id}/rotate", tag = "keys", operation_id = "rotate_api_key",
    params(("id" = Uuid, Path, description = "The key to replace; it may be the one that is sent")),
    request_body(content = Option<Rotation>, description = "May be left out"),
    responses((status = 201, description = "The new key, whose text is shown this once", body = MadeKey, headers(
        ("Location" = String, description = "Where it is revoked"),
    ))),
    extensions(("x-problems" = json!(["key-quota-reached", "not-found", "conflict"]))),
)]
pub(crate) async fn rotate(
    gateway: &Gateway,
    caller: &Caller,
    path: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response<Body>, Error> {
    let body = read(headers, body, gateway.times.request_timeout).await?;
    let Rotation { overlap_seconds, expires_in_days } = match &body[..] {
        [] => Rotation::default(),
        _ if !is_json(headers) => return Err(Error::NotJson),
        body => parse(body)?,
    };
    let overlap = overlap_seconds.unwrap_or(OVERLAP);
    if !(0..=OVERLAP_MOST).contains(&overlap) {
        return Err(Error::Invalid(format!("`overlap_seconds` is a number from 0 to {OVERLAP_MOST}.")));
    }
    let expires_at = expiry(expires_in_days)?;
    let id = path.rsplit('/').nth(1).and_then(|id| Uuid::try_parse(id).ok()).ok_or(Error::NoSuchKey)?;
    let key = ApiKey::generate();
    let hash = key.hash();
    let query = sqlx::query_as::<_, (Uuid, String, Option<OffsetDateTime>, OffsetDateTime)>(
        "SELECT id, agent, expires_at, old_expires_at FROM stellar.key_rotate($1, $2, $3, $4, $5, $6, $7, $8)",
    );
    let query = query
        .bind(caller.tenant.id.uuid())
        .bind(id)
        .bind(&hash.as_bytes()[..])
        .bind(key.display_prefix())
        .bind(expires_at)
        .bind(PgInterval { months: 0, days: 0, microseconds: overlap * 1_000_000 })
        .bind(caller.key_id)
        .bind(&*caller.agent)
        .persistent(false);
    let rotated = async { query.fetch_optional(&mut *gateway.pool.acquire().await?).await };
    let rotated = in_time("rotating an API key", rotated).await?;
    let (new, agent, expires_at, old_expires_at) = rotated.ok_or(Error::NoSuchKey)?;
    let replaces = Some(Replaced { id, expires_at: old_expires_at });
    shown(gateway, caller, &key, Made { id: new, agent, expires_at, replaces }).await
}

/// A key as Postgres has it now.
struct Made {
    id: Uuid,
    agent: String,
    expires_at: Option<OffsetDateTime>,
    replaces: Option<Replaced>,
}

/// The answer that shows a key. Its maker may use it at once; the other gateways learn of it by notice.
async fn shown(gateway: &Gateway, caller: &Caller, key: &ApiKey, made: Made) -> Result<Response<Body>, Error> {
    gateway.directory.verify(caller.tenant.id).await;
    let Made { id, agent, expires_at, replaces } = made;
    let (api_key, prefix) = (key.expose().to_owned(), key.display_prefix().to_owned());
    let mut response = json(StatusCode::CREATED, &MadeKey { id, agent, api_key, prefix, expires_at, replaces });
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/auth/api-keys/{id}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// Revokes a key, at once.
#[utoipa::path(delete, path = "/api/v1/auth/api-keys/{id}", tag = "keys", operation_id = "revoke_api_key",
    params(("id" = Uuid, Path, description = "The key")),
    responses((status = 200, description = "It opens nothing any more", body = Revoked)),
    extensions(("x-problems" = json!(["not-found", "conflict"]))),
)]
pub(crate) async fn revoke(gateway: &Gateway, caller: &Caller, path: &str) -> Result<Response<Body>, Error> {
    // An id that is no UUID names no key, which is all that there is to say.
    let id = path.rsplit('/').next().and_then(|id| Uuid::try_parse(id).ok()).ok_or(Error::NoSuchKey)?;
    let query = sqlx::query_scalar::<_, bool>("SELECT stellar.key_revoke($1, $2, $3, $4)")
        .bind(caller.tenant.id.uuid())
        .bind(id)
        .bind(caller.key_id)
        .bind(&*caller.agent)
        .persistent(false);
    let revoked = async { query.fetch_one(&mut *gateway.pool.acquire().await?).await };
    if !in_time("revoking an API key", revoked).await? {
        return Err(Error::NoSuchKey);
    }
    gateway.directory.verify(caller.tenant.id).await;
    Ok(json(StatusCode::OK, &Revoked { revoked: true }))
}

async fn read(headers: &HeaderMap, body: Body, limit: Duration) -> Result<bytes::Bytes, Error> {
    crate::proxy::read_whole(body, headers, KEY_BODY, Instant::now() + limit).await
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    // serde's text names the field and the place. It may repeat a value, which its sender alone reads.
    serde_json::from_slice(body).map_err(|error| Error::Invalid(format!("The body is not a valid request: {error}.")))
}

fn expiry(in_days: Option<i64>) -> Result<Option<OffsetDateTime>, Error> {
    match in_days {
        None => Ok(None),
        Some(days @ 1..=MAX_EXPIRY_DAYS) => Ok(Some(OffsetDateTime::now_utc() + time::Duration::days(days))),
        Some(_) => Err(Error::Invalid(format!("`expires_in_days` is a number from 1 to {MAX_EXPIRY_DAYS}."))),
    }
}

/// As the check on `stellar.api_keys.agent` has it.
fn is_agent(name: &str) -> bool {
    let outer = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let inner = |b: u8| outer(b) || matches!(b, b'.' | b'_' | b'-');
    let bytes = name.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| inner(*b))
        && bytes.first().is_some_and(|b| outer(*b))
        && bytes.last().is_some_and(|b| outer(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_named_as_postgres_wants() {
        for name in ["a", "main", "agent-7", "a.b_c-d", &"x".repeat(63)] {
            assert!(is_agent(name), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a b", "ä", &"x".repeat(64)] {
            assert!(!is_agent(name), "{name}");
        }
    }
}
