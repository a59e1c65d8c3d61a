//! Wounds that others in this field had, each tried here, and tried again on a build that has the wound.

use harness::{Answer, Client, DataPlane, Tenant, TenantSpec};
use reqwest::Method;
use serde_json::json;
use tenancy::{ApiKey, RoleName};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::ground::{self, Login, Outcome, administer};

/// Puts back what the weakened builds replace.
static FUNCTIONS: OnceCell<Vec<String>> = OnceCell::const_new();

/// The servers, shared, and the right to weaken them: one test at a time.
async fn shared() -> (&'static DataPlane, MutexGuard<'static, ()>) {
    static SHARED: OnceCell<DataPlane> = OnceCell::const_new();
    static TURN: Mutex<()> = Mutex::const_new(());
    let plane = SHARED.get_or_init(|| async { DataPlane::start().await.unwrap() }).await;
    let definitions =
        "SELECT array_agg(pg_get_functiondef(p.oid)) FROM pg_proc p WHERE p.pronamespace = 'stellar'::regnamespace";
    FUNCTIONS.get_or_init(|| ground::ask(plane, definitions)).await;
    (plane, TURN.lock().await)
}

async fn mend(plane: &DataPlane) {
    for function in FUNCTIONS.get().unwrap() {
        administer(plane, function).await;
    }
}

/// An attacker whose own role may log in, and a victim with memories that tell.
async fn two(plane: &DataPlane, name: &str) -> (Tenant, Tenant) {
    let spec = TenantSpec { max_memories: -1, ..TenantSpec::default() };
    let mut tenants = ground::tenants(plane, name, 2, spec).await;
    for tenant in &tenants {
        harness::eventually("a store works", || async {
            let content = format!("belongs to {}.", tenant.name);
            (plane.client(tenant).store(&content).await.unwrap().status == 201).then_some(())
        })
        .await;
    }
    ground::admit(plane, &tenants[0]).await;
    let victim = tenants.remove(1);
    (tenants.remove(0), victim)
}

/// A request to the pooled engine past the gateway.
async fn to_engine(plane: &DataPlane, tenant: &Tenant, capability: String) -> Answer {
    let request = reqwest::Client::new()
        .get(format!("http://127.0.0.1:{}/api/v1/memories", plane.engine.port))
        .header(tenancy::TENANT_HEADER, tenant.id.to_string())
        .header(tenancy::CAPABILITY_HEADER, capability);
    Answer::read(request.send().await.unwrap()).await.unwrap()
}

/// A database that believes the name of a tenant.
const WITHOUT_CAPABILITIES: &str = "
    CREATE OR REPLACE FUNCTION stellar.current_tenant() RETURNS uuid LANGUAGE sql STABLE SECURITY DEFINER
        AS $$ SELECT nullif(current_setting('app.current_user_id', true), '')::uuid $$;
    CREATE OR REPLACE FUNCTION stellar.admitted(tenant uuid, capability bytea)
        RETURNS TABLE (change_seq bigint, memory_count integer, memory_limit integer) LANGUAGE sql STABLE SECURITY DEFINER
        AS $$ SELECT u.change_seq, u.memory_count, u.memory_limit FROM stellar.usage u WHERE u.user_id = tenant $$";

/// As in CVE-2026-44477 of CloudNativePG: a shared login put on another role, which SQL could take off again.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_reset_in_a_shared_session() {
    let (plane, _turn) = shared().await;
    let (attacker, victim) = two(plane, "role-reset").await;
    let (own_role, role) = (RoleName::of(attacker.id), RoleName::of(victim.id));
    let ways = [
        format!("RESET ROLE; SET ROLE {role}"),
        format!("SET ROLE NONE; SET LOCAL ROLE {role}"),
        format!("RESET SESSION AUTHORIZATION; SET SESSION AUTHORIZATION {role}"),
        format!("COMMIT; SET ROLE {role}; BEGIN"),
    ];
    let through = async |begin: &str| {
        let mut through = Vec::new();
        for login in [Login::Pooled, Login::Own] {
            for way in &ways {
                let mut session = ground::session(plane, login, &attacker).await;
                ground::run(&mut session, &format!("BEGIN; {begin}")).await;
                let reads = format!("{way}; SELECT content FROM stellar.memories WHERE user_id = '{}'", victim.id);
                if ground::run(&mut session, &reads).await.text().contains(&victim.name) {
                    through.push((login, way.clone()));
                }
            }
        }
        through
    };
    assert_eq!(through(&ground::enter(plane, &attacker, false)).await, []);
    administer(
        plane,
        &format!(
            "GRANT {own_role}, {role} TO stellar_pool;
             CREATE OR REPLACE FUNCTION stellar.current_tenant() RETURNS uuid LANGUAGE sql STABLE
                AS $$ SELECT CASE WHEN current_user LIKE 't\\_%' THEN substr(current_user::text, 3)::uuid END $$"
        ),
    )
    .await;
    // `create or replace` keeps a SECURITY DEFINER that is not named.
    administer(plane, "ALTER FUNCTION stellar.current_tenant() SECURITY INVOKER").await;
    let noticed = through(&format!("SET LOCAL ROLE {own_role}")).await;
    assert!(noticed.iter().any(|(login, _)| *login == Login::Pooled), "{noticed:?}");
    administer(plane, &format!("REVOKE {own_role}, {role} FROM stellar_pool")).await;
    mend(plane).await;
}

/// As in CVE-2023-2455 and CVE-2024-10976 of Postgres: a plan that was made for one tenant and is used for the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_kept_while_the_tenant_changes() {
    let (plane, _turn) = shared().await;
    let (ada, eve) = two(plane, "plans").await;
    // Functions of a platform team's own, as it may add them.
    administer(
        plane,
        "CREATE OR REPLACE FUNCTION public.contents() RETURNS SETOF text LANGUAGE sql STABLE
             AS $$ SELECT m.content FROM stellar.memories m $$;
         CREATE OR REPLACE FUNCTION public.contents_in_a_loop() RETURNS SETOF text LANGUAGE plpgsql
             AS $$ BEGIN RETURN QUERY SELECT m.content FROM stellar.memories m WHERE m.zone >= 0; END $$;
         CREATE OR REPLACE VIEW public.contents_seen AS SELECT m.content FROM stellar.memories m;
         GRANT SELECT ON public.contents_seen TO stellar_pool",
    )
    .await;
    let mixed_up = async || {
        let mut mixed_up = Vec::new();
        for plan in ["auto", "force_generic_plan", "force_custom_plan"] {
            let mut session = ground::session(plane, Login::Pooled, &ada).await;
            ground::run(
                &mut session,
                &format!(
                    "SET plan_cache_mode = {plan};
                     PREPARE plain AS SELECT m.content FROM stellar.memories m;
                     PREPARE bound (int) AS SELECT m.content FROM stellar.memories m WHERE m.zone >= $1;
                     PREPARE nested AS WITH x AS MATERIALIZED (SELECT * FROM stellar.memories) SELECT (SELECT max(x.content) FROM x)"
                ),
            )
            .await;
            // More often than Postgres takes to settle for one plan.
            for round in 0..8 {
                for (tenant, other) in [(&ada, &eve), (&eve, &ada)] {
                    for statement in [
                        "EXECUTE plain",
                        "EXECUTE bound(0)",
                        "EXECUTE nested",
                        "SELECT public.contents()",
                        "SELECT public.contents_in_a_loop()",
                        "SELECT m.content FROM stellar.memories m",
                    ] {
                        let sql = format!("BEGIN; {}; {statement}; COMMIT", ground::enter(plane, tenant, false));
                        let text = ground::run(&mut session, &sql).await.text();
                        if !text.contains(&format!("to {}.", tenant.name))
                            || text.contains(&format!("to {}.", other.name))
                        {
                            mixed_up.push(format!("{plan}, {round}: {statement}: {text}"));
                        }
                    }
                }
            }
        }
        mixed_up
    };
    assert_eq!(mixed_up().await, Vec::<String>::new());
    // A function that Postgres takes for a constant when it plans.
    administer(plane, "ALTER FUNCTION stellar.current_tenant() IMMUTABLE").await;
    assert!(!mixed_up().await.is_empty(), "a constant tenant is noticed");
    mend(plane).await;
    administer(plane, "DROP VIEW public.contents_seen; DROP FUNCTION public.contents, public.contents_in_a_loop").await;
}

/// As in CVE-2025-8713 of Postgres: statistics sampled from all rows answer questions about hidden ones.
#[tokio::test(flavor = "multi_thread")]
async fn statistics_tell_what_rows_hide() {
    let (plane, _turn) = shared().await;
    let (attacker, victim) = two(plane, "statistics").await;
    administer(
        plane,
        &format!(
            "INSERT INTO stellar.memories (user_id, id, content, session, zone, total_score)
             SELECT '{}', gen_random_uuid(), 'the diagnosis is gout', 'clinic', 2, 0 FROM generate_series(1, 6000)",
            victim.id
        ),
    )
    .await;
    // Each guess right for the victim, beside one that is right for nobody.
    let guesses = [
        ("content = 'the diagnosis is gout'", "content = 'the diagnosis is flux'"),
        ("session = 'clinic'", "session = 'school'"),
        (
            "content > 'the diagnosis is g' AND content < 'the diagnosis is h'",
            "content > 'the diagnosis is i' AND content < 'the diagnosis is j'",
        ),
        ("content LIKE 'the diagnosis is g%'", "content LIKE 'the diagnosis is x%'"),
        ("user_id = '{B}'", "user_id = '00000000-0000-4000-8000-000000000009'"),
    ];
    let rows = |text: &str| -> Vec<String> {
        text.split_whitespace().filter_map(|word| word.strip_prefix("rows=")).map(str::to_owned).collect()
    };
    let told = async || {
        let mut told = Vec::new();
        for login in [Login::Pooled, Login::Own] {
            let mut session = ground::session(plane, login, &attacker).await;
            let entered =
                ground::run(&mut session, &format!("BEGIN; {}", ground::enter(plane, &attacker, false))).await;
            assert!(matches!(entered, Outcome::Rows(_)));
            for (right, wrong) in guesses {
                let explain = |guess: &str| {
                    format!(
                        "EXPLAIN SELECT 1 FROM stellar.memories WHERE {}",
                        guess.replace("{B}", &victim.id.to_string())
                    )
                };
                let (of_right, of_wrong) = (
                    ground::run(&mut session, &explain(right)).await.text(),
                    ground::run(&mut session, &explain(wrong)).await.text(),
                );
                if rows(&of_right) != rows(&of_wrong) {
                    told.push(format!("{login:?}: {right}: {of_right} against {of_wrong}"));
                }
            }
            for view in ["pg_stats", "pg_stats_ext", "pg_stats_ext_exprs"] {
                let text = ground::run(&mut session, &format!("SELECT * FROM {view} WHERE schemaname = 'stellar'"))
                    .await
                    .text();
                if text.contains("gout") || text.contains("clinic") {
                    told.push(format!("{login:?}: {view}"));
                }
            }
        }
        told
    };
    administer(plane, "ANALYZE").await;
    assert_eq!(told().await, Vec::<String>::new());
    administer(
        plane,
        "ALTER TABLE stellar.memories ALTER COLUMN content SET STATISTICS 100, ALTER COLUMN session SET STATISTICS 100;
         ANALYZE stellar.memories",
    )
    .await;
    assert!(!told().await.is_empty(), "statistics are noticed");
    administer(
        plane,
        &format!(
            "ALTER TABLE stellar.memories ALTER COLUMN content SET STATISTICS 0, ALTER COLUMN session SET STATISTICS 0;
             DELETE FROM pg_catalog.pg_statistic WHERE starelid = 'stellar.memories'::regclass;
             DELETE FROM stellar.memories WHERE user_id = '{}'",
            victim.id
        ),
    )
    .await;
}

/// As in CVE-2026-22806 of vCluster: a credential that opens more, or longer, than it was made for.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_no_more_and_no_longer_than_it_was_made_for() {
    let (plane, _turn) = shared().await;
    let (tenant, other) = two(plane, "keys").await;
    let status = async |key: &str| Client::new(&plane.url(), key).get("/memories").await.unwrap();
    let another_key = async |column: &str, value: &str| {
        let key = ApiKey::generate();
        let hash = ground::ask::<String>(plane, &format!("SELECT encode(sha256('{}'), 'hex')", key.expose())).await;
        let columns = format!("(user_id, agent, key_hash, prefix, {column})");
        let values = format!("('{}', 'second', '\\x{hash}', 'x', {value})", tenant.id);
        administer(plane, &format!("INSERT INTO stellar.api_keys {columns} VALUES {values}")).await;
        key.expose().to_owned()
    };
    let good = another_key("managed", "false").await;
    harness::eventually("a good key opens", || async { (status(&good).await.status == 200).then_some(()) }).await;
    assert!(!status(&good).await.text.contains(&other.name));
    for (column, value) in
        [("revoked_at", "now()"), ("expires_at", "now()"), ("expires_at", "now() - interval '1 day'")]
    {
        let key = another_key(column, value).await;
        let refused = status(&key).await;
        assert_eq!((refused.status, refused.problem()), (401, Some("invalid-api-key")), "{column}: {}", refused.text);
    }
    let revoke =
        format!("UPDATE stellar.api_keys SET revoked_at = now() WHERE user_id = '{}' AND agent = 'second'", tenant.id);
    administer(plane, &revoke).await;
    harness::eventually("a revoked key ends", || async { (status(&good).await.status == 401).then_some(()) }).await;

    // Capabilities: only the tenant's own, of this rotation or the one before, and the pool's only for who is pooled.
    let capability = |of: &Tenant, generation| plane.master().capability(of.id, generation).expose();
    let rotate = async |generation: i32| {
        sqlx::query("SELECT stellar.tenant_apply($1, $2, 'free', false, -1, 1, 5, 1000000, $3, $4)")
            .bind(tenant.id.uuid())
            .bind(&tenant.name)
            .bind(generation)
            .bind(plane.master().capability(tenant.id, generation).hash().as_bytes().as_slice())
            .execute(&mut plane.login("operator").await.unwrap())
            .await
            .unwrap();
    };
    let served = async |capability: String| to_engine(plane, &tenant, capability).await.status;
    assert_eq!((served(capability(&tenant, 1)).await, served(capability(&other, 1)).await), (200, 421));
    rotate(2).await;
    assert_eq!((served(capability(&tenant, 1)).await, served(capability(&tenant, 2)).await), (200, 200));
    rotate(3).await;
    assert_eq!((served(capability(&tenant, 1)).await, served(capability(&tenant, 3)).await), (421, 200));
    administer(plane, WITHOUT_CAPABILITIES).await;
    assert_eq!(served(capability(&tenant, 1)).await, 200, "a capability that should have ended is noticed");
    mend(plane).await;
    plane.place(&tenant, Some(&plane.engine), "0 s").await.unwrap();
    assert_eq!(served(capability(&tenant, 3)).await, 421, "the pool's capability opens no dedicated tenant");
    plane.place(&tenant, None, "0 s").await.unwrap();

    // A build that tells nobody of a revocation.
    administer(plane, "ALTER TABLE stellar.api_keys DISABLE TRIGGER api_keys_changed").await;
    let good = another_key("managed", "false").await;
    harness::eventually("a good key opens", || async { (status(&good).await.status == 200).then_some(()) }).await;
    administer(plane, &revoke).await;
    assert_eq!(status(&good).await.status, 200, "a key that should have ended is noticed");
    administer(plane, "ALTER TABLE stellar.api_keys ENABLE TRIGGER api_keys_changed").await;
}

/// As in CVE-2026-22822 of External Secrets: a field that a tenant fills in, believed by somebody with more rights.
#[tokio::test(flavor = "multi_thread")]
async fn no_field_of_a_request_names_another_tenant() {
    let (plane, _turn) = shared().await;
    let (attacker, victim) = two(plane, "deputy").await;
    let (id, capability) = (victim.id.to_string(), plane.master().capability(attacker.id, 1).expose());
    let client = plane.client(&attacker);
    let mut requests = Vec::new();
    for name in [
        "x-stellar-tenant",
        "X-STELLAR-TENANT",
        "x_stellar_tenant",
        "x-stellar-user-id",
        "x-tenant-id",
        "x-user-id",
        "x-forwarded-user",
        "x-stellar-agent",
        "x-stellar-key-id",
        "x-original-user",
        "forwarded",
    ] {
        for path in ["/memories", "/stats", "/recall?q=belongs"] {
            requests.push(client.request(Method::GET, path).header(name, &id));
            requests
                .push(client.request(Method::GET, path).header(name, &id).header("x-stellar-capability", &capability));
            // A header that a client names as the connection's own is dropped: not the gateway's, which it sets afterwards.
            requests.push(
                client
                    .request(Method::GET, path)
                    .header(name, &id)
                    .header("connection", format!("close, {name}, x-stellar-capability")),
            );
        }
    }
    for field in ["user_id", "tenant", "tenant_id", "userId", "id", "owner", "app.current_user_id"] {
        for path in ["/memories", "/stats", "/recall?q=belongs", "/timeline"] {
            let joint = if path.contains('?') { '&' } else { '?' };
            requests.push(client.request(Method::GET, &format!("{path}{joint}{field}={id}")));
        }
        let body = json!({ "content": "planted by deputy", field: id });
        requests.push(client.request(Method::POST, "/store").header("x-stellar-tenant", &id).json(&body));
        let body = json!({ "content": "planted by deputy", "metadata": { field: id }, "session": id, "speaker": id });
        requests.push(client.request(Method::POST, "/store").header("x-stellar-tenant", &id).json(&body));
        requests.push(client.request(Method::POST, "/narrate").json(&json!({ "topic": "belongs", field: id })));
        requests.push(client.request(Method::POST, "/auth/api-keys").json(&json!({ "agent": "default", field: id })));
    }
    let (count, mark) = (requests.len(), format!("belongs to {}.", victim.name));
    for request in requests {
        let answer = Answer::read(request.send().await.unwrap()).await.unwrap();
        assert!(!answer.text.contains(&mark), "{}", answer.text);
    }
    let of_victim = plane.client(&victim).get("/memories").await.unwrap();
    assert_eq!(
        (&of_victim.body["total"], of_victim.text.contains("planted")),
        (&json!(1), false),
        "{}",
        of_victim.text
    );
    let keys: i64 = ground::ask(plane, &format!("SELECT count(*) FROM stellar.api_keys WHERE user_id = '{id}'")).await;
    assert_eq!(keys, 1, "no key was made for the victim");
    let planted = client.recall("planted").await.unwrap();
    assert_eq!(planted.status, 200);
    assert!(
        planted.body.as_array().is_some_and(|items| !items.is_empty()),
        "what was stored is the attacker's: {}",
        planted.text
    );
    println!("{count} requests");

    // Past the gateway: the engine believes the header as little, for Postgres does not.
    assert_eq!(to_engine(plane, &victim, capability.clone()).await.status, 421);
    administer(plane, WITHOUT_CAPABILITIES).await;
    let noticed = to_engine(plane, &victim, capability).await;
    assert!(noticed.text.contains(&mark), "a database that believes names is noticed: {}", noticed.text);
    mend(plane).await;
}
