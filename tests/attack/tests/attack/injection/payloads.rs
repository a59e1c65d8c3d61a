//! What is injected: everything that outlives a statement, a transaction or a request, in every way to say it.

/// `{A}`, `{B}`: ids; `{ROLE_B}`: the other's role; `{CAPABILITY_A}`: what is the attacker's own.
const PRIMITIVES: &[&str] = &[
    // Who acts.
    "RESET ROLE",
    "SET ROLE NONE",
    "SET ROLE stellar_maintainer",
    "SET ROLE {ROLE_B}",
    "SET SESSION AUTHORIZATION DEFAULT",
    "SET SESSION AUTHORIZATION stellar_owner",
    "SELECT pg_catalog.set_config(''app.current_user_id'', ''{B}'', false)",
    "SELECT pg_catalog.set_config(''app.current_user_id'', ''{B}'', true)",
    "SELECT pg_catalog.set_config(''app.tenant_capability'', ''{CAPABILITY_A}'', false)",
    "SELECT pg_catalog.set_config(''app.agent'', ''somebody else'', false)",
    "SELECT * FROM stellar.enter(''{B}'', ''\\x{CAPABILITY_A}'', ''default'', false)",
    // Settings of the session.
    "RESET ALL",
    "SET search_path = public, stellar",
    "SET row_security = off",
    "SET statement_timeout = 1",
    "SET lock_timeout = 1",
    "SET idle_in_transaction_session_timeout = 1",
    "SET idle_session_timeout = 1",
    "SET default_transaction_read_only = on",
    "SET default_transaction_isolation = serializable",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET session_replication_role = replica",
    "SET synchronous_commit = off",
    "SET client_encoding = LATIN1",
    "SET client_encoding = SQL_ASCII",
    "SET client_min_messages = debug5",
    "SET TimeZone = ''Asia/Kathmandu''",
    "SET DateStyle = ''German, DMY''",
    "SET standard_conforming_strings = off",
    "SET plpgsql.extra_errors = ''all''",
    "SET plan_cache_mode = force_generic_plan",
    "SET enable_indexscan = off; SET enable_bitmapscan = off",
    "SET work_mem = ''64kB''; SET temp_buffers = 100",
    "SET exit_on_error = on",
    "SET transform_null_equals = on",
    "SET debug_print_plan = on",
    // Settings of sessions to come, save those that end them: Postgres lets every login set its own (ARCHITECTURE.md).
    "ALTER ROLE CURRENT_USER SET search_path = public, stellar",
    "ALTER ROLE CURRENT_USER IN DATABASE stellar SET search_path = public, pg_temp, pg_catalog",
    "ALTER ROLE CURRENT_USER SET row_security = off",
    "ALTER ROLE CURRENT_USER SET app.current_user_id = ''{B}''",
    "ALTER ROLE CURRENT_USER SET role = stellar_tenants",
    "ALTER ROLE CURRENT_USER SET default_transaction_read_only = on",
    "ALTER ROLE CURRENT_USER SET default_transaction_isolation = serializable",
    "ALTER ROLE CURRENT_USER SET session_replication_role = replica",
    "ALTER ROLE CURRENT_USER SET plan_cache_mode = force_generic_plan",
    "ALTER ROLE CURRENT_USER SET enable_indexscan = off",
    // Things of the session.
    "PREPARE sqlx_s_1 AS SELECT pg_catalog.current_setting(''app.tenant_capability'', true)",
    "PREPARE sqlx_s_2 (uuid, bytea, text, boolean) AS SELECT 1::bigint, 1, 1 FROM (SELECT $1, $2, $3, $4) planted",
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "DISCARD PLANS",
    "DISCARD TEMP",
    "DECLARE planted CURSOR WITH HOLD FOR SELECT pg_catalog.current_setting(''app.tenant_capability'', true), m FROM stellar.memories m",
    "DECLARE planted2 CURSOR FOR SELECT * FROM stellar.memories",
    "LISTEN stellar_control",
    "LISTEN planted; NOTIFY planted, ''now''",
    "SELECT pg_catalog.pg_advisory_lock(n) FROM generate_series(1, 500) n",
    "SELECT pg_catalog.pg_advisory_lock_shared(1)",
    "CREATE TEMP TABLE memories AS SELECT 1",
    "CREATE TEMP TABLE users (id uuid)",
    "CREATE FUNCTION pg_temp.current_tenant() RETURNS uuid LANGUAGE sql AS ''SELECT NULL::uuid''",
    "CREATE FUNCTION public.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS ''SELECT NULL''",
    // The transaction, the protocol, the process.
    "SET TRANSACTION READ ONLY",
    "SET CONSTRAINTS ALL DEFERRED",
    "SELECT pg_catalog.pg_export_snapshot()",
    "COPY (SELECT 1) TO STDOUT",
    "COPY stellar.operations FROM STDIN",
    "LOCK TABLE stellar.memories IN ACCESS SHARE MODE",
    "SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid())",
    "SELECT pg_catalog.pg_cancel_backend(pg_catalog.pg_backend_pid())",
    "DROP OWNED BY CURRENT_USER",
    "ALTER DATABASE stellar SET default_transaction_read_only = on",
    "SELECT m.content FROM stellar.memories m WHERE m.user_id = ''{B}''",
    "SELECT pg_catalog.set_config(''app.current_user_id'', ''{B}'', true); SELECT m.content FROM stellar.memories m",
];

/// How a primitive is said; `{P}` with doubled quotes is for texts.
const WAYS: &[&str] = &[
    "{P}",
    "{P}; COMMIT",
    "COMMIT; {P}",
    "COMMIT; BEGIN; {P}",
    "COMMIT; BEGIN; {P}; COMMIT; BEGIN; SELECT 1/0",
    "ROLLBACK; {P}; BEGIN",
    "SAVEPOINT s; {P}; SAVEPOINT s; RELEASE s",
    "{P}; SELECT 1/0",
    "DO $do$ BEGIN EXECUTE '{PP}'; END $do$; COMMIT",
];

/// Every primitive in every way: 500 and more.
pub fn all() -> Vec<String> {
    let of = |way: &str, primitive: &str| way.replace("{PP}", primitive).replace("{P}", &primitive.replace("''", "'"));
    WAYS.iter().flat_map(|way| PRIMITIVES.iter().map(move |primitive| of(way, primitive))).collect()
}

/// What the attacker runs afterwards, to find what a victim left: each on its own, so that a refusal ends no other.
pub fn spy() -> Vec<String> {
    [
        "COMMIT",
        "SELECT pg_catalog.current_setting('app.current_user_id', true), pg_catalog.current_setting('app.tenant_capability', true),
             pg_catalog.current_setting('app.agent', true)",
        "SELECT * FROM pg_catalog.pg_prepared_statements",
        "SELECT * FROM pg_catalog.pg_cursors",
        "SELECT * FROM pg_catalog.pg_settings s WHERE s.name LIKE 'app.%'",
        "SELECT a.query FROM pg_catalog.pg_stat_activity a WHERE a.pid <> pg_catalog.pg_backend_pid()",
        "EXECUTE sqlx_s_1",
        "FETCH ALL FROM planted",
        "SELECT * FROM stellar.memories",
        "SELECT * FROM stellar.usage",
        "SELECT stellar.current_tenant()",
        "BEGIN",
    ]
    .map(str::to_owned)
    .into()
}
