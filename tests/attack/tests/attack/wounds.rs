//! Wounds that others in this field had, each tried here, and tried again on a build that has the wound.

use std::time::{Duration, Instant};

use harness::{Answer, Client, DataPlane, Program, Tenant, TenantSpec};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tenancy::{ApiKey, RoleName};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::ground::{self, Login, Outcome, administer};

/// Puts back what the weakened builds replace.
static FUNCTIONS: OnceCell<String> = OnceCell::const_new();

/// The servers, shared, and the right to weaken them: one test at a time.
async fn shared() -> (&'static DataPlane, MutexGuard<'static, ()>) {
    static SHARED: OnceCell<DataPlane> = OnceCell::const_new();
    static TURN: Mutex<()> = Mutex::const_new(());
    let plane = SHARED.get_or_init(|| async { DataPlane::start().await.unwrap() }).await;
    FUNCTIONS.get_or_init(|| async { plane.functions().await.unwrap() }).await;
    (plane, TURN.lock().await)
}

async fn mend(plane: &DataPlane) {
    administer(plane, FUNCTIONS.get().unwrap()).await;
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

/// As in CVE-2023-2455 and CVE-2024-10976 of Postgres: a plan that was made for one tenant, or for one role, and is used for
/// the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_kept_while_the_tenant_changes() {
    const PLANS: [&str; 3] = ["auto", "force_generic_plan", "force_custom_plan"];
    let (plane, _turn) = shared().await;
    let (ada, eve) = two(plane, "plans").await;
    ground::admit(plane, &eve).await;
    // Functions and a view of a platform team's own, as it may add them.
    administer(
        plane,
        "CREATE OR REPLACE FUNCTION public.contents() RETURNS SETOF text LANGUAGE sql STABLE
             AS $$ SELECT m.content FROM stellar.memories m $$;
         CREATE OR REPLACE FUNCTION public.contents_in_a_loop() RETURNS SETOF text LANGUAGE plpgsql
             AS $$ BEGIN RETURN QUERY SELECT m.content FROM stellar.memories m WHERE m.zone >= 0; END $$;
         CREATE OR REPLACE VIEW public.contents_seen WITH (security_invoker = true) AS
             SELECT m.content, m.zone FROM stellar.memories m;
         GRANT SELECT ON public.contents_seen TO stellar_pool, stellar_tenants, stellar_maintainer",
    )
    .await;
    let shows = |text: &str| [&ada, &eve].map(|tenant| text.contains(&format!("to {}.", tenant.name)));
    let mixed_up = async || {
        let mut mixed_up = Vec::new();
        for plan in PLANS {
            let mut session = ground::session(plane, Login::Pooled, &ada).await;
            ground::run(
                &mut session,
                &format!(
                    "SET plan_cache_mode = {plan};
                     PREPARE plain AS SELECT m.content FROM stellar.memories m;
                     PREPARE bound (int) AS SELECT m.content FROM stellar.memories m WHERE m.zone >= $1;
                     PREPARE seen AS SELECT s.content FROM public.contents_seen s;
                     PREPARE nested AS WITH x AS MATERIALIZED (SELECT * FROM stellar.memories) SELECT (SELECT max(x.content) FROM x)"
                ),
            )
            .await;
            // More often than Postgres takes to settle for one plan.
            for round in 0..8 {
                for (tenant, expected) in [(&ada, [true, false]), (&eve, [false, true])] {
                    for statement in [
                        "EXECUTE plain",
                        "EXECUTE bound(0)",
                        "EXECUTE nested",
                        "EXECUTE seen",
                        "SELECT public.contents()",
                        "SELECT public.contents_in_a_loop()",
                        "SELECT m.content FROM stellar.memories m",
                    ] {
                        let sql = format!("BEGIN; {}; {statement}; COMMIT", ground::enter(plane, tenant, false));
                        let text = ground::run(&mut session, &sql).await.text();
                        if shows(&text) != expected {
                            mixed_up.push(format!("{plan}, {round}: {statement}: {text}"));
                        }
                    }
                }
            }
        }
        mixed_up
    };
    assert_eq!(mixed_up().await, Vec::<String>::new());

    // Who becomes whom in one session, and whether it sees what is Ada's and what is Eve's.
    let (role_of_ada, role_of_eve) = (RoleName::of(ada.id), RoleName::of(eve.id));
    let pool_for = |tenant: &Tenant| {
        format!("SET LOCAL SESSION AUTHORIZATION stellar_pool; {}", ground::enter(plane, tenant, false))
    };
    let of_a_superuser = vec![
        // Policies bind no superuser, and hide nothing from the maintainer: what was planned for these shows everything.
        ("SELECT 1".to_owned(), [true, true]),
        ("SET LOCAL ROLE stellar_maintainer".to_owned(), [true, true]),
        // A role that is taken on opens nothing: the login counts.
        (format!("SET LOCAL ROLE {role_of_ada}"), [false, false]),
        (format!("SET LOCAL SESSION AUTHORIZATION {role_of_ada}"), [true, false]),
        (pool_for(&eve), [false, true]),
        (pool_for(&ada), [true, false]),
        (format!("SET LOCAL SESSION AUTHORIZATION {role_of_eve}"), [false, true]),
        ("SET LOCAL SESSION AUTHORIZATION stellar_pool".to_owned(), [false, false]),
    ];
    let mut of_ada = vec![
        ("SET LOCAL ROLE NONE".to_owned(), [true, false]),
        (format!("SELECT pg_catalog.set_config('app.current_user_id', '{}', true)", eve.id), [true, false]),
        (format!("SET LOCAL ROLE {role_of_ada}"), [true, false]),
        (ground::enter(plane, &ada, false), [true, false]),
    ];
    // From Postgres 16 on no tenant takes the group on.
    if ground::ask::<i32>(plane, "SELECT current_setting('server_version_num')::integer").await < 160_000 {
        of_ada.push(("SET LOCAL ROLE stellar_tenants".to_owned(), [true, false]));
    }
    let mixed_up_by_roles = async || {
        let mut mixed_up = Vec::new();
        for plan in PLANS {
            for (mut session, steps) in [
                (plane.postgres.superuser("stellar").await.unwrap(), &of_a_superuser),
                (ground::session(plane, Login::Own, &ada).await, &of_ada),
            ] {
                // The search path is the one that `enter` sets: another one would be a reason to plan anew.
                let prepared = ground::run(
                    &mut session,
                    &format!(
                        "SET plan_cache_mode = {plan};
                         SET search_path = pg_catalog, pg_temp;
                         PREPARE plain AS SELECT m.content FROM stellar.memories m;
                         PREPARE called AS SELECT c FROM public.contents() c;
                         PREPARE seen AS SELECT s.content FROM public.contents_seen s;
                         PREPARE bound (int) AS SELECT s.content FROM public.contents_seen s WHERE s.zone >= $1;
                         PREPARE nested AS WITH x AS MATERIALIZED (SELECT * FROM public.contents_seen)
                             SELECT (SELECT string_agg(x.content, ' ') FROM x)"
                    ),
                )
                .await;
                assert!(matches!(prepared, Outcome::Rows(_)), "{}", prepared.text());
                for round in 0..3 {
                    for (becomes, expected) in steps {
                        for statement in ["plain", "called", "seen", "bound(0)", "nested"] {
                            let sql = format!("BEGIN; {becomes}; EXECUTE {statement}; COMMIT");
                            let outcome = ground::run(&mut session, &sql).await;
                            if !matches!(outcome, Outcome::Rows(_)) || shows(&outcome.text()) != *expected {
                                mixed_up.push(format!("{plan}, {round}: {becomes}: {statement}: {}", outcome.text()));
                            }
                        }
                    }
                }
            }
        }
        mixed_up
    };
    assert_eq!(mixed_up_by_roles().await, Vec::<String>::new());

    // A view that looks with its owner's rights, whoever asks.
    administer(plane, "ALTER VIEW public.contents_seen RESET (security_invoker)").await;
    assert!(!mixed_up_by_roles().await.is_empty(), "another role's rights are noticed");
    administer(plane, "ALTER VIEW public.contents_seen SET (security_invoker = true)").await;
    // A function that Postgres takes for a constant when it plans.
    administer(plane, "ALTER FUNCTION stellar.current_tenant() IMMUTABLE").await;
    assert!(!mixed_up().await.is_empty(), "a constant tenant is noticed");
    assert!(!mixed_up_by_roles().await.is_empty(), "a constant tenant is noticed by who logs in");
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
    let status = async |gateway: &Program, key: &str| {
        Client::new(&format!("http://127.0.0.1:{}", gateway.port), key).get("/memories").await.unwrap()
    };
    let becomes = async |gateway: &Program, key: &str, wanted: u16| {
        let what = format!("a key's status becomes {wanted}");
        harness::eventually(what, || async { (status(gateway, key).await.status == wanted).then_some(()) }).await;
    };
    let another_key = async |of: &Tenant, column: &str, value: &str| {
        let key = ApiKey::generate();
        let hash = ground::ask::<String>(plane, &format!("SELECT encode(sha256('{}'), 'hex')", key.expose())).await;
        let columns = format!("(user_id, agent, key_hash, prefix, {column})");
        let values = format!("('{}', 'second', '\\x{hash}', 'x', {value})", of.id);
        administer(plane, &format!("INSERT INTO stellar.api_keys {columns} VALUES {values}")).await;
        key.expose().to_owned()
    };
    let revoke = async |of: &Tenant| {
        let id = of.id;
        let revoke =
            format!("UPDATE stellar.api_keys SET revoked_at = now() WHERE user_id = '{id}' AND agent = 'second'");
        administer(plane, &revoke).await;
    };
    let good = another_key(&tenant, "managed", "false").await;
    becomes(&plane.gateway, &good, 200).await;
    assert!(!status(&plane.gateway, &good).await.text.contains(&other.name));
    for (column, value) in
        [("revoked_at", "now()"), ("expires_at", "now()"), ("expires_at", "now() - interval '1 day'")]
    {
        let key = another_key(&tenant, column, value).await;
        let refused = status(&plane.gateway, &key).await;
        assert_eq!((refused.status, refused.problem()), (401, Some("invalid-api-key")), "{column}: {}", refused.text);
    }
    let revoked = Instant::now();
    revoke(&tenant).await;
    becomes(&plane.gateway, &good, 401).await;
    let ended_within = revoked.elapsed();

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

    // A build that tells nobody of a revocation, nor that the key was made: such a notice could arrive after the revocation
    // and bring it along. For the same reason it is the other tenant, of whom nothing was told meanwhile, and a gateway that
    // has just begun: it reads everything again after ten minutes.
    administer(plane, "ALTER TABLE stellar.api_keys DISABLE TRIGGER api_keys_added, DISABLE TRIGGER api_keys_changed")
        .await;
    let gateway = plane.another_gateway().await.unwrap();
    let good = another_key(&other, "managed", "false").await;
    becomes(&gateway, &good, 200).await;
    revoke(&other).await;
    // Long after it had ended above.
    tokio::time::sleep((2 * ended_within).max(Duration::from_secs(2))).await;
    assert_eq!(status(&gateway, &good).await.status, 200, "a key that should have ended is noticed");
    administer(plane, "ALTER TABLE stellar.api_keys ENABLE TRIGGER api_keys_added, ENABLE TRIGGER api_keys_changed")
        .await;
    revoke(&other).await;
    becomes(&gateway, &good, 401).await;
}

/// Requests that name the victim in whatever headers and fields a client fills in.
fn naming(victim: &Tenant, capability: &str, to: impl Fn(Method, &str) -> RequestBuilder) -> Vec<RequestBuilder> {
    let (id, mut requests) = (victim.id.to_string(), Vec::new());
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
            requests.push(to(Method::GET, path).header(name, &id));
            requests.push(to(Method::GET, path).header(name, &id).header("x-stellar-capability", capability));
            // A header that a client names as the connection's own is dropped: not the gateway's, which it sets afterwards.
            let connection = format!("close, {name}, x-stellar-capability");
            requests.push(to(Method::GET, path).header(name, &id).header("connection", connection));
        }
    }
    for field in ["user_id", "tenant", "tenant_id", "userId", "id", "owner", "app.current_user_id"] {
        for path in ["/memories", "/stats", "/recall?q=belongs", "/timeline"] {
            let joint = if path.contains('?') { '&' } else { '?' };
            requests.push(to(Method::GET, &format!("{path}{joint}{field}={id}")));
        }
        let body = json!({ "content": "planted by deputy", field: id });
        requests.push(to(Method::POST, "/store").header("x-stellar-tenant", &id).json(&body));
        let body = json!({ "content": "planted by deputy", "metadata": { field: id }, "session": id, "speaker": id });
        requests.push(to(Method::POST, "/store").header("x-stellar-tenant", &id).json(&body));
        requests.push(to(Method::POST, "/narrate").json(&json!({ "topic": "belongs", field: id })));
        requests.push(to(Method::POST, "/auth/api-keys").json(&json!({ "agent": "default", field: id })));
    }
    requests
}

/// What of such requests got through to the victim: answers that tell its memory, and what it did not have before.
async fn got_through(plane: &DataPlane, victim: &Tenant, requests: Vec<RequestBuilder>) -> Vec<String> {
    let (mark, mut through) = (format!("belongs to {}.", victim.name), Vec::new());
    for request in requests {
        let answer = Answer::read(request.send().await.unwrap()).await.unwrap();
        if answer.text.contains(&mark) {
            through.push(format!("told: {}", answer.text));
        }
    }
    let of_victim = plane.client(victim).get("/memories").await.unwrap();
    if of_victim.body["total"] != 1 || of_victim.text.contains("planted") {
        through.push(format!("planted: {}", of_victim.text));
    }
    let keys = format!("SELECT count(*) FROM stellar.api_keys WHERE user_id = '{}'", victim.id);
    let keys: i64 = ground::ask(plane, &keys).await;
    if keys != 1 {
        through.push(format!("keys: {keys}"));
    }
    through
}

/// As in CVE-2026-22822 of External Secrets: a field that a tenant fills in, believed by somebody with more rights.
#[tokio::test(flavor = "multi_thread")]
async fn no_field_of_a_request_names_another_tenant() {
    let (plane, _turn) = shared().await;
    let (attacker, victim) = two(plane, "deputy").await;
    let capability = plane.master().capability(attacker.id, 1).expose();
    let client = plane.client(&attacker);
    let by_gateway = || naming(&victim, &capability, |method, path| client.request(method, path));
    println!("{} requests", by_gateway().len());
    assert_eq!(got_through(plane, &victim, by_gateway()).await, Vec::<String>::new());
    let planted = client.recall("planted").await.unwrap();
    assert_eq!(planted.status, 200);
    assert!(
        planted.body.as_array().is_some_and(|items| !items.is_empty()),
        "what was stored is the attacker's: {}",
        planted.text
    );

    // Past it, to the engine, as by a gateway that adds its headers to those of the client: these come first and count.
    let http = reqwest::Client::new();
    let api = format!("http://127.0.0.1:{}/api/v1", plane.engine.port);
    let past_gateway = || -> Vec<RequestBuilder> {
        let requests = naming(&victim, &capability, |method, path| http.request(method, format!("{api}{path}")));
        let own = attacker.id.to_string();
        let as_attacker = |request: RequestBuilder| {
            request.header(tenancy::TENANT_HEADER, &own).header(tenancy::CAPABILITY_HEADER, &capability)
        };
        requests.into_iter().map(as_attacker).collect()
    };
    // Postgres believes them as little.
    assert_eq!(got_through(plane, &victim, past_gateway()).await, Vec::<String>::new());
    let noticed_as = |through: &[String], what: &str| through.iter().any(|found| found.starts_with(what));
    administer(plane, WITHOUT_CAPABILITIES).await;
    let through = got_through(plane, &victim, past_gateway()).await;
    assert!(noticed_as(&through, "told"), "a database that believes names is noticed: {through:?}");
    assert!(noticed_as(&through, "planted"), "a database that believes names is noticed: {through:?}");
    mend(plane).await;
    administer(
        plane,
        &format!("DELETE FROM stellar.memories WHERE user_id = '{}' AND content LIKE 'planted%'", victim.id),
    )
    .await;

    // The same requests by the gateway, to a database with a helper that passes the policies and believes a field.
    assert_eq!(got_through(plane, &victim, Vec::new()).await, Vec::<String>::new());
    administer(
        plane,
        "CREATE FUNCTION public.deputy() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
             UPDATE stellar.memories m SET user_id = (NEW.metadata ->> 'user_id')::uuid
             WHERE m.user_id = NEW.user_id AND m.id = NEW.id;
             RETURN NULL;
         END $$;
         CREATE TRIGGER deputy AFTER INSERT ON stellar.memories FOR EACH ROW WHEN (NEW.metadata ->> 'user_id' IS NOT NULL)
             EXECUTE FUNCTION public.deputy()",
    )
    .await;
    let through = got_through(plane, &victim, by_gateway()).await;
    assert!(noticed_as(&through, "planted"), "a helper that believes a field is noticed: {through:?}");
    administer(plane, "DROP TRIGGER deputy ON stellar.memories; DROP FUNCTION public.deputy()").await;
}
