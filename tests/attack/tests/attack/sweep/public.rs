//! What every login may see of the whole server, by Postgres' own rules. It is listed here and in ARCHITECTURE.md; whatever
//! else shows that others exist or are active fails the test.
//!
//! Two ways to see it: a name or id of another tenant in any relation that can be read, and any relation or function whose
//! answer changes when only others were active. What changes by itself all the time cannot be told apart and is left out.

use std::collections::{BTreeMap, BTreeSet};

use harness::{DataPlane, Tenant, TenantSpec};
use sqlx::PgConnection;
use tenancy::RoleName;

use crate::ground::{self, Login, Outcome, administer};

/// What is public, and what it tells. `*` stands for any characters; functions end in `()`.
const PUBLIC: &[(&str, &str)] = &[
    ("pg_roles", "names of roles, and so ids of tenants"),
    ("pg_user", "names of roles that may log in"),
    ("pg_group", "names of roles"),
    ("pg_get_userbyid()", "names of roles"),
    ("pg_auth_members", "who is a member of what"),
    ("pg_shdepend", "which role has rights on what"),
    ("pg_stats", "statistics of Postgres' own catalogs"),
    ("pg_stat_activity", "who is logged in"),
    ("pg_stat_*", "counters of all tenants together"),
    ("pg_statio_*", "counters of all tenants together"),
    ("pg_stat_*()", "counters of all tenants together"),
    ("pg_class", "rows and pages of all tenants together, as VACUUM counted them"),
    ("pg_database", "the age of the oldest transaction"),
    ("pg_locks", "that somebody holds locks"),
    ("pg_*size()", "sizes of tables and of the database"),
    ("pg_*xact*()", "numbers of transactions"),
    ("txid_*()", "numbers of transactions"),
    ("pg_*snapshot*()", "numbers of transactions"),
    ("pg_control_*()", "when the last checkpoint was"),
    ("pg_notification_queue_usage()", "how full the queue of notices is"),
    ("pg_*wal*()", "how much is written"),
    ("EXPLAIN ANALYZE", "how many changes, kept answers and audit entries of all tenants together fall into a time"),
    ("pg_largeobject_metadata", "that large objects exist, and whose"),
];

fn is_listed(name: &str) -> bool {
    PUBLIC.iter().any(|(pattern, _)| matches(pattern, name))
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            name.char_indices().map(|(at, _)| at).chain([name.len()]).any(|at| matches(rest, &name[at..]))
        }),
    }
}

/// Everything readable, by name.
async fn look(session: &mut PgConnection, other: &Tenant) -> BTreeMap<String, String> {
    // Without slow views on types, functions and time zones.
    let relations = r"SELECT c.oid::regclass::text, 'SELECT x::text FROM ' || c.oid::regclass::text || ' x' FROM pg_catalog.pg_class c
         WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f') AND has_table_privilege(c.oid, 'SELECT')
             AND has_schema_privilege(c.relnamespace, 'USAGE') AND c.oid::regclass::text !~
                 '^(pg_timezone_names|information_schema\.(element_types|columns|parameters|data_type.*|column_priv.*|rout.*))$'";
    // Of one argument: those that ask about a relation, an index, a database or a role.
    let functions = format!(
        "SELECT p.oid::regproc::text || '()', 'SELECT ' || p.oid::regproc::text || '(' || a.argument || ')::text'
         FROM pg_catalog.pg_proc p
         CROSS JOIN LATERAL (
             SELECT '' AS argument WHERE p.pronargs = 0
             UNION ALL
             SELECT o::text FROM unnest(ARRAY['stellar.memories'::regclass::oid, 'stellar.memories_pkey'::regclass,
                 (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()), '{}'::regrole]) o
             WHERE p.pronargs = 1 AND p.proargtypes[0] IN ('oid'::regtype, 'regclass'::regtype)
         ) a
         WHERE p.prokind = 'f' AND NOT p.proretset AND has_function_privilege(p.oid, 'EXECUTE')
             AND p.prorettype NOT IN (SELECT t.oid FROM pg_type t WHERE t.typtype = 'p' AND t.typname NOT IN ('record', 'void'))
             AND p.proname !~ '^(lo_|pg_export_snapshot|pg_stat_force)'",
        RoleName::of(other.id)
    );
    let mut seen = BTreeMap::<String, String>::new();
    for list in [relations, &functions] {
        let Outcome::Rows(rows) = ground::run(session, list).await else { panic!("the catalog is readable") };
        for row in rows {
            if let Outcome::Rows(rows) = ground::run(session, &row[1]).await {
                let lines: BTreeSet<String> = rows.iter().map(|row| row.join("|")).collect();
                seen.entry(row[0].clone()).or_default().extend(lines);
            }
        }
    }
    seen
}

/// What other tenants do in a while.
async fn others_are_active(plane: &DataPlane, others: &[Tenant], name: &str) {
    for other in others {
        let mut session = plane.login("pool").await.unwrap();
        let sql = format!(
            "BEGIN; {}; INSERT INTO stellar.memories (user_id, id, content, zone, total_score)
                 SELECT '{}', gen_random_uuid(), 'a long text ' || repeat('x', 3000), 2, 0 FROM generate_series(1, 40);
             UPDATE stellar.memories SET importance = 0.7; SELECT stellar.forget(m.id) FROM stellar.memories m LIMIT 5; COMMIT",
            ground::enter(plane, other, true),
            other.id
        );
        assert!(matches!(ground::run(&mut session, &sql).await, Outcome::Rows(_)));
        sqlx::Connection::close(session).await.unwrap();
    }
    ground::tenants(plane, name, 2, TenantSpec::default()).await;
    administer(plane, "VACUUM ANALYZE").await;
}

/// What is seen of others and is not listed. Secrets of others are never listed.
async fn unlisted(
    plane: &DataPlane,
    login: Login,
    tenants: &[Tenant],
    name: &str,
) -> (BTreeSet<String>, BTreeSet<String>) {
    let (own, other) = (&tenants[0], &tenants[1]);
    // Of another tenant there is a session, and in it a text that tells.
    let mut telling = ground::session(plane, Login::Own, other).await;
    ground::run(
        &mut telling,
        &format!("BEGIN; LOCK TABLE stellar.memories IN ACCESS SHARE MODE; SELECT 'secret of {}'", other.name),
    )
    .await;
    let mut session = ground::session(plane, login, own).await;
    let entered = ground::run(&mut session, &ground::enter(plane, own, false)).await;
    assert!(matches!(entered, Outcome::Rows(rows) if rows.len() == 1));
    let (first, second) = (look(&mut session, other).await, look(&mut session, other).await);
    others_are_active(plane, &tenants[1..], name).await;
    let third = look(&mut session, other).await;
    let secrets = ground::secrets(plane).await;
    let (role, id) = (RoleName::of(other.id).to_string(), other.id.to_string());
    let (mut shown, mut told) = (BTreeSet::new(), BTreeSet::new());
    for (name, text) in &third {
        let secret = ground::words(text)
            .any(|word| secrets.get(word).is_some_and(|owner| *owner != own.id.uuid() && word != id));
        if secret || text.contains(&format!("secret of {}", other.name)) {
            told.insert(name.clone());
        }
        let changed = first.get(name) == second.get(name) && second.get(name) != Some(text);
        if changed || text.contains(&role) || text.contains(&id) {
            shown.insert(name.clone());
        }
    }
    println!("{login:?}: of {} relations and functions these are public: {shown:?}", third.len());
    assert!(shown.contains("pg_roles") && shown.contains("pg_class"), "it sees what is known to be public: {shown:?}");
    (shown.into_iter().filter(|name| !is_listed(name)).collect(), told)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_public_is_listed() {
    let mut plane = DataPlane::start().await.unwrap();
    plane.gateway.kill().unwrap();
    plane.engine.kill().unwrap();
    let tenants = ground::tenants(&plane, "watched", 6, TenantSpec::default()).await;
    ground::plant(&plane, 3).await;
    for tenant in &tenants[..2] {
        ground::admit(&plane, tenant).await;
    }
    let nothing = (BTreeSet::new(), BTreeSet::new());
    for login in [Login::Pooled, Login::Own] {
        assert_eq!(
            unlisted(&plane, login, &tenants, &format!("{login:?}")).await,
            nothing,
            "{login:?}: not listed; told"
        );
    }
    // Both kinds of check would notice: a view that nobody listed, and texts of other sessions.
    administer(&plane, "CREATE VIEW public.tenants AS SELECT u.id, u.name FROM stellar.users u; GRANT SELECT ON public.tenants TO PUBLIC;
        GRANT pg_read_all_stats TO stellar_tenants, stellar_pool").await;
    let (shown, told) = unlisted(&plane, Login::Pooled, &tenants, "weak").await;
    assert!(shown.contains("tenants"), "{shown:?}");
    assert!(told.contains("pg_stat_activity"), "{told:?}");
}

#[test]
fn the_list_is_in_the_architecture() {
    let text = include_str!("../../../../../ARCHITECTURE.md");
    for (name, _) in PUBLIC {
        assert!(text.contains(&format!("`{name}`")), "ARCHITECTURE.md does not list {name}");
    }
}
