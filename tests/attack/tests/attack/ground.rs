//! What every attack stands on: many tenants made quickly, each with rows in every table, and sessions as both kinds of
//! login that SQL of a tenant could run as.

use std::collections::{HashMap, HashSet};

use harness::{DataPlane, Tenant, TenantSpec};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _, ValueRef as _, postgres::PgRow};
use tenancy::{ApiKey, RoleName, TenantId};
use uuid::Uuid;

const PASSWORD: &str = "a-tenant-of-a-test";

/// As whom SQL of a tenant runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Login {
    /// Injected into a transaction of the pooled engine.
    Pooled,
    /// In a session of the tenant's own role, as its dedicated engine has.
    Own,
}

/// Makes tenants as the operator would, in one statement a step.
pub async fn tenants(plane: &DataPlane, name: &str, count: usize, spec: TenantSpec) -> Vec<Tenant> {
    let TenantSpec {
        tier,
        max_memories,
        requests_per_minute,
        max_agents,
        max_api_keys,
        max_sockets,
        socket_messages_per_second,
    } = spec;
    let (mut made, mut hashes, mut prefixes, mut capabilities) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for n in 0..count {
        let (id, key) = (TenantId::new(Uuid::new_v4()).unwrap(), ApiKey::generate());
        hashes.push(key.hash().as_bytes().to_vec());
        prefixes.push(key.display_prefix().to_owned());
        capabilities.push(plane.master().capability(id, 1).hash().as_bytes().to_vec());
        made.push(Tenant { id, name: format!("{name}-{n}"), key: key.expose().to_owned() });
    }
    let ids: Vec<Uuid> = made.iter().map(|tenant| tenant.id.uuid()).collect();
    let names: Vec<&str> = made.iter().map(|tenant| tenant.name.as_str()).collect();
    let mut operator = plane.login("operator").await.unwrap();
    sqlx::query(
        "SELECT stellar.tenant_apply(t.id, t.name, $4, false, $5, $6, $7, $8, 1, t.capability,
             p_max_sockets => $9, p_socket_messages_per_second => $10)
         FROM unnest($1::uuid[], $2::text[], $3::bytea[]) AS t (id, name, capability)",
    )
    .bind(&ids)
    .bind(&names)
    .bind(&capabilities)
    .bind(tier)
    .bind(max_memories)
    .bind(max_agents)
    .bind(max_api_keys)
    .bind(requests_per_minute)
    .bind(max_sockets)
    .bind(socket_messages_per_second)
    .execute(&mut operator)
    .await
    .unwrap();
    sqlx::query(
        "SELECT stellar.key_ensure(t.id, 'default', t.hash, t.prefix, '5 minutes'), stellar.role_ensure(t.id)
         FROM unnest($1::uuid[], $2::bytea[], $3::text[]) AS t (id, hash, prefix)",
    )
    .bind(&ids)
    .bind(&hashes)
    .bind(&prefixes)
    .execute(&mut operator)
    .await
    .unwrap();
    made
}

/// Gives every tenant rows in every table that has rows of tenants: memories (and with them changes), a kept answer, an
/// audit entry, a second key. Every text holds a word that only this tenant has.
pub async fn plant(plane: &DataPlane, memories_each: usize) {
    administer(
        plane,
        &format!(
            "INSERT INTO stellar.memories (user_id, id, content, metadata, session, speaker, source, agent, emotion, zone,
                 total_score, embedding)
             SELECT u.id, gen_random_uuid(), 'secret ' || w.word || ' number ' || n, jsonb_build_object('key', w.word), w.word,
                 w.word, w.word, w.word, w.word, 2, 0, decode(md5(w.word || n), 'hex')
             FROM stellar.users u, generate_series(1, {memories_each}) n,
                 LATERAL (SELECT 'word' || md5(u.id::text || 'of an attack') AS word) w;
             INSERT INTO stellar.operations (user_id, op_id, request_hash, answer)
             SELECT u.id, 'op' || md5(u.id::text || 'op'), sha256(u.id::text::bytea), to_jsonb('answer' || md5(u.id::text || 'answer'))
             FROM stellar.users u;
             INSERT INTO stellar.audit (user_id, agent, key_id, what, detail)
             SELECT u.id, 'agent' || md5(u.id::text || 'audit'), gen_random_uuid(), 'attacked',
                 jsonb_build_object('of', 'what' || md5(u.id::text || 'what'))
             FROM stellar.users u;
             INSERT INTO stellar.api_keys (user_id, agent, key_hash, prefix, revoked_at)
             SELECT u.id, 'agent' || md5(u.id::text || 'key'), sha256(decode(md5(u.id::text || 'key'), 'hex')),
                 'prefix' || md5(u.id::text || 'prefix'), now()
             FROM stellar.users u",
        ),
    )
    .await;
}

/// Runs statements as the superuser, all of them or none: again when programs that work on the same rows were in the way.
pub async fn administer(plane: &DataPlane, sql: &str) {
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    let deadlock =
        |error: &sqlx::Error| error.as_database_error().is_some_and(|e| e.code().as_deref() == Some("40P01"));
    for _ in 0..3 {
        match sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut superuser).await {
            Ok(_) => return,
            Err(error) => assert!(deadlock(&error), "{error}: {sql}"),
        }
    }
    panic!("a deadlock each time: {sql}");
}

/// One value as the superuser.
pub async fn ask<T>(plane: &DataPlane, sql: &str) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(&mut superuser)
        .await
        .unwrap_or_else(|e| panic!("{e}: {sql}"))
}

/// Lets the tenant's own role log in, beside the pool.
pub async fn admit(plane: &DataPlane, tenant: &Tenant) {
    administer(plane, &format!("ALTER ROLE {} LOGIN PASSWORD '{PASSWORD}'", RoleName::of(tenant.id))).await;
    sqlx::query("SELECT stellar.tenant_admit_role($1)")
        .bind(tenant.id.uuid())
        .execute(&mut plane.login("operator").await.unwrap())
        .await
        .unwrap();
}

/// The URL of the tenant's own role, once it is admitted.
pub fn own_url(plane: &DataPlane, tenant: &Tenant) -> String {
    format!("postgres://{}:{PASSWORD}@127.0.0.1:{}/stellar", RoleName::of(tenant.id), plane.postgres.port)
}

/// A session that runs SQL as the tenant's kind of login. For [`Login::Own`] the tenant has to be admitted before.
pub async fn session(plane: &DataPlane, login: Login, tenant: &Tenant) -> PgConnection {
    match login {
        Login::Pooled => plane.login("pool").await.unwrap(),
        Login::Own => {
            let role = RoleName::of(tenant.id);
            PgConnection::connect_with(&plane.postgres.options(role.as_str(), PASSWORD, "stellar")).await.unwrap()
        }
    }
}

/// The call that begins every request of the tenant, as text.
pub fn enter(plane: &DataPlane, tenant: &Tenant, writes: bool) -> String {
    let capability = plane.master().capability(tenant.id, 1).expose();
    format!("SELECT * FROM stellar.enter('{}', '\\x{capability}', 'default', {writes})", tenant.id)
}

/// What statements brought back: every value of every row as text, or the error's texts.
pub enum Outcome {
    /// Accepted.
    Rows(Vec<Vec<String>>),
    /// Refused.
    Refused(String),
}

impl Outcome {
    /// All that a reader would see.
    pub fn text(&self) -> String {
        match self {
            Self::Rows(rows) => rows.iter().map(|row| row.join("\t")).collect::<Vec<_>>().join("\n"),
            Self::Refused(error) => error.clone(),
        }
    }
}

/// Runs statements by the simple protocol.
pub async fn run(session: &mut PgConnection, sql: &str) -> Outcome {
    match sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(session).await {
        Ok(rows) => Outcome::Rows(rows.iter().map(values).collect()),
        Err(sqlx::Error::Database(error)) => {
            let error = error.downcast_ref::<sqlx::postgres::PgDatabaseError>();
            Outcome::Refused(format!("{} {:?} {:?}", error.message(), error.detail(), error.r#where()))
        }
        Err(error) => Outcome::Refused(error.to_string()),
    }
}

fn values(row: &PgRow) -> Vec<String> {
    (0..row.len())
        .map(|n| {
            let value = row.try_get_raw(n).unwrap();
            // The simple protocol answers in text.
            if value.is_null() { String::new() } else { value.as_str().unwrap_or("not text").to_owned() }
        })
        .collect()
}

/// The words of a text that are long enough to belong to one tenant alone: ids, hashes, planted words.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .map(|word| word.strip_prefix('x').filter(|rest| rest.len() >= 32).unwrap_or(word))
        .filter(|word| word.len() >= 30)
}

/// For each word in the rows of exactly one tenant, in whatever table of the schema: whose it is.
pub async fn secrets(plane: &DataPlane) -> HashMap<String, Uuid> {
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    let tables: Vec<(String, String)> = sqlx::query_as(
        "SELECT a.attrelid::regclass::text, a.attname::text FROM pg_catalog.pg_attribute a
         JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
         WHERE c.relnamespace = 'stellar'::regnamespace AND c.relkind IN ('r', 'p', 'm')
             AND (a.attname = 'user_id' OR a.attrelid = 'stellar.users'::regclass AND a.attname = 'id')",
    )
    .fetch_all(&mut superuser)
    .await
    .unwrap();
    let (mut owners, mut shared) = (HashMap::new(), HashSet::new());
    for (table, owner) in tables {
        let rows: Vec<(Uuid, String)> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT r.{owner}, r::text FROM {table} r WHERE r.{owner} IS NOT NULL"
        )))
        .fetch_all(&mut superuser)
        .await
        .unwrap();
        assert!(!rows.is_empty(), "{table} has no row to find: `plant` has to give every tenant one");
        for (owner, text) in rows {
            for word in words(&text) {
                if *owners.entry(word.to_owned()).or_insert(owner) != owner {
                    shared.insert(word.to_owned());
                }
            }
        }
    }
    // Role names are public, and so a tenant's id without its hyphens.
    owners.retain(|word, owner| !shared.contains(word) && *word != owner.simple().to_string());
    owners
}

/// Pseudo-random numbers from a fixed seed, so that a run can be repeated.
pub struct Dice(u64);

impl Dice {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0 to below `sides` (splitmix64).
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}
