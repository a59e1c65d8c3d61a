//! The routes under /auth: a tenant's usage and its API keys, through the definer functions of `0007_gateway.sql`.
//!
//! They alone need Postgres while a request waits; without it they answer 503 and memories are served on.

use std::time::Duration;

use axum::body::Body;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, LOCATION},
};
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use tenancy::ApiKey;
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    auth::Caller,
    error::Error,
    router::{Gateway, is_json, json},
};

const DATABASE_TIMEOUT: Duration = Duration::from_secs(5);
const KEY_BODY: usize = 16 * 1024;
const PAGE: i64 = 50;
const PAGE_MOST: i64 = 100;
const MAX_EXPIRY_DAYS: i64 = 3650;

#[derive(Serialize)]
struct Used {
    used: i64,
    /// -1: no limit.
    limit: i64,
}

#[derive(Serialize)]
struct Usage<'a> {
    tenant: Uuid,
    tier: &'a str,
    memories: Used,
    agents: Used,
    api_keys: Used,
    requests_per_minute: u32,
}

#[derive(FromRow)]
struct UsageRow {
    memory_count: i32,
    memory_limit: i32,
    max_agents: i32,
    max_api_keys: i32,
    agents: i64,
    api_keys: i64,
}

#[derive(FromRow, Serialize)]
struct Key {
    id: Uuid,
    agent: String,
    prefix: String,
    managed: bool,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    last_used_at: Option<OffsetDateTime>,
}

#[derive(Serialize)]
struct Page {
    items: Vec<Key>,
    /// Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    agent: String,
    expires_in_days: Option<i64>,
}

#[derive(Serialize)]
struct MadeKey<'a> {
    id: Uuid,
    agent: &'a str,
    /// The only time that it is shown.
    api_key: &'a str,
    prefix: &'a str,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
}

/// DETAIL of SQLSTATE SM413.
#[derive(Deserialize)]
struct QuotaDetail {
    what: String,
    used: i64,
    limit: i64,
}

/// GET /auth/usage
pub(crate) async fn usage(gateway: &Gateway, caller: &Caller) -> Result<Response<Body>, Error> {
    let id = caller.tenant.id.uuid();
    let query = sqlx::query_as::<_, UsageRow>(
        "SELECT g.memory_count, g.memory_limit, u.max_agents, u.max_api_keys, k.agents, k.api_keys \
         FROM stellar.users u JOIN stellar.usage g ON g.user_id = u.id, \
         LATERAL (SELECT count(*) AS api_keys, count(DISTINCT agent) AS agents FROM stellar.api_keys k \
             WHERE k.user_id = u.id AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())) k \
         WHERE u.id = $1 AND u.retired_at IS NULL",
    );
    let row = query.bind(id).persistent(false).fetch_optional(&gateway.pool);
    let row = in_time("reading a tenant's usage", row).await?.ok_or(Error::InvalidKey)?;
    let UsageRow { memory_count, memory_limit, max_agents, max_api_keys, agents, api_keys } = row;
    let usage = Usage {
        tenant: id,
        tier: &caller.tenant.tier,
        memories: Used { used: memory_count.into(), limit: memory_limit.into() },
        agents: Used { used: agents, limit: max_agents.into() },
        api_keys: Used { used: api_keys, limit: max_api_keys.into() },
        requests_per_minute: caller.tenant.requests_per_minute,
    };
    Ok(json(StatusCode::OK, &usage))
}

/// GET /auth/api-keys?limit=&cursor=
pub(crate) async fn list(gateway: &Gateway, caller: &Caller, query: Option<&str>) -> Result<Response<Body>, Error> {
    let (limit, after) = page_of(query.unwrap_or_default())?;
    let (after_time, after_id) = after.unzip();
    let query = sqlx::query_as::<_, Key>(
        "SELECT id, agent, prefix, managed, created_at, expires_at, last_used_at FROM stellar.api_keys \
         WHERE user_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) \
         AND ($2::timestamptz IS NULL OR (created_at, id) > ($2, $3)) \
         ORDER BY created_at, id LIMIT $4",
    );
    let query = query.bind(caller.tenant.id.uuid()).bind(after_time).bind(after_id).bind(limit + 1).persistent(false);
    let mut items = in_time("listing API keys", query.fetch_all(&gateway.pool)).await?;
    let more = items.len() as i64 > limit;
    items.truncate(limit as usize);
    let next_cursor = items.last().filter(|_| more).map(|key| cursor(key.created_at, key.id));
    Ok(json(StatusCode::OK, &Page { items, next_cursor }))
}

/// POST /auth/api-keys
pub(crate) async fn create(
    gateway: &Gateway,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response<Body>, Error> {
    let NewKey { agent, expires_in_days } = read(headers, body, gateway.times.request_timeout).await?;
    if !is_agent(&agent) {
        let rule =
            "`agent` has 1 to 63 characters a-z, 0-9, `.`, `_` and `-`, and starts and ends with a letter or digit.";
        return Err(Error::Invalid(rule.to_owned()));
    }
    let expires_at = match expires_in_days {
        None => None,
        Some(days @ 1..=MAX_EXPIRY_DAYS) => Some(OffsetDateTime::now_utc() + time::Duration::days(days)),
        Some(_) => return Err(Error::Invalid(format!("`expires_in_days` is a number from 1 to {MAX_EXPIRY_DAYS}."))),
    };
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
    let id = in_time("creating an API key", query.fetch_one(&gateway.pool)).await?;
    // Its maker may use it at once; the other gateways learn of it by notice.
    gateway.directory.verify(caller.tenant.id).await;
    let made = MadeKey { id, agent: &agent, api_key: key.expose(), prefix: key.display_prefix(), expires_at };
    let mut response = json(StatusCode::CREATED, &made);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/auth/api-keys/{id}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// DELETE /auth/api-keys/{id}
pub(crate) async fn revoke(gateway: &Gateway, caller: &Caller, path: &str) -> Result<Response<Body>, Error> {
    // An id that is no UUID names no key, which is all that there is to say.
    let id = path.rsplit('/').next().and_then(|id| Uuid::try_parse(id).ok()).ok_or(Error::NoSuchKey)?;
    let query = sqlx::query_scalar::<_, bool>("SELECT stellar.key_revoke($1, $2, $3, $4)")
        .bind(caller.tenant.id.uuid())
        .bind(id)
        .bind(caller.key_id)
        .bind(&*caller.agent)
        .persistent(false);
    if !in_time("revoking an API key", query.fetch_one(&gateway.pool)).await? {
        return Err(Error::NoSuchKey);
    }
    gateway.directory.verify(caller.tenant.id).await;
    Ok(json(StatusCode::OK, &serde_json::json!({ "revoked": true })))
}

async fn read(headers: &HeaderMap, body: Body, limit: Duration) -> Result<NewKey, Error> {
    if !is_json(headers) {
        return Err(Error::NotJson);
    }
    let body = crate::proxy::read_whole(body, headers, KEY_BODY, Instant::now() + limit).await?;
    // serde's text names the field and the place, and repeats nothing but names of fields.
    serde_json::from_slice(&body).map_err(|error| Error::Invalid(format!("The body is not a valid request: {error}.")))
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

/// A place in the list: the last key's time and id, opaque to clients.
fn cursor(created_at: OffsetDateTime, id: Uuid) -> String {
    // Postgres counts microseconds.
    format!("{:016x}{}", created_at.unix_timestamp_nanos() as i64 / 1000, id.simple())
}

fn parse_cursor(text: &str) -> Option<(OffsetDateTime, Uuid)> {
    let (micros, id) = text.split_at_checked(16)?;
    let micros = i64::from_str_radix(micros, 16).ok()?;
    let created_at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok()?;
    Some((created_at, Uuid::try_parse(id).ok()?))
}

fn page_of(query: &str) -> Result<(i64, Option<(OffsetDateTime, Uuid)>), Error> {
    let (mut limit, mut after) = (PAGE, None);
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "limit" => {
                limit = value
                    .parse()
                    .ok()
                    .filter(|n| (1..=PAGE_MOST).contains(n))
                    .ok_or_else(|| Error::Invalid(format!("`limit` is a number from 1 to {PAGE_MOST}.")))?;
            }
            "cursor" => {
                let place = parse_cursor(&value);
                after = Some(
                    place
                        .ok_or_else(|| Error::Invalid("`cursor` is a `next_cursor` of an earlier page.".to_owned()))?,
                );
            }
            _ => {}
        }
    }
    Ok((limit, after))
}

async fn in_time<T>(what: &'static str, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(DATABASE_TIMEOUT, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(of_postgres(what, error)),
        Err(_) => Err(Error::DatabaseTimeout(what)),
    }
}

/// The SQLSTATEs of our functions are answers; everything else is a failure.
fn of_postgres(what: &'static str, error: sqlx::Error) -> Error {
    let Some(said) = error.as_database_error() else { return Error::Database { what, source: error } };
    match said.code().as_deref() {
        Some("SM413") => {
            let detail = said.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().and_then(|error| error.detail());
            match detail.and_then(|detail| serde_json::from_str(detail).ok()) {
                Some(QuotaDetail { what, used, limit }) => Error::KeyQuota { what, used, limit },
                None => Error::Database { what, source: error },
            }
        }
        Some("SM409") => Error::KeyManaged,
        Some("SM404") => Error::InvalidKey,
        _ => Error::Database { what, source: error },
    }
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

    #[test]
    fn a_cursor_reads_back_to_the_microsecond() {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_790_000_000_123_456_000).expect("a time");
        let id = Uuid::new_v4();
        assert_eq!(parse_cursor(&cursor(at, id)), Some((at, id)));
        for rubbish in ["", "0", &"g".repeat(48), "ä"] {
            assert_eq!(parse_cursor(rubbish), None, "{rubbish}");
        }
    }

    #[test]
    fn pages_are_bounded() {
        assert!(matches!(page_of(""), Ok((PAGE, None))));
        assert!(matches!(page_of("limit=100&other=1"), Ok((100, None))));
        for query in ["limit=0", "limit=101", "limit=x", "cursor=x"] {
            assert!(page_of(query).is_err(), "{query}");
        }
    }
}
