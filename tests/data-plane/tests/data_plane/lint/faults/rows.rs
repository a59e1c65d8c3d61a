//! Tables, policies, keys and statistics.

use super::{Fault, Sees, error, warning};

pub const FAULTS: &[Fault] = &[
    error(
        "rls-disabled",
        "row-level security off",
        "ALTER TABLE stellar.memories DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE stellar.memories ENABLE ROW LEVEL SECURITY",
    ),
    error(
        "rls-disabled",
        "a new table of tenants' rows without policies",
        "CREATE TABLE stellar.notes (user_id uuid PRIMARY KEY REFERENCES stellar.users ON DELETE CASCADE)",
        "DROP TABLE stellar.notes",
    ),
    error(
        "rls-not-forced",
        "the owner passes policies",
        "ALTER TABLE stellar.usage NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE stellar.usage FORCE ROW LEVEL SECURITY",
    ),
    error(
        "policy-unexpected",
        "a policy more",
        "CREATE POLICY leak ON stellar.memories FOR SELECT USING (true)",
        "DROP POLICY leak ON stellar.memories",
    ),
    error(
        "policy-missing",
        "a policy less, so that erasing sees no rows",
        "DROP POLICY maintainer ON stellar.audit",
        "CREATE POLICY maintainer ON stellar.audit TO stellar_maintainer USING (true) WITH CHECK (true)",
    ),
    error(
        "policy-changed",
        "the tenant as it claims",
        "ALTER POLICY tenant ON stellar.memories USING (user_id = current_setting('app.current_user_id')::uuid)",
        "ALTER POLICY tenant ON stellar.memories USING (user_id = (SELECT stellar.current_tenant()))",
    ),
    error(
        "policy-changed",
        "rows of nobody in particular are everybody's",
        "ALTER POLICY tenant ON stellar.changes USING (user_id = (SELECT stellar.current_tenant()) OR user_id IS NULL)",
        "ALTER POLICY tenant ON stellar.changes USING (user_id = (SELECT stellar.current_tenant()))",
    ),
    error(
        "policy-changed",
        "writes to anybody",
        "ALTER POLICY tenant ON stellar.memories WITH CHECK (true)",
        "ALTER POLICY tenant ON stellar.memories WITH CHECK (user_id = (SELECT stellar.current_tenant()))",
    ),
    error(
        "policy-changed",
        "a policy for one role more",
        "ALTER POLICY control ON stellar.users TO stellar_operator, stellar_gateway, stellar_pool",
        "ALTER POLICY control ON stellar.users TO stellar_operator, stellar_gateway",
    ),
    error(
        "key-without-tenant",
        "ids unique among all tenants",
        "CREATE UNIQUE INDEX ids ON stellar.memories (id)",
        "DROP INDEX stellar.ids",
    ),
    error(
        "key-without-tenant",
        "a foreign key that does not start with the tenant",
        "ALTER TABLE stellar.audit ADD CONSTRAINT by_key FOREIGN KEY (key_id) REFERENCES stellar.users (id)",
        "ALTER TABLE stellar.audit DROP CONSTRAINT by_key",
    ),
    error(
        "key-without-tenant",
        "a foreign key from another schema",
        "CREATE TABLE public.mine (owner uuid REFERENCES stellar.users (id))",
        "DROP TABLE public.mine",
    ),
    error(
        "key-missing",
        "no foreign key, so that rows of an erased tenant stay",
        "ALTER TABLE stellar.audit DROP CONSTRAINT audit_user_id_fkey",
        "ALTER TABLE stellar.audit ADD FOREIGN KEY (user_id) REFERENCES stellar.users (id) ON DELETE CASCADE",
    ),
    error(
        "key-missing",
        "no primary key",
        "ALTER TABLE stellar.changes DROP CONSTRAINT changes_pkey",
        "ALTER TABLE stellar.changes ADD PRIMARY KEY (user_id, seq)",
    ),
    warning(
        "index-missing",
        "no index for the policy",
        "ALTER TABLE stellar.audit DROP CONSTRAINT audit_pkey",
        "ALTER TABLE stellar.audit ADD PRIMARY KEY (user_id, at, id)",
    ),
    error(
        "planner-statistics",
        "statistics of a column",
        "ALTER TABLE stellar.memories ALTER COLUMN user_id SET STATISTICS 100",
        "ALTER TABLE stellar.memories ALTER COLUMN user_id SET STATISTICS 0",
    ),
    error(
        "planner-statistics",
        "statistics of an index's expression",
        "CREATE INDEX by_length ON stellar.memories (user_id, length(content))",
        "DROP INDEX stellar.by_length",
    ),
    error(
        "planner-statistics",
        "extended statistics",
        "CREATE STATISTICS public.together ON user_id, zone FROM stellar.memories",
        "DROP STATISTICS public.together",
    ),
    Fault {
        seen_by: Sees::Superuser,
        ..error(
            "planner-statistics-kept",
            "statistics of earlier",
            "ALTER TABLE stellar.memories ALTER COLUMN user_id SET STATISTICS 100; ANALYZE stellar.memories;
             ALTER TABLE stellar.memories ALTER COLUMN user_id SET STATISTICS 0",
            "DELETE FROM pg_catalog.pg_statistic WHERE starelid = 'stellar.memories'::regclass",
        )
    },
    error(
        "inheritance",
        "a table that is read with memories",
        "CREATE TABLE public.copy () INHERITS (stellar.memories)",
        "DROP TABLE public.copy",
    ),
    error(
        "relation-owner",
        "a table of somebody else",
        "ALTER TABLE stellar.tiers OWNER TO admin",
        "ALTER TABLE stellar.tiers OWNER TO stellar_owner",
    ),
    error(
        "relation-unexpected",
        "a sequence that all tenants see",
        "CREATE SEQUENCE stellar.numbers",
        "DROP SEQUENCE stellar.numbers",
    ),
    error(
        "relation-missing",
        "a table moved away",
        "ALTER TABLE stellar.gateways SET SCHEMA public",
        "ALTER TABLE public.gateways SET SCHEMA stellar",
    ),
    error(
        "relation-changed",
        "a view in a table's place",
        "ALTER TABLE stellar.gateways SET SCHEMA public; CREATE VIEW stellar.gateways AS SELECT * FROM public.gateways",
        "DROP VIEW stellar.gateways; ALTER TABLE public.gateways SET SCHEMA stellar",
    ),
    error(
        "identity-column",
        "a role's name that can be written",
        "ALTER TABLE stellar.users ALTER COLUMN role_name DROP EXPRESSION",
        "ALTER TABLE stellar.users DROP COLUMN role_name;
         ALTER TABLE stellar.users ADD COLUMN role_name text NOT NULL
             GENERATED ALWAYS AS ('t_' || replace(id::text, '-', '')) STORED UNIQUE;
         GRANT SELECT (role_name) ON stellar.users TO stellar_operator, stellar_gateway",
    ),
];
