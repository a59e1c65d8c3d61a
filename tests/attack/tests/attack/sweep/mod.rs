//! Every kind of statement at every table, view and function, as both kinds of login, against 198 other tenants: nothing of
//! theirs shows, nothing of theirs changes, nothing stops them.

mod notices;
mod public;
mod tries;

use std::collections::HashMap;

use attack::tries as how_many;
use futures::TryStreamExt as _;
use harness::{DataPlane, Tenant, TenantSpec};
use sqlx::{AssertSqlSafe, PgConnection};
use tenancy::RoleName;
use uuid::Uuid;

use crate::ground::{self, Dice, Login, Outcome, administer, ask};
use tries::{Must, PRELUDES, Try, Way, filled};

const TENANTS: usize = 200;

struct Ground {
    plane: DataPlane,
    tenants: Vec<Tenant>,
    secrets: HashMap<String, Uuid>,
    /// A large object of another tenant.
    large: String,
}

/// What a sweep found: how many statements were accepted, and everything that must not be.
#[derive(Default)]
struct Found {
    tried: usize,
    accepted: usize,
    breaches: Vec<String>,
}

impl Ground {
    /// Servers that nobody else writes to: the programs are ended.
    async fn prepare() -> Self {
        let mut plane = DataPlane::start().await.unwrap();
        let tenants = ground::tenants(&plane, "swept", TENANTS, TenantSpec::default()).await;
        plane.gateway.kill().unwrap();
        plane.engine.kill().unwrap();
        ground::plant(&plane, 3).await;
        ground::admit(&plane, &tenants[1]).await;
        let large: i64 =
            ask(&plane, "SELECT lo_from_bytea(0, convert_to('word' || md5('large'), 'UTF8'))::bigint").await;
        administer(&plane, &format!("ALTER LARGE OBJECT {large} OWNER TO {}", RoleName::of(tenants[2].id))).await;
        let mut secrets = ground::secrets(&plane).await;
        secrets.insert(ask(&plane, &format!("SELECT encode(lo_get({large}), 'hex')")).await, tenants[2].id.uuid());
        Self { plane, tenants, secrets, large: large.to_string() }
    }

    /// Who attacks: a pooled tenant, or one with its own role.
    fn attacker(&self, login: Login) -> &Tenant {
        &self.tenants[usize::from(login == Login::Own)]
    }

    /// Makes `count` of the tries as one kind of login, spread over all of them; most after a random prelude, or none.
    async fn sweep(&self, tries: &[Try], login: Login, count: usize, preludes: &[&str]) -> Found {
        let own = self.attacker(login);
        let mut session = ground::session(&self.plane, login, own).await;
        let mut other_session = self.plane.login("pool").await.unwrap();
        let (mut dice, mut found) = (Dice::new(login as u64), Found::default());
        for n in 0..count {
            let one = &tries[if count < tries.len() { n * tries.len() / count } else { n % tries.len() }];
            let other = &self.tenants[2 + dice.roll(TENANTS - 2)];
            let prelude = preludes[dice.roll(preludes.len())];
            self.one(&mut session, &mut other_session, (own, other), prelude, one, &mut found).await;
        }
        found
    }

    async fn one(
        &self,
        session: &mut PgConnection,
        other_session: &mut PgConnection,
        (own, other): (&Tenant, &Tenant),
        prelude: &str,
        one: &Try,
        found: &mut Found,
    ) {
        let fill = |text: &str| filled(text, &self.plane, own, other).replace("{LARGE}", &self.large);
        let (sql, prelude) = (fill(&one.sql), fill(prelude));
        let begin = format!(
            "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; DEALLOCATE ALL; BEGIN; {}",
            ground::enter(&self.plane, own, false)
        );
        let entered = ground::run(session, &begin).await;
        let is_served = matches!(&entered, Outcome::Rows(rows) if rows.len() == 1);
        assert!(is_served, "the attacker is a tenant like any other: {}", entered.text());
        let mut shown = String::new();
        if !prelude.is_empty() {
            let outcome = ground::run(session, &format!("SAVEPOINT prelude; {prelude}")).await;
            shown = outcome.text();
            if matches!(outcome, Outcome::Refused(_)) {
                ground::run(session, "ROLLBACK TO prelude").await;
            }
        }
        let outcome = match one.way {
            Way::Query => ground::run(session, &sql).await,
            Way::CopyOut => copy_out(session, &sql).await,
            Way::CopyIn => copy_in(session, &sql).await,
        };
        shown.push_str(&outcome.text());
        let mut breach = |what: &str| found.breaches.push(format!("{what}: {prelude}; {sql}: {shown:.300}"));
        let foreign = |word: &&str| self.secrets.get(*word).is_some_and(|owner| *owner != own.id.uuid());
        if ground::words(&shown).filter(foreign).any(|word| !sql.contains(word) && !prelude.contains(word)) {
            breach("shows what is another tenant's");
        }
        if let Outcome::Rows(rows) = &outcome {
            match one.must {
                Must::Hide => {}
                Must::ReturnNothing if rows.is_empty() => {}
                Must::ReturnNothing => breach("returns a row of another tenant"),
                Must::CountNothing if rows.iter().all(|row| row[0] == "0") => {}
                Must::CountNothing => breach("counts rows of another tenant"),
                Must::StopNobody => {
                    // More than once: what holds the attacker's lock holds it still, and vacuum's is gone.
                    let mut stored = store(&self.plane, other_session, other).await;
                    for _ in 0..2 {
                        if stored.is_err() {
                            stored = store(&self.plane, other_session, other).await;
                        }
                    }
                    if let Err(error) = stored {
                        breach(&format!("stops another tenant's store ({error})"));
                    }
                }
                Must::TellNothing => {
                    let nobody = Uuid::from_u128(9).to_string();
                    let of_nobody = ground::run(session, &sql.replace(&other.id.to_string(), &nobody)).await;
                    if of_nobody.text().replace(&nobody, "?") != outcome.text().replace(&other.id.to_string(), "?") {
                        breach("the planner tells about another tenant");
                    }
                }
            }
        }
        found.tried += 1;
        found.accepted += usize::from(matches!(outcome, Outcome::Rows(_)));
        // Committed where it was accepted, so that what it changed stays to be seen.
        ground::run(session, if matches!(outcome, Outcome::Rows(_)) { "COMMIT" } else { "ROLLBACK" }).await;
    }

    /// What a member may set for the group of all tenants reaches nobody.
    async fn no_session_takes_on_settings_of_the_group(&self) {
        administer(&self.plane, "ALTER ROLE stellar_tenants SET statement_timeout = 1").await;
        let mut session = ground::session(&self.plane, Login::Own, self.attacker(Login::Own)).await;
        let timeout: String = sqlx::query_scalar("SHOW statement_timeout").fetch_one(&mut session).await.unwrap();
        assert_eq!(timeout, "0", "a session takes on a setting of the group");
        administer(&self.plane, "ALTER ROLE stellar_tenants RESET ALL").await;
    }

    /// All rows but those that the attackers may write, everybody's rights, and the schema: as one text a part.
    async fn fingerprint(&self) -> Vec<(String, String)> {
        let mut superuser = self.plane.postgres.superuser("stellar").await.unwrap();
        let attackers = format!("'{}', '{}'", self.tenants[0].id, self.tenants[1].id);
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT c.oid::regclass::text FROM pg_catalog.pg_class c
             WHERE c.relnamespace = 'stellar'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY 1",
        )
        .fetch_all(&mut superuser)
        .await
        .unwrap();
        let own = ["stellar.memories", "stellar.changes", "stellar.usage", "stellar.operations"];
        let mut parts: Vec<(String, String)> = tables
            .into_iter()
            .map(|t| {
                let of_others = if own.contains(&t.as_str()) {
                    format!("x.user_id NOT IN ({attackers})")
                } else {
                    "true".to_owned()
                };
                (t.clone(), format!("SELECT x::text AS line FROM {t} x WHERE {of_others}"))
            })
            .collect();
        for (name, sql) in [
            ("policies", "SELECT p::text AS line FROM pg_policy p"),
            (
                "relations",
                "SELECT (c.relname, c.relkind, c.relacl, c.relowner, c.relrowsecurity, c.relforcerowsecurity, c.relhastriggers)::text
                 AS line FROM pg_class c WHERE c.relnamespace IN ('stellar'::regnamespace, 'public'::regnamespace)",
            ),
            (
                "columns",
                "SELECT (a.attrelid, a.attname, a.attstattarget, a.attacl)::text AS line FROM pg_attribute a
                 JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'stellar'::regnamespace",
            ),
            ("functions", "SELECT p::text AS line FROM pg_proc p WHERE p.pronamespace = 'stellar'::regnamespace"),
            ("triggers", "SELECT t::text AS line FROM pg_trigger t"),
            ("roles", "SELECT r::text AS line FROM pg_authid r"),
            ("memberships", "SELECT m::text AS line FROM pg_auth_members m"),
            // A session takes on the settings of the role that logs in, and of no other. Those of the group of all tenants
            // are open to its members before Postgres 16, and mean nothing.
            (
                "settings",
                "SELECT s::text AS line FROM pg_db_role_setting s
                 WHERE s.setrole NOT IN (SELECT r.oid FROM pg_roles r WHERE r.rolname = 'stellar_tenants' AND NOT r.rolcanlogin
                     AND current_setting('server_version_num')::integer < 160000)",
            ),
            ("databases", "SELECT (d.datname, d.datacl, d.datdba)::text AS line FROM pg_database d"),
            ("schemas", "SELECT n::text AS line FROM pg_namespace n"),
            ("default rights", "SELECT d::text AS line FROM pg_default_acl d"),
            ("extensions", "SELECT e::text AS line FROM pg_extension e"),
            ("large objects", "SELECT (l.loid, l.pageno, l.data)::text AS line FROM pg_largeobject l"),
        ] {
            parts.push((name.to_owned(), sql.to_owned()));
        }
        let mut prints = Vec::new();
        for (name, sql) in parts {
            let print: String = sqlx::query_scalar(AssertSqlSafe(format!(
                "SELECT md5(coalesce(string_agg(line, chr(10) ORDER BY line), '')) FROM ({sql}) lines"
            )))
            .fetch_one(&mut superuser)
            .await
            .unwrap();
            prints.push((name, print));
        }
        prints
    }
}

/// In two steps: when Postgres refuses, the driver's `copy_out_raw` loses count of the answers on the connection.
async fn copy_out(session: &mut PgConnection, sql: &str) -> Outcome {
    ground::run(session, "SAVEPOINT copy").await;
    if let Err(sqlx::Error::Database(error)) = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *session).await
    {
        return Outcome::Refused(error.to_string());
    }
    ground::run(session, "ROLLBACK TO copy").await;
    let chunks: Vec<_> = session.copy_out_raw(sql).await.unwrap().try_collect().await.unwrap();
    let text = chunks.iter().map(|chunk| String::from_utf8_lossy(chunk)).collect::<String>();
    Outcome::Rows(text.lines().map(|line| vec![line.to_owned()]).collect())
}

async fn copy_in(session: &mut PgConnection, sql: &str) -> Outcome {
    match session.copy_in_raw(sql).await {
        Ok(copy) => {
            copy.finish().await.unwrap();
            Outcome::Rows(Vec::new())
        }
        Err(error) => Outcome::Refused(error.to_string()),
    }
}

/// What a store of the tenant needs of Postgres, undone in the end. Values are bound: other sessions of the login see texts.
async fn store(plane: &DataPlane, session: &mut PgConnection, tenant: &Tenant) -> Result<(), sqlx::Error> {
    let mut transaction = sqlx::Connection::begin(session).await?;
    let entered = sqlx::query("SELECT * FROM stellar.enter($1, $2, 'default', true)")
        .bind(tenant.id.uuid())
        .bind(plane.master().capability(tenant.id, 1).as_bytes().as_slice())
        .fetch_all(&mut *transaction)
        .await?;
    if entered.len() != 1 {
        return Err(sqlx::Error::RowNotFound);
    }
    sqlx::query("SET LOCAL lock_timeout = '500ms'").execute(&mut *transaction).await?;
    sqlx::query("INSERT INTO stellar.memories (user_id, id, content, zone, total_score) VALUES ($1, gen_random_uuid(), 'x', 2, 0)")
        .bind(tenant.id.uuid())
        .execute(&mut *transaction)
        .await?;
    transaction.rollback().await
}

/// A weakening that the sweep must notice, in statements about one thing or in what changed.
struct Fault {
    breaks: &'static str,
    mends: &'static str,
    about: &'static str,
    noticed: &'static str,
}

const FAULTS: &[Fault] = &[
    Fault {
        breaks: "ALTER TABLE stellar.changes DISABLE ROW LEVEL SECURITY",
        mends: "ALTER TABLE stellar.changes ENABLE ROW LEVEL SECURITY",
        about: "stellar.changes",
        noticed: "shows what is another tenant's",
    },
    Fault {
        breaks: "CREATE POLICY all_of_it ON stellar.usage USING (true)",
        mends: "DROP POLICY all_of_it ON stellar.usage",
        about: "stellar.usage",
        noticed: "counts rows of another tenant",
    },
    // A table that came later and was forgotten: nobody told the sweep of it.
    Fault {
        breaks: "CREATE TABLE stellar.drafts AS SELECT u.id AS user_id, u.name AS note FROM stellar.users u;
            GRANT SELECT ON stellar.drafts TO stellar_tenants, stellar_pool",
        mends: "DROP TABLE stellar.drafts",
        about: "stellar.drafts",
        noticed: "returns a row of another tenant",
    },
    Fault {
        breaks: "GRANT DELETE ON stellar.memories TO stellar_tenants, stellar_pool",
        mends: "REVOKE DELETE ON stellar.memories FROM stellar_tenants, stellar_pool",
        about: "LOCK TABLE stellar.memories IN ACCESS EXCLUSIVE",
        noticed: "stops another tenant's store",
    },
    Fault {
        breaks: "ALTER TABLE stellar.memories ALTER COLUMN user_id SET STATISTICS 1000;
            INSERT INTO stellar.memories (user_id, id, content, zone, total_score)
                SELECT u.id, gen_random_uuid(), 'many', 2, 0 FROM stellar.users u, generate_series(1, 40);
            ANALYZE stellar.memories",
        mends: "ALTER TABLE stellar.memories ALTER COLUMN user_id SET STATISTICS 0;
            DELETE FROM pg_catalog.pg_statistic WHERE starelid = 'stellar.memories'::regclass;
            DELETE FROM stellar.memories WHERE content = 'many'",
        about: "EXPLAIN SELECT * FROM stellar.memories",
        noticed: "the planner tells about another tenant",
    },
    // As policies were that named the roles of tenants: every member could take the role out of them.
    Fault {
        breaks: "ALTER POLICY tenant ON stellar.memories TO stellar_tenants, stellar_pool",
        mends: "DROP POLICY IF EXISTS tenant ON stellar.memories; CREATE POLICY tenant ON stellar.memories
            USING (user_id = (SELECT stellar.current_tenant())) WITH CHECK (user_id = (SELECT stellar.current_tenant()))",
        about: "DROP OWNED BY",
        noticed: "changed: policies",
    },
    Fault {
        breaks: "GRANT EXECUTE ON FUNCTION stellar.gateway_heartbeat(uuid) TO PUBLIC",
        mends: "REVOKE EXECUTE ON FUNCTION stellar.gateway_heartbeat(uuid) FROM PUBLIC",
        about: "stellar.gateway_heartbeat",
        noticed: "changed: stellar.gateways",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_tenant_shows_changes_or_stops() {
    let ground = Ground::prepare().await;
    let tries = tries::all(&ground.plane).await;
    let each = how_many(3_000, 100_000) / 2;
    let before = ground.fingerprint().await;
    // One after the other: CREATE RULE and CREATE TRIGGER wait for their lock before Postgres refuses them, and whoever
    // comes behind waits with them.
    let pooled = ground.sweep(&tries, Login::Pooled, each, PRELUDES).await;
    let own = ground.sweep(&tries, Login::Own, each, PRELUDES).await;
    for (login, found) in [(Login::Pooled, &pooled), (Login::Own, &own)] {
        assert_eq!(found.breaches, Vec::<String>::new(), "{login:?}");
        // Else the sweep would show nothing: what is one's own must be readable.
        assert!(found.accepted > each / 20, "only {} of {} were accepted", found.accepted, found.tried);
    }
    assert_eq!(ground.fingerprint().await, before, "nothing changed but rows of the attackers' own");
    ground.no_session_takes_on_settings_of_the_group().await;
    println!(
        "{} statements, each tried {} times in all; {} accepted",
        tries.len(),
        pooled.tried + own.tried,
        pooled.accepted + own.accepted
    );

    for fault in FAULTS {
        administer(&ground.plane, fault.breaks).await;
        let broken = ground.fingerprint().await;
        let about: Vec<Try> =
            tries::all(&ground.plane).await.into_iter().filter(|one| one.sql.contains(fault.about)).collect();
        let mut noticed = Vec::new();
        for login in [Login::Pooled, Login::Own] {
            noticed.extend(ground.sweep(&about, login, about.len(), &[""]).await.breaches);
        }
        let after = ground.fingerprint().await;
        noticed.extend(after.iter().filter(|part| !broken.contains(part)).map(|(name, _)| format!("changed: {name}")));
        assert!(
            noticed.iter().any(|breach| breach.starts_with(fault.noticed)),
            "nobody noticed {}; but {noticed:?}",
            fault.breaks
        );
        administer(&ground.plane, fault.mends).await;
    }
}
