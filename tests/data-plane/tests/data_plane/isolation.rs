//! Isolation against arbitrary SQL, layer by layer.
//!
//! Every attack runs as both kinds of attacker that a tenant could become: SQL injected into its pooled transaction,
//! and a session of its own role. Then each layer is broken on purpose, to see that the attack it stops is noticed.

use harness::{DataPlane, Tenant, TenantSpec};
use sqlx::{Connection as _, PgConnection};
use tenancy::RoleName;

/// What an attack must not achieve.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Breach {
    /// The statement returns a row.
    Row,
    /// The statement is accepted at all.
    Accepted,
}

/// `{A}` is the attacker's id, `{B}` the victim's, `{MEMORY}` the id of a memory of the victim.
const ATTACKS: &[(&str, Breach, &str)] = &[
    ("reads the victim's rows", Breach::Row, "SELECT 1 FROM stellar.memories WHERE user_id = '{B}'"),
    ("reads by guessing an id", Breach::Row, "SELECT 1 FROM stellar.memories WHERE id = '{MEMORY}'"),
    (
        "names the victim without its capability",
        Breach::Row,
        "SELECT pg_catalog.set_config('app.current_user_id', '{B}', true);
         SELECT 1 FROM stellar.memories WHERE user_id = '{B}'",
    ),
    ("turns row security off", Breach::Row, "SET LOCAL row_security = off; SELECT 1 FROM stellar.memories WHERE user_id = '{B}'"),
    ("becomes the maintainer", Breach::Accepted, "SET LOCAL ROLE stellar_maintainer"),
    ("becomes the owner", Breach::Accepted, "SET LOCAL ROLE stellar_owner"),
    ("becomes the victim's role", Breach::Accepted, "SET LOCAL ROLE {ROLE_B}"),
    (
        "resets its role",
        Breach::Row,
        "RESET ROLE; RESET SESSION AUTHORIZATION; SELECT 1 FROM stellar.memories WHERE user_id = '{B}'",
    ),
    ("reads the victim's log", Breach::Row, "SELECT 1 FROM stellar.changes WHERE user_id = '{B}'"),
    ("reads the victim's usage", Breach::Row, "SELECT 1 FROM stellar.usage WHERE user_id = '{B}'"),
    ("reads answers given to the victim", Breach::Row, "SELECT 1 FROM stellar.operations WHERE user_id = '{B}'"),
    ("reads capability hashes", Breach::Accepted, "SELECT capability_hash FROM stellar.users"),
    ("lists tenants", Breach::Accepted, "SELECT id FROM stellar.users"),
    ("reads key hashes", Breach::Accepted, "SELECT key_hash FROM stellar.api_keys"),
    ("rewrites the victim's rows", Breach::Row, "UPDATE stellar.memories SET content = 'x' WHERE user_id = '{B}' RETURNING 1"),
    (
        "plants a row with the victim",
        Breach::Accepted,
        "INSERT INTO stellar.memories (user_id, id, content, zone, total_score)
         VALUES ('{B}', pg_catalog.gen_random_uuid(), 'planted', 2, 0)",
    ),
    ("gives a row of its own away", Breach::Accepted, "UPDATE stellar.memories SET user_id = '{B}'"),
    ("deletes without the quota's triggers' consent", Breach::Accepted, "DELETE FROM stellar.memories"),
    ("forgets the victim's memory", Breach::Row, "SELECT 1 WHERE stellar.forget('{MEMORY}')"),
    ("locks the table against everybody", Breach::Accepted, "LOCK TABLE stellar.memories IN ACCESS EXCLUSIVE MODE"),
    ("puts a table of its own in front", Breach::Accepted, "CREATE TEMP TABLE users (id uuid)"),
    ("makes an object in our schema", Breach::Accepted, "CREATE TABLE stellar.mine (a int)"),
    ("makes an object in public", Breach::Accepted, "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
    ("erases the victim", Breach::Accepted, "SELECT stellar.tenant_erase('{B}', 'victim', 1)"),
    ("moves itself", Breach::Accepted, "SELECT stellar.tenant_place('{A}', 'pooled', NULL, '0 s')"),
    ("raises its own quota", Breach::Accepted, "UPDATE stellar.usage SET memory_limit = -1"),
    ("makes itself a key", Breach::Accepted, "SELECT stellar.key_create('{A}', 'a', sha256('x'), 'x', NULL, NULL, 'a')"),
    (
        "rotates the victim's keys",
        Breach::Accepted,
        "SELECT 1 FROM stellar.key_rotate('{B}', pg_catalog.gen_random_uuid(), sha256('x'), 'x', NULL, '0', NULL, 'a')",
    ),
    ("drops the victim's role", Breach::Accepted, "SELECT stellar.role_drop('{B}')"),
    (
        "learns by a failing expression",
        Breach::Accepted,
        "DO $$ BEGIN
            PERFORM 1 / (CASE WHEN content LIKE '%secret%' THEN 0 ELSE 1 END) FROM stellar.memories;
            RAISE EXCEPTION 'nothing learnt';
         EXCEPTION WHEN division_by_zero THEN NULL; END $$",
    ),
    (
        "learns that an id exists by a unique violation",
        Breach::Row,
        "DO $$ BEGIN
            PERFORM pg_catalog.set_config('app.learnt', 'false', true);
            INSERT INTO stellar.memories (user_id, id, content, zone, total_score) VALUES ('{A}', '{MEMORY}', 'probe', 2, 0);
         EXCEPTION WHEN unique_violation THEN PERFORM pg_catalog.set_config('app.learnt', 'true', true);
         END $$; SELECT 1 WHERE pg_catalog.current_setting('app.learnt')::boolean",
    ),
    (
        "learns the victim's size from the planner",
        Breach::Row,
        "DO $$ DECLARE plan json; of_b int; of_nobody int; BEGIN
            EXECUTE 'EXPLAIN (FORMAT JSON) SELECT 1 FROM stellar.memories WHERE user_id = ''{B}''' INTO plan;
            of_b := plan -> 0 -> 'Plan' ->> 'Plan Rows';
            EXECUTE 'EXPLAIN (FORMAT JSON) SELECT 1 FROM stellar.memories WHERE user_id = ''00000000-0000-4000-8000-000000000009'''
                INTO plan;
            of_nobody := plan -> 0 -> 'Plan' ->> 'Plan Rows';
            PERFORM pg_catalog.set_config('app.learnt', (of_b <> of_nobody)::text, true);
         END $$; SELECT 1 WHERE pg_catalog.current_setting('app.learnt')::boolean",
    ),
    (
        "reads the victim through the statistics view",
        Breach::Row,
        "SELECT 1 FROM pg_catalog.pg_stats WHERE schemaname = 'stellar' AND tablename = 'memories'",
    ),
];

/// A fault: what breaks a layer, what mends it (a replaced function is put back in any case), and the attack that must
/// then get through.
struct Fault {
    breaks: &'static str,
    mends: &'static str,
    noticed_by: &'static str,
}

const FAULTS: &[Fault] = &[
    Fault {
        breaks: "ALTER TABLE stellar.memories DISABLE ROW LEVEL SECURITY",
        mends: "ALTER TABLE stellar.memories ENABLE ROW LEVEL SECURITY",
        noticed_by: "reads the victim's rows",
    },
    Fault {
        breaks: "CREATE POLICY leak ON stellar.memories FOR SELECT USING (true)",
        mends: "DROP POLICY leak ON stellar.memories",
        noticed_by: "reads by guessing an id",
    },
    Fault {
        breaks: "ALTER POLICY tenant ON stellar.memories USING (user_id = current_setting('app.current_user_id')::uuid)",
        mends: "ALTER POLICY tenant ON stellar.memories USING (user_id = (SELECT stellar.current_tenant()))",
        noticed_by: "names the victim without its capability",
    },
    Fault {
        breaks: "ALTER POLICY tenant ON stellar.memories WITH CHECK (true)",
        mends: "ALTER POLICY tenant ON stellar.memories WITH CHECK (user_id = (SELECT stellar.current_tenant()))",
        noticed_by: "plants a row with the victim",
    },
    Fault {
        breaks: "GRANT stellar_maintainer TO stellar_pool, stellar_tenants",
        mends: "REVOKE stellar_maintainer FROM stellar_pool, stellar_tenants",
        noticed_by: "becomes the maintainer",
    },
    Fault {
        breaks: "GRANT UPDATE ON stellar.memories TO stellar_pool, stellar_tenants",
        mends: "REVOKE UPDATE ON stellar.memories FROM stellar_pool, stellar_tenants;
            GRANT UPDATE (content, metadata, importance, emotion, zone, total_score, last_recalled_at, recall_count,
                embedding, embedding_version, index_row, index_version)
            ON stellar.memories TO stellar_pool, stellar_tenants",
        noticed_by: "locks the table against everybody",
    },
    Fault {
        breaks: "GRANT DELETE ON stellar.memories TO stellar_pool, stellar_tenants",
        mends: "REVOKE DELETE ON stellar.memories FROM stellar_pool, stellar_tenants",
        noticed_by: "deletes without the quota's triggers' consent",
    },
    Fault {
        breaks: "GRANT TEMP ON DATABASE stellar TO PUBLIC",
        mends: "REVOKE TEMP ON DATABASE stellar FROM PUBLIC",
        noticed_by: "puts a table of its own in front",
    },
    Fault {
        breaks: "GRANT SELECT ON stellar.users TO stellar_pool, stellar_tenants; ALTER TABLE stellar.users DISABLE ROW LEVEL SECURITY",
        mends: "REVOKE SELECT ON stellar.users FROM stellar_pool, stellar_tenants; ALTER TABLE stellar.users ENABLE ROW LEVEL SECURITY",
        noticed_by: "reads capability hashes",
    },
    Fault {
        breaks: "GRANT EXECUTE ON FUNCTION stellar.tenant_erase(uuid, text, integer) TO PUBLIC",
        mends: "REVOKE EXECUTE ON FUNCTION stellar.tenant_erase(uuid, text, integer) FROM PUBLIC",
        noticed_by: "erases the victim",
    },
    Fault {
        breaks: "ALTER TABLE stellar.memories ALTER COLUMN user_id SET STATISTICS 100; ANALYZE stellar.memories",
        mends: "ALTER TABLE stellar.memories ALTER COLUMN user_id SET STATISTICS 0;
            DELETE FROM pg_catalog.pg_statistic WHERE starelid = 'stellar.memories'::regclass",
        noticed_by: "learns the victim's size from the planner",
    },
    Fault {
        breaks: "CREATE OR REPLACE FUNCTION stellar.forget(memory uuid) RETURNS boolean
            LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
            AS $$ BEGIN DELETE FROM stellar.memories m WHERE m.id = memory; RETURN FOUND; END $$",
        mends: "",
        noticed_by: "forgets the victim's memory",
    },
    Fault {
        breaks: "CREATE OR REPLACE FUNCTION stellar.current_tenant() RETURNS uuid
            LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
            AS $$ SELECT current_setting('app.current_user_id', true)::uuid $$",
        mends: "",
        noticed_by: "names the victim without its capability",
    },
    Fault {
        breaks: "CREATE UNIQUE INDEX ids ON stellar.memories (id)",
        mends: "DROP INDEX stellar.ids",
        noticed_by: "learns that an id exists by a unique violation",
    },
    Fault {
        breaks: "ALTER TABLE stellar.memories DISABLE ROW LEVEL SECURITY",
        mends: "ALTER TABLE stellar.memories ENABLE ROW LEVEL SECURITY",
        noticed_by: "learns by a failing expression",
    },
];

struct Ground {
    plane: DataPlane,
    attacker: Tenant,
    victim: Tenant,
    memory: String,
}

impl Ground {
    async fn prepare() -> Self {
        let plane = DataPlane::start().await.unwrap();
        let attacker = plane.tenant("attacker", TenantSpec::default()).await.unwrap();
        let victim = plane.tenant("victim", TenantSpec::default()).await.unwrap();
        for content in ["mine one", "mine two"] {
            assert_eq!(plane.client(&attacker).store(content).await.unwrap().status, 201);
        }
        let mut memory = String::new();
        for n in 0..40 {
            let stored = plane.client(&victim).store(&format!("a secret of the victim, number {n}")).await.unwrap();
            stored.body["id"].as_str().unwrap().clone_into(&mut memory);
        }
        // The attacker's role may log in, and is served beside the pool: both kinds of attacker at their strongest.
        sqlx::query(sqlx::AssertSqlSafe(format!("ALTER ROLE {} LOGIN PASSWORD 'attacker'", RoleName::of(attacker.id))))
            .execute(&mut plane.postgres.superuser("stellar").await.unwrap())
            .await
            .unwrap();
        sqlx::query("SELECT stellar.tenant_admit_role($1)")
            .bind(attacker.id.uuid())
            .execute(&mut plane.login("operator").await.unwrap())
            .await
            .unwrap();
        Self { plane, attacker, victim, memory }
    }

    async fn session(&self, pooled: bool) -> PgConnection {
        if pooled {
            return self.plane.login("pool").await.unwrap();
        }
        let role = RoleName::of(self.attacker.id);
        PgConnection::connect_with(&self.plane.postgres.options(role.as_str(), "attacker", "stellar")).await.unwrap()
    }

    /// Runs every attack as one kind of attacker; returns the names of those that got through.
    async fn attack(&self, pooled: bool) -> Vec<&'static str> {
        let mut through = Vec::new();
        for (name, ..) in ATTACKS {
            if self.gets_through(pooled, name).await {
                through.push(*name);
            }
        }
        through
    }

    /// Runs the attack of that name as one kind of attacker.
    async fn gets_through(&self, pooled: bool, name: &str) -> bool {
        let (_, breach, sql) = ATTACKS.iter().find(|(its, ..)| *its == name).expect("an attack of that name");
        let sql = sql
            .replace("{A}", &self.attacker.id.to_string())
            .replace("{B}", &self.victim.id.to_string())
            .replace("{ROLE_B}", RoleName::of(self.victim.id).as_str())
            .replace("{MEMORY}", &self.memory);
        let mut session = self.session(pooled).await;
        let mut transaction = session.begin().await.unwrap();
        let entered = sqlx::query("SELECT * FROM stellar.enter($1, $2, 'default', false)")
            .bind(self.attacker.id.uuid())
            .bind(self.plane.master().capability(self.attacker.id, 1).as_bytes().as_slice())
            .fetch_all(&mut *transaction)
            .await
            .unwrap();
        assert_eq!(entered.len(), 1, "the attacker is a tenant like any other");
        let outcome = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_all(&mut *transaction).await;
        match (breach, outcome) {
            (Breach::Accepted, outcome) => outcome.is_ok(),
            (Breach::Row, Ok(rows)) => {
                rows.iter().any(|row| sqlx::Row::try_get::<i32, _>(row, 0).is_ok_and(|n| n == 1))
            }
            (Breach::Row, Err(_)) => false,
        }
    }

    async fn administer(&self, sql: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
            .execute(&mut self.plane.postgres.superuser("stellar").await.unwrap())
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attack_gets_through_and_every_broken_layer_is_noticed() {
    let ground = Ground::prepare().await;
    for pooled in [true, false] {
        assert_eq!(ground.attack(pooled).await, Vec::<&str>::new(), "pooled: {pooled}");
    }
    let functions = ground.plane.functions().await.unwrap();
    for fault in FAULTS {
        ground.administer(fault.breaks).await;
        let noticed =
            ground.gets_through(true, fault.noticed_by).await || ground.gets_through(false, fault.noticed_by).await;
        assert!(noticed, "{} is not noticed by the attack that {}", fault.breaks, fault.noticed_by);
        ground.administer(&format!("{}; {functions}", fault.mends)).await;
    }
    for pooled in [true, false] {
        assert_eq!(ground.attack(pooled).await, Vec::<&str>::new(), "all is mended; pooled: {pooled}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn placement_binds_both_kinds_of_login() {
    let ground = Ground::prepare().await;
    let (plane, tenant) = (&ground.plane, &ground.attacker);
    let served = async |pooled: bool| {
        let mut session = ground.session(pooled).await;
        let rows = sqlx::query("SELECT * FROM stellar.enter($1, $2, 'default', false)")
            .bind(tenant.id.uuid())
            .bind(plane.master().capability(tenant.id, 1).as_bytes().as_slice())
            .fetch_all(&mut session)
            .await
            .unwrap();
        !rows.is_empty()
    };
    let dedicated = &plane.engine; // any address does: nothing is sent to it
    plane.place(tenant, Some(dedicated), "1 hour").await.unwrap();
    assert!(served(true).await && served(false).await, "both serve while the pool drains");
    ground.administer("UPDATE stellar.users SET pool_access_until = now()").await;
    assert!(!served(true).await && served(false).await, "only its own role serves a dedicated tenant");
    plane.place(tenant, None, "1 hour").await.unwrap();
    assert!(served(true).await && served(false).await, "both serve while the dedicated engine drains");
    ground.administer("UPDATE stellar.users SET role_access_until = now()").await;
    assert!(served(true).await && !served(false).await, "only the pool serves a pooled tenant");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_or_missing_capability_opens_nothing() {
    let ground = Ground::prepare().await;
    let (plane, tenant) = (&ground.plane, &ground.attacker);
    for pooled in [true, false] {
        for capability in [plane.master().capability(ground.victim.id, 1), plane.master().capability(tenant.id, 2)] {
            let rows = sqlx::query("SELECT * FROM stellar.enter($1, $2, 'default', false)")
                .bind(tenant.id.uuid())
                .bind(capability.as_bytes().as_slice())
                .fetch_all(&mut ground.session(pooled).await)
                .await
                .unwrap();
            assert!(rows.is_empty(), "pooled: {pooled}");
        }
        let rows = sqlx::query("SELECT * FROM stellar.enter($1, NULL, NULL, false)")
            .bind(tenant.id.uuid())
            .fetch_all(&mut ground.session(pooled).await)
            .await
            .unwrap();
        assert!(rows.is_empty(), "pooled: {pooled}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_written_otherwise_names_nobody_and_fails_nothing() {
    let ground = Ground::prepare().await;
    let id = ground.attacker.id.to_string();
    let capability = ground.plane.master().capability(ground.attacker.id, 1).expose();
    let mut session = ground.session(true).await;
    let mut named = async |id: &str, capability: &str| -> Option<uuid::Uuid> {
        let claim =
            "SELECT set_config('app.current_user_id', $1, false), set_config('app.tenant_capability', $2, false)";
        sqlx::query(claim).bind(id).bind(capability).execute(&mut session).await.unwrap();
        sqlx::query_scalar("SELECT stellar.current_tenant()").fetch_one(&mut session).await.unwrap()
    };
    assert_eq!(named(&id, &capability).await, Some(ground.attacker.id.uuid()));
    let ids = [
        String::new(),
        id.to_uppercase(),
        id.replace('-', ""),
        format!("{{{id}}}"),
        format!("{id}\n"),
        format!(" {id}"),
        id.replace('-', "_"),
        id.replacen('-', "0", 1),
        format!("-{}", &id[1..]),
        format!("g{}", &id[1..]),
        "-".repeat(36),
        "é".repeat(36),
    ];
    for other in &ids {
        assert_eq!(named(other, &capability).await, None, "{other:?}");
    }
    let capabilities = [
        String::new(),
        capability.to_uppercase(),
        format!("{capability}\n"),
        format!("\n{}", &capability[1..]),
        format!("g{}", &capability[1..]),
        format!("-{}", &capability[1..]),
        format!("é{}", &capability[1..]),
        capability[2..].to_owned(),
        format!("{capability}00"),
    ];
    for other in &capabilities {
        assert_eq!(named(&id, other).await, None, "{other:?}");
    }
}

/// What ARCHITECTURE.md says that nobody has rights on: Postgres takes the lock of CREATE RULE before it looks whose the table
/// is. Two sessions with SQL of their own can keep others waiting by it, and no longer than they keep a transaction open.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_taken_before_rights_are_looked_at_makes_others_wait_and_loses_nothing() {
    let ground = Ground::prepare().await;
    let client = ground.plane.client(&ground.victim);
    let before = client.get("/memories").await.unwrap().body["total"].as_i64().unwrap();
    let mut reader = ground.session(false).await;
    sqlx::raw_sql("BEGIN; SELECT FROM stellar.memories").execute(&mut reader).await.unwrap();
    let mut other = ground.session(false).await;
    let waits = tokio::spawn(async move {
        sqlx::raw_sql("CREATE RULE mine AS ON INSERT TO stellar.memories DO INSTEAD NOTHING").execute(&mut other).await
    });
    harness::eventually("the rule waits for its lock", || async {
        let mut superuser = ground.plane.postgres.superuser("stellar").await.unwrap();
        let waiting =
            "SELECT count(*) FROM pg_locks l WHERE l.relation = 'stellar.memories'::regclass AND NOT l.granted";
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut superuser).await.unwrap();
        (waiting > 0).then_some(())
    })
    .await;
    let refused = client.store("from behind the lock").await.unwrap();
    assert_eq!((refused.status, refused.problem()), (503, Some("unavailable")), "{}", refused.text);
    assert!(refused.header("retry-after").is_some(), "{:?}", refused.headers);
    sqlx::raw_sql("ROLLBACK").execute(&mut reader).await.unwrap();
    let denied = waits.await.unwrap().unwrap_err();
    let code = denied.as_database_error().and_then(sqlx::error::DatabaseError::code);
    assert_eq!(code.as_deref(), Some("42501"), "{denied}");
    assert_eq!(client.store("after the lock").await.unwrap().status, 201);
    assert_eq!(client.get("/memories").await.unwrap().body["total"], before + 1, "what was refused is not there");
}
