//! Who sees which row: row-level security, policies, keys, and the planner's statistics.

use super::{
    Catalog, Check, LintError, Rule,
    compare::Listed,
    expected::{POLICIES, TABLES},
};

/// The tables that hold tenants' rows, each with its column that says whose a row is.
macro_rules! tenant_tables {
    () => {
        "(SELECT c.oid, c.relname, c.relrowsecurity, c.relforcerowsecurity, a.attnum
          FROM pg_class c
          JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
              AND a.attname = CASE c.relname WHEN 'users' THEN 'id' ELSE 'user_id' END
          WHERE c.relnamespace = 'stellar'::regnamespace AND c.relkind IN ('r', 'p'))"
    };
}

pub(super) const CHECKS: &[Check] = &[
    Check {
        rule: Rule::error(
            "rls-disabled",
            "its row-level security is off, so every tenant that may read it reads all rows: ALTER TABLE \
             {object} ENABLE ROW LEVEL SECURITY",
        ),
        sql: concat!("SELECT t.oid::regclass::text, '' FROM ", tenant_tables!(), " t WHERE NOT t.relrowsecurity"),
    },
    Check {
        rule: Rule::error(
            "rls-not-forced",
            "its owner passes row-level security: ALTER TABLE {object} FORCE ROW LEVEL SECURITY",
        ),
        sql: concat!("SELECT t.oid::regclass::text, '' FROM ", tenant_tables!(), " t WHERE NOT t.relforcerowsecurity"),
    },
    Check {
        rule: Rule::error(
            "key-without-tenant",
            "this {detail} does not start with the tenant's id, so a violation tells that another tenant's row \
             exists: drop it, or begin it with user_id",
        ),
        sql: concat!(
            "SELECT i.indexrelid::regclass::text, CASE WHEN i.indisprimary THEN 'primary key' ELSE 'unique index' END
             FROM pg_index i JOIN ",
            tenant_tables!(),
            " t ON t.oid = i.indrelid
             LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND i.indnkeyatts = 1
             WHERE (i.indisunique OR i.indisexclusion) AND i.indkey[0] <> t.attnum
                 -- A key finds its tenant; a role's name is made from the id.
                 AND (t.relname::text, coalesce(a.attname::text, '')) NOT IN (('api_keys', 'key_hash'), ('users', 'role_name'))
             UNION ALL
             SELECT k.conrelid::regclass || ' ' || k.conname, 'foreign key'
             FROM pg_constraint k LEFT JOIN ",
            tenant_tables!(),
            " t ON t.oid = k.conrelid
             WHERE k.contype = 'f' AND k.confrelid IN (SELECT c.oid FROM pg_class c
             WHERE c.relnamespace = 'stellar'::regnamespace)
                 AND k.conkey[1] IS DISTINCT FROM t.attnum"
        ),
    },
    Check {
        rule: Rule::error(
            "key-missing",
            "has no {detail}, without which rows of an erased tenant stay or ids meet those of others: put back \
             what the migrations make",
        ),
        sql: concat!(
            "SELECT t.oid::regclass::text, 'primary key' FROM ",
            tenant_tables!(),
            " t WHERE NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = t.oid AND i.indisprimary AND i.indisvalid)
             UNION ALL
             SELECT t.oid::regclass::text, 'foreign key of user_id to stellar.users with ON DELETE CASCADE' FROM ",
            tenant_tables!(),
            " t WHERE t.relname <> 'users' AND NOT EXISTS (
                 SELECT FROM pg_constraint k JOIN pg_class users ON users.oid = k.confrelid
                 WHERE k.contype = 'f' AND k.conrelid = t.oid AND users.relname = 'users'
                     AND users.relnamespace = 'stellar'::regnamespace AND k.conkey = ARRAY[t.attnum]
                     AND k.confdeltype = 'c' AND k.convalidated)"
        ),
    },
    Check {
        rule: Rule::warning(
            "index-missing",
            "no index starts with the tenant's id, so every policy reads the whole table: put back what the \
             migrations make",
        ),
        sql: concat!(
            "SELECT t.oid::regclass::text, '' FROM ",
            tenant_tables!(),
            " t WHERE NOT EXISTS (
                 SELECT FROM pg_index i
                 WHERE i.indrelid = t.oid AND i.indkey[0] = t.attnum AND i.indisvalid AND i.indpred IS NULL)"
        ),
    },
    Check {
        rule: Rule::error(
            "planner-statistics",
            "{detail}, so EXPLAIN answers questions about other tenants: ALTER TABLE (an index counts as one) … \
             ALTER COLUMN … SET STATISTICS 0, DROP STATISTICS for extended ones; a superuser deletes from \
             pg_statistic what is there already",
        ),
        sql: concat!(
            "SELECT a.attrelid::regclass || '.' || a.attname, 'the planner keeps statistics of this column'
             FROM pg_attribute a JOIN ",
            tenant_tables!(),
            " t ON t.oid = a.attrelid
             -- No tenant can read users, and EXPLAIN asks for the right to read.
             WHERE t.relname <> 'users' AND a.attnum > 0 AND NOT a.attisdropped AND coalesce(a.attstattarget, -1) <> 0
             UNION ALL
             SELECT a.attrelid::regclass || '.' || a.attname, 'the planner keeps statistics of this expression'
             FROM pg_index i JOIN ",
            tenant_tables!(),
            " t ON t.oid = i.indrelid
             JOIN pg_attribute a ON a.attrelid = i.indexrelid AND a.attnum BETWEEN 1 AND i.indnkeyatts
             WHERE t.relname <> 'users' AND i.indkey[a.attnum - 1] = 0 AND coalesce(a.attstattarget, -1) <> 0
             UNION ALL
             SELECT s.stxnamespace::regnamespace || '.' || s.stxname, 'the planner keeps extended statistics'
             FROM pg_statistic_ext s JOIN ",
            tenant_tables!(),
            " t ON t.oid = s.stxrelid"
        ),
    },
    Check {
        rule: Rule::error(
            "inheritance",
            "it inherits from or is inherited by {detail}, which has policies of its own or none: ALTER TABLE … \
             NO INHERIT, or DETACH PARTITION",
        ),
        sql: "SELECT h.inhrelid::regclass::text, h.inhparent::regclass::text
              FROM pg_inherits h JOIN pg_class child ON child.oid = h.inhrelid JOIN pg_class parent
                  ON parent.oid = h.inhparent
              WHERE 'stellar'::regnamespace IN (child.relnamespace, parent.relnamespace)
                  AND child.relkind NOT IN ('i', 'I')",
    },
    Check {
        rule: Rule::error(
            "relation-owner",
            "belongs to {detail}, which may then change it and its policies: ALTER … {object} OWNER TO stellar_owner",
        ),
        sql: "SELECT c.oid::regclass::text, c.relowner::regrole::text FROM pg_class c
              WHERE c.relnamespace = 'stellar'::regnamespace AND c.relkind NOT IN ('i', 'I')
                  AND pg_get_userbyid(c.relowner) <> 'stellar_owner'
              UNION ALL
              SELECT 'schema stellar', n.nspowner::regrole::text FROM pg_namespace n
              WHERE n.nspname = 'stellar' AND pg_get_userbyid(n.nspowner) <> 'stellar_owner'",
    },
    Check {
        rule: Rule::error(
            "identity-column",
            "a tenant's role must follow from its id alone, as a generated column; it is {detail}: make the \
             column again as in migrations/0002_tables.sql",
        ),
        sql: "SELECT 'stellar.users.role_name', coalesce(pg_get_expr(d.adbin, d.adrelid), 'an ordinary column')
              FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
              WHERE a.attrelid = to_regclass('stellar.users') AND a.attname = 'role_name'
                  AND (a.attgenerated <> 's' OR pg_get_expr(d.adbin, d.adrelid) IS DISTINCT FROM
                      '(''t_''::text || replace((id)::text, ''-''::text, ''''::text))')",
    },
];

const STATISTICS: Rule = Rule::error(
    "planner-statistics-kept",
    "statistics from before SET STATISTICS 0 are still there, so EXPLAIN answers questions about other tenants: \
     as a superuser DELETE FROM pg_statistic WHERE starelid = '{object}'::regclass",
);
const POLICY_UNEXPECTED: Rule = Rule::error(
    "policy-unexpected",
    "no migration makes this policy, and every permissive policy shows more rows ({detail}): DROP POLICY",
)
.listed();
const POLICY_MISSING: Rule = Rule::error(
    "policy-missing",
    "the policy is gone, and functions that need it see no rows without an error: CREATE POLICY … {detail}",
)
.listed();
const POLICY_CHANGED: Rule =
    Rule::error("policy-changed", "the policy is {detail}: ALTER POLICY, or drop it and create it again").listed();
const RELATION_UNEXPECTED: Rule = Rule::error(
    "relation-unexpected",
    "no migration makes this {detail}, and nothing says who may see its rows: drop it, or move it to a schema of \
     your own",
)
.listed();
const RELATION_MISSING: Rule =
    Rule::error("relation-missing", "the {detail} is gone: restore it from a backup").listed();
const RELATION_CHANGED: Rule =
    Rule::error("relation-changed", "is a {detail}: restore the table from a backup").listed();

#[cfg(test)]
pub(super) const RULES: &[Rule] = &[
    STATISTICS,
    POLICY_UNEXPECTED,
    POLICY_MISSING,
    POLICY_CHANGED,
    RELATION_UNEXPECTED,
    RELATION_MISSING,
    RELATION_CHANGED,
];

/// What the planner still keeps, where the login may see it: only a superuser may.
pub(super) async fn statistics(catalog: &mut Catalog<'_>) -> Result<(), LintError> {
    let readable = "SELECT '', '' WHERE has_table_privilege('pg_catalog.pg_statistic', 'SELECT')";
    if catalog.pairs("ask for the right to see statistics", readable).await?.is_empty() {
        return Ok(());
    }
    let sql = concat!(
        "SELECT DISTINCT s.starelid::regclass::text, '' FROM pg_statistic s
         LEFT JOIN pg_index i ON i.indexrelid = s.starelid
         JOIN ",
        tenant_tables!(),
        " t ON t.oid = coalesce(i.indrelid, s.starelid) WHERE t.relname <> 'users'"
    );
    catalog.check(&Check { rule: STATISTICS, sql }).await
}

const FOUND_POLICIES: &str = "
SELECT 'policy ' || quote_ident(p.polname) || ' on ' || p.polrelid::regclass,
    concat(CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END, ' FOR ',
        CASE p.polcmd WHEN '*' THEN 'ALL' WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
            ELSE 'DELETE' END,
        ' TO ', (SELECT string_agg(coalesce(r.rolname, 'PUBLIC'), ', ' ORDER BY r.rolname)
            FROM unnest(p.polroles) AS named (oid) LEFT JOIN pg_roles r ON r.oid = named.oid),
        ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
        ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
WHERE c.relnamespace = 'stellar'::regnamespace";

const FOUND_RELATIONS: &str = "
SELECT c.oid::regclass::text, CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table'
    WHEN 'v' THEN 'view'
    WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence' ELSE 'type' END
FROM pg_class c WHERE c.relnamespace = 'stellar'::regnamespace AND c.relkind NOT IN ('i', 'I')";

/// Policies and relations against the lists.
pub(super) async fn compare(catalog: &mut Catalog<'_>) -> Result<(), LintError> {
    let expected: Vec<_> = POLICIES
        .iter()
        .flat_map(|(tables, name, definition)| {
            tables.split(' ').map(move |table| (format!("policy {name} on stellar.{table}"), (*definition).to_owned()))
        })
        .collect();
    let found = catalog.pairs("read the policies", FOUND_POLICIES).await?;
    Listed { unexpected: &POLICY_UNEXPECTED, missing: &POLICY_MISSING, changed: &POLICY_CHANGED }
        .compare(catalog, &expected, &found);

    let expected: Vec<_> = TABLES.split(' ').map(|table| (format!("stellar.{table}"), "table".to_owned())).collect();
    let found = catalog.pairs("read the relations", FOUND_RELATIONS).await?;
    Listed { unexpected: &RELATION_UNEXPECTED, missing: &RELATION_MISSING, changed: &RELATION_CHANGED }
        .compare(catalog, &expected, &found);
    Ok(())
}
