//! The statements of the sweep, made from the catalog: whatever the schema has is swept.

use harness::{DataPlane, Tenant};
use sqlx::PgConnection;
use tenancy::RoleName;

/// A statement, and what must hold when it was run.
#[derive(Clone)]
pub struct Try {
    /// The statement; `{B}` is the other tenant's id, `{ROLE_B}` its role, `{A}` the tenant's own id.
    pub sql: String,
    /// How it is sent.
    pub way: Way,
    /// Besides that nothing of another tenant shows and nothing changes.
    pub must: Must,
}

/// How a statement is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As a query.
    Query,
    /// As COPY … TO STDOUT.
    CopyOut,
    /// As COPY … FROM STDIN.
    CopyIn,
}

/// What must hold besides.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Must {
    /// Nothing more.
    Hide,
    /// No row comes back.
    ReturnNothing,
    /// Zero comes back, if anything does.
    CountNothing,
    /// If it is accepted, another tenant can store meanwhile.
    StopNobody,
    /// The planner tells the same of another tenant as of nobody.
    TellNothing,
}

/// A relation as the catalog has it.
struct Relation {
    name: String,
    /// The column that says whose a row is.
    owner: Option<String>,
    columns: Vec<(String, String)>,
}

const LOCK_MODES: [&str; 8] = [
    "ACCESS SHARE",
    "ROW SHARE",
    "ROW EXCLUSIVE",
    "SHARE UPDATE EXCLUSIVE",
    "SHARE",
    "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
];

/// What SQL may try before a statement, in a savepoint.
pub const PRELUDES: &[&str] = &[
    "",
    "SELECT pg_catalog.set_config('app.current_user_id', '{B}', true)",
    "SELECT pg_catalog.set_config('app.current_user_id', '{B}', false)",
    "SET LOCAL row_security = off",
    "SET LOCAL ROLE {ROLE_B}",
    "SET LOCAL ROLE stellar_maintainer",
    "SET LOCAL ROLE stellar_tenants",
    "SET SESSION AUTHORIZATION stellar_owner",
    "SET LOCAL search_path = stellar, public",
    "SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_indexonlyscan = off",
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; SET LOCAL plan_cache_mode = force_generic_plan",
    "RESET ROLE; RESET SESSION AUTHORIZATION; SET LOCAL session_replication_role = replica",
    "SELECT * FROM stellar.enter('{B}', '{CAPABILITY_A}', 'default', false)",
];

/// Every statement for every relation and function there is, and those about the server.
pub async fn all(plane: &DataPlane) -> Vec<Try> {
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    let mut all = Vec::new();
    for relation in relations(&mut superuser).await {
        about_relation(&relation, &mut all);
    }
    let toast = "SELECT c.reltoastrelid::regclass::text FROM pg_catalog.pg_class c
        WHERE c.relnamespace = 'stellar'::regnamespace AND c.reltoastrelid <> 0";
    let toast: Vec<String> = sqlx::query_scalar(toast).fetch_all(&mut superuser).await.unwrap();
    all.extend(toast.iter().map(|t| Try { sql: format!("SELECT * FROM {t}"), way: Way::Query, must: Must::Hide }));
    about_functions(&mut superuser, &mut all).await;
    about_the_server(&mut all);
    all
}

/// The text with its places filled in.
pub fn filled(text: &str, plane: &DataPlane, own: &Tenant, other: &Tenant) -> String {
    text.replace("{A}", &own.id.to_string())
        .replace("{B}", &other.id.to_string())
        .replace("{ROLE_B}", RoleName::of(other.id).as_str())
        .replace("{CAPABILITY_A}", &format!("\\x{}", plane.master().capability(own.id, 1).expose()))
}

async fn relations(superuser: &mut PgConnection) -> Vec<Relation> {
    let found: Vec<(String, Vec<String>, Vec<String>)> = sqlx::query_as(
        "SELECT c.oid::regclass::text, array_agg(quote_ident(a.attname) ORDER BY a.attnum),
             array_agg(format_type(a.atttypid, NULL) ORDER BY a.attnum)
         FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
             AND c.relnamespace IN ('stellar'::regnamespace, 'public'::regnamespace)
         GROUP BY c.oid ORDER BY 1",
    )
    .fetch_all(superuser)
    .await
    .unwrap();
    found
        .into_iter()
        .map(|(name, columns, types)| {
            let owner = columns
                .iter()
                .find(|c| *c == "user_id")
                .or(columns.iter().find(|c| *c == "id" && name == "stellar.users"));
            Relation { owner: owner.cloned(), columns: columns.into_iter().zip(types).collect(), name }
        })
        .collect()
}

fn query(all: &mut Vec<Try>, must: Must, sql: String) {
    all.push(Try { sql, way: Way::Query, must });
}

fn about_relation(relation: &Relation, all: &mut Vec<Try>) {
    let Relation { name: r, owner, columns } = relation;
    let of_other = owner.as_ref().map_or("true".to_owned(), |owner| format!("{owner} = '{{B}}'"));
    let hidden = if owner.is_some() { Must::ReturnNothing } else { Must::Hide };
    let (first, _) = &columns[0];
    let hide: Vec<String> = [
        format!("SELECT * FROM {r}"),
        format!("TABLE {r}"),
        format!("SELECT * FROM ONLY {r}"),
        format!("SELECT * FROM {r} TABLESAMPLE SYSTEM (100)"),
        format!("SELECT x FROM {r} x"),
        format!("SELECT string_agg(x::text, ',') FROM {r} x"),
        format!("SELECT row_to_json(x)::text FROM {r} x WHERE x::text LIKE '%word%'"),
        format!("SELECT query_to_xml('SELECT * FROM {r}', true, true, '')"),
        format!("SELECT table_to_xml('{r}', true, true, '')"),
        format!("DECLARE c CURSOR FOR SELECT * FROM {r}; FETCH ALL FROM c; CLOSE c"),
        format!("PREPARE p AS SELECT * FROM {r}; EXECUTE p; DEALLOCATE p"),
        format!("WITH x AS MATERIALIZED (SELECT * FROM {r}) SELECT * FROM x"),
        format!("SELECT (SELECT string_agg(y::text, ',') FROM {r} y) FROM {r} x"),
        format!("SELECT * FROM {r} x NATURAL FULL JOIN {r} y"),
        format!(
            "DO $$ DECLARE x record; BEGIN FOR x IN SELECT * FROM {r} LOOP RAISE EXCEPTION '%', x; END LOOP; END $$"
        ),
        format!("SELECT * FROM {r} x WHERE (x::text)::integer = 1"),
        format!("INSERT INTO {r} DEFAULT VALUES RETURNING *"),
        format!("INSERT INTO {r} SELECT * FROM {r} RETURNING *"),
        format!("INSERT INTO {r} SELECT * FROM {r} ON CONFLICT DO NOTHING RETURNING *"),
        format!("MERGE INTO {r} USING (SELECT 1) s ON {of_other} WHEN MATCHED THEN DELETE"),
        format!("MERGE INTO {r} USING (SELECT 1) s ON {of_other} WHEN MATCHED THEN UPDATE SET {first} = DEFAULT"),
        format!("TRUNCATE {r}"),
        format!("TRUNCATE {r} CASCADE"),
        format!("COPY {r} TO '/dev/null'"),
        format!("COPY {r} TO PROGRAM 'true'"),
        format!("COPY {r} FROM PROGRAM 'true'"),
        format!("ALTER TABLE {r} DISABLE ROW LEVEL SECURITY"),
        format!("ALTER TABLE {r} NO FORCE ROW LEVEL SECURITY"),
        format!("ALTER TABLE {r} DISABLE TRIGGER ALL"),
        format!("ALTER TABLE {r} OWNER TO CURRENT_USER"),
        format!("ALTER TABLE {r} ALTER COLUMN {first} SET STATISTICS 100"),
        format!("CREATE POLICY mine ON {r} USING (true)"),
        format!("CREATE INDEX ON {r} ({first})"),
        format!("CREATE TRIGGER t BEFORE INSERT ON {r} EXECUTE FUNCTION suppress_redundant_updates_trigger()"),
        format!("CREATE RULE x AS ON SELECT TO {r} DO INSTEAD SELECT 1"),
        format!("CREATE VIEW stellar.v AS SELECT * FROM {r}"),
        format!("CREATE TEMP TABLE t AS SELECT * FROM {r}"),
        format!("GRANT ALL ON {r} TO CURRENT_USER"),
        format!("REVOKE ALL ON {r} FROM stellar_pool, stellar_tenants CASCADE"),
        format!("COMMENT ON TABLE {r} IS 'mine'"),
        format!("ANALYZE {r}"),
        format!("REINDEX TABLE {r}"),
        format!("CLUSTER {r}"),
        format!("DROP TABLE {r} CASCADE"),
    ]
    .into();
    all.extend(hide.into_iter().map(|sql| Try { sql, way: Way::Query, must: Must::Hide }));
    for sql in [
        format!("SELECT * FROM {r} WHERE {of_other}"),
        format!("SELECT 1 FROM {r} WHERE {of_other} LIMIT 1"),
        format!("SELECT ctid, xmin, xmax, tableoid FROM {r} WHERE {of_other}"),
        format!("UPDATE {r} SET {first} = {first} WHERE {of_other} RETURNING 1"),
        format!("DELETE FROM {r} WHERE {of_other} RETURNING 1"),
        format!("DELETE FROM {r} RETURNING 1"),
        format!("DELETE FROM {r} x USING {r} y WHERE x.{of_other} RETURNING 1"),
    ] {
        query(all, hidden, sql);
    }
    query(
        all,
        if owner.is_some() { Must::CountNothing } else { Must::Hide },
        format!("SELECT count(*) FROM {r} WHERE {of_other}"),
    );
    if owner.is_some() {
        query(all, Must::TellNothing, format!("EXPLAIN SELECT * FROM {r} WHERE {of_other}"));
        let options = "ANALYZE, TIMING OFF, SUMMARY OFF, BUFFERS OFF";
        query(all, Must::TellNothing, format!("EXPLAIN ({options}) SELECT * FROM {r} WHERE {of_other}"));
    }
    for lock in ["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"] {
        query(all, Must::StopNobody, format!("SELECT * FROM {r} FOR {lock}"));
    }
    for mode in LOCK_MODES {
        query(all, Must::StopNobody, format!("LOCK TABLE {r} IN {mode} MODE NOWAIT"));
    }
    let literals: Vec<String> = columns
        .iter()
        .map(|(c, kind)| if Some(c) == owner.as_ref() { "'{B}'".to_owned() } else { literal(kind) })
        .collect();
    let names: Vec<&str> = columns.iter().map(|(c, _)| c.as_str()).collect();
    let (names, literals) = (names.join(", "), literals.join(", "));
    for tail in ["", "ON CONFLICT DO NOTHING", "RETURNING *"] {
        query(all, Must::Hide, format!("INSERT INTO {r} ({names}) VALUES ({literals}) {tail}"));
    }
    for (c, kind) in columns {
        query(all, Must::Hide, format!("SELECT {c} FROM {r}"));
        query(all, hidden, format!("SELECT {c} FROM {r} WHERE {of_other}"));
        query(all, Must::Hide, format!("SELECT {c}::text::integer FROM {r}"));
        query(all, hidden, format!("UPDATE {r} SET {c} = {c} WHERE {of_other} RETURNING 1"));
        query(all, Must::Hide, format!("UPDATE {r} SET {c} = {} WHERE {of_other}", literal(kind)));
        if let Some(owner) = owner.as_ref().filter(|owner| *owner != c) {
            query(all, Must::Hide, format!("INSERT INTO {r} ({owner}, {c}) VALUES ('{{B}}', {})", literal(kind)));
        } else {
            query(all, Must::Hide, format!("UPDATE {r} SET {c} = '{{B}}' RETURNING 1"));
        }
    }
    for sql in [
        format!("COPY {r} TO STDOUT"),
        format!("COPY (SELECT * FROM {r}) TO STDOUT"),
        format!("COPY {r} ({first}) TO STDOUT"),
    ] {
        all.push(Try { sql, way: Way::CopyOut, must: Must::Hide });
    }
    all.push(Try { sql: format!("COPY {r} FROM STDIN"), way: Way::CopyIn, must: Must::Hide });
}

/// A value of a type, as a literal.
fn literal(kind: &str) -> String {
    match kind {
        "uuid" => "gen_random_uuid()".to_owned(),
        "uuid[]" => "ARRAY['{B}']::uuid[]".to_owned(),
        "bytea" => "sha256('x')".to_owned(),
        "boolean" => "true".to_owned(),
        "jsonb" => "'{}'".to_owned(),
        "interval" => "'0 seconds'".to_owned(),
        "timestamp with time zone" => "now()".to_owned(),
        "timestamp with time zone[]" => "ARRAY[now()]".to_owned(),
        "smallint" | "integer" | "bigint" | "real" => "1".to_owned(),
        _ => format!("'stored'::{kind}"),
    }
}

async fn about_functions(superuser: &mut PgConnection, all: &mut Vec<Try>) {
    let functions: Vec<(String, String, Vec<String>)> = sqlx::query_as(
        "SELECT p.oid::regprocedure::text, p.oid::regproc::text,
             ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY AS a (t, n) ORDER BY n)
         FROM pg_catalog.pg_proc p WHERE p.pronamespace IN ('stellar'::regnamespace, 'public'::regnamespace) ORDER BY 1",
    )
    .fetch_all(superuser)
    .await
    .unwrap();
    for (signature, f, kinds) in functions {
        let arguments =
            |value: &dyn Fn(&str) -> String| kinds.iter().map(|kind| value(kind)).collect::<Vec<_>>().join(", ");
        let of = |uuid: &'static str| {
            move |kind: &str| {
                if kind == "uuid" { format!("{uuid}::uuid") } else { format!("{}::{kind}", literal(kind)) }
            }
        };
        let guesses = [
            arguments(&of("'{B}'")),
            arguments(&of("'{A}'")),
            arguments(&of("gen_random_uuid()")),
            arguments(&|kind| format!("NULL::{kind}")),
            arguments(&|kind| match kind {
                "uuid" => "'{B}'::uuid".to_owned(),
                "bytea" => "'{CAPABILITY_A}'::bytea".to_owned(),
                _ => format!("{}::{kind}", literal(kind)),
            }),
        ];
        for arguments in guesses {
            query(all, Must::StopNobody, format!("SELECT * FROM {f}({arguments})"));
            query(
                all,
                Must::Hide,
                format!("DO $$ BEGIN PERFORM {f}({arguments}); EXCEPTION WHEN OTHERS THEN NULL; END $$"),
            );
        }
        query(all, Must::Hide, format!("ALTER FUNCTION {signature} SECURITY INVOKER"));
        query(all, Must::Hide, format!("ALTER FUNCTION {signature} OWNER TO CURRENT_USER"));
        query(all, Must::Hide, format!("ALTER FUNCTION {signature} RESET ALL"));
        query(all, Must::Hide, format!("GRANT EXECUTE ON FUNCTION {signature} TO PUBLIC"));
        query(all, Must::Hide, format!("DROP FUNCTION {signature} CASCADE"));
    }
}

/// What is not about one relation or function.
fn about_the_server(all: &mut Vec<Try>) {
    for sql in [
        "DROP OWNED BY CURRENT_USER",
        "DROP OWNED BY stellar_tenants",
        "DROP OWNED BY {ROLE_B}",
        "REASSIGN OWNED BY stellar_tenants TO CURRENT_USER",
        "REASSIGN OWNED BY stellar_owner TO CURRENT_USER",
        "SET ROLE {ROLE_B}; SELECT * FROM stellar.memories",
        "GRANT {ROLE_B} TO CURRENT_USER",
        "GRANT stellar_maintainer TO CURRENT_USER",
        "REVOKE stellar_tenants FROM {ROLE_B}",
        "ALTER ROLE {ROLE_B} PASSWORD 'x'",
        "ALTER ROLE {ROLE_B} NOLOGIN",
        "ALTER ROLE {ROLE_B} SET statement_timeout = 1",
        "ALTER ROLE stellar_tenants SET statement_timeout = 1",
        "ALTER ROLE ALL SET statement_timeout = 1",
        "ALTER ROLE CURRENT_USER BYPASSRLS",
        "ALTER ROLE CURRENT_USER CREATEROLE",
        "CREATE ROLE mine",
        "DROP ROLE {ROLE_B}",
        "ALTER DATABASE stellar SET statement_timeout = 1",
        "ALTER DATABASE stellar OWNER TO CURRENT_USER",
        "ALTER SYSTEM SET max_connections = 1",
        "CREATE SCHEMA mine",
        "CREATE EXTENSION file_fdw",
        "CREATE EXTENSION dblink",
        "CREATE TABLE public.mine (a int)",
        "CREATE FUNCTION stellar.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE PUBLICATION mine FOR ALL TABLES",
        "CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION stellar.control_changed()",
        "ALTER DEFAULT PRIVILEGES FOR ROLE stellar_owner GRANT ALL ON TABLES TO PUBLIC",
        "SELECT pg_read_file('postgresql.conf')",
        "SELECT pg_ls_dir('.')",
        "SELECT pg_reload_conf()",
        "SELECT pg_stat_reset()",
        "SELECT pg_create_logical_replication_slot('mine', 'test_decoding')",
        "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a WHERE a.usename <> current_user",
        "SELECT pg_cancel_backend(a.pid) FROM pg_stat_activity a WHERE a.usename <> current_user",
        "SELECT * FROM pg_authid",
        "SELECT * FROM pg_shadow",
        "SELECT * FROM pg_statistic",
        "SELECT * FROM pg_stats",
        "SELECT * FROM pg_stats_ext",
        "SELECT * FROM pg_largeobject",
        "SELECT lo_get({LARGE})",
        "SELECT lo_put({LARGE}, 0, 'x')",
        "SELECT lo_unlink({LARGE})",
        "SELECT lo_export({LARGE}, '/dev/null')",
        "SELECT lo_import('/etc/hostname')",
        "SELECT lo_unlink(lo_create(0))",
        "SELECT * FROM pg_prepared_xacts",
        "PREPARE TRANSACTION 'mine'",
        "LISTEN stellar_control; NOTIFY stellar_control, '{B}'; UNLISTEN *",
        "NOTIFY stellar_control, 'rubbish'",
        "SELECT pg_notify('stellar_control', repeat('x', 7999))",
        "SELECT pg_notify('stellar_control', repeat('x', 8001))",
    ] {
        query(all, Must::Hide, sql.to_owned());
    }
    for lock in ["pg_advisory_xact_lock(1)", "pg_advisory_xact_lock_shared(1)", "stellar.write_lock()"] {
        query(all, Must::StopNobody, format!("SELECT {lock}"));
    }
    for view in [
        "pg_stat_activity",
        "pg_stat_all_tables",
        "pg_statio_all_tables",
        "pg_stat_all_indexes",
        "pg_locks",
        "pg_stat_ssl",
    ] {
        query(all, Must::Hide, format!("SELECT * FROM {view}"));
    }
}
