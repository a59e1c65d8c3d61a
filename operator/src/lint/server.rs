//! The server under the schema: its settings, its version, and the version of the schema itself.

use super::{Catalog, Check, LintError, Rule};
use crate::migrate::migrations;

pub(super) const CHECKS: &[Check] = &[
    Check {
        rule: Rule::error(
            "replication-role",
            "sessions begin as {detail}, in which no trigger fires: set session_replication_role to origin",
        ),
        sql: "SELECT 'session_replication_role', current_setting('session_replication_role')
              WHERE current_setting('session_replication_role') <> 'origin'",
    },
    Check {
        rule: Rule::warning(
            "asynchronous-commit",
            "a crash may take back commits that were answered already, save those of memories and keys, which ask for \
             more: it is {detail}; set synchronous_commit to on there",
        ),
        // What a session of this login begins with is the server's own setting where no role and no database has another.
        sql: concat!(
            "WITH settings AS (
                 SELECT CASE WHEN s.setrole <> 0 THEN 'role ' || quote_ident(pg_get_userbyid(s.setrole))
                         WHEN s.setdatabase <> 0 THEN 'the database' ELSE 'all roles' END AS object,
                     lower(split_part(setting, '=', 2)) AS value,
                     s.setrole = 0 OR pg_get_userbyid(s.setrole) = session_user AS is_own
                 FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS setting
                 WHERE split_part(setting, '=', 1) = 'synchronous_commit'
                     AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
                     AND (s.setrole = 0 OR pg_get_userbyid(s.setrole) = session_user OR pg_get_userbyid(s.setrole) ~ ",
            product_roles!(),
            "))
             SELECT object, value FROM settings WHERE value IN ('off', 'false', 'no', '0', 'local')
             UNION ALL
             SELECT 'the server', s.reset_val FROM pg_settings s
             WHERE s.name = 'synchronous_commit' AND s.reset_val IN ('off', 'local')
                 AND NOT EXISTS (SELECT FROM settings WHERE is_own)"
        ),
    },
    Check {
        rule: Rule::warning(
            "fsync-off",
            "nothing makes sure that what is written reaches the disk, so a crash of the machine may leave a database that \
             cannot be read: set {object} to on, and restore a backup after a crash without it",
        ),
        sql: "SELECT s.name, '' FROM pg_settings s WHERE s.name = 'fsync' AND s.setting = 'off'",
    },
    Check {
        rule: Rule::warning(
            "full-page-writes-off",
            "a page that was half written when the machine crashed stays so, unless the file system rules that out: set \
             {object} to on",
        ),
        sql: "SELECT s.name, '' FROM pg_settings s WHERE s.name = 'full_page_writes' AND s.setting = 'off'",
    },
    Check {
        rule: Rule::warning(
            "row-security-off",
            "statements under a policy then fail instead of showing fewer rows: set row_security to on",
        ),
        sql: "SELECT s.name, '' FROM pg_settings s WHERE s.name = 'row_security' AND s.reset_val <> 'on'",
    },
    Check {
        rule: Rule::warning(
            "logged-parameters",
            "{detail} writes bind parameters, which hold capabilities and memories, to the server's log: set \
             log_parameter_max_length to 0",
        ),
        sql: "SELECT 'log_parameter_max_length', string_agg(s.name || ' = ' || s.setting, ' and ' ORDER BY s.name)
              FROM pg_settings s
              WHERE current_setting('log_parameter_max_length') NOT IN ('0', '0B') AND CASE s.name
                  WHEN 'log_statement' THEN s.setting IN ('mod', 'all')
                  WHEN 'log_min_duration_statement' THEN s.setting <> '-1'
                  WHEN 'log_min_duration_sample' THEN s.setting <> '-1'
                  WHEN 'log_transaction_sample_rate' THEN s.setting <> '0'
                  ELSE false END
              HAVING count(*) > 0",
    },
    Check {
        rule: Rule::warning(
            "logged-parameters-on-error",
            "a statement that fails writes its bind parameters, which hold capabilities and memories, to the \
             server's log: set {object} to 0",
        ),
        sql: "SELECT s.name, '' FROM pg_settings s WHERE s.name = 'log_parameter_max_length_on_error'
                  AND s.setting <> '0'",
    },
    Check {
        rule: Rule::warning(
            "logged-plans",
            "auto_explain writes bind parameters, which hold capabilities and memories, to the server's log: set \
             {object} to 0",
        ),
        // Seen only where the login may see it; on 15 auto_explain writes none.
        sql: "SELECT s.name, '' FROM pg_settings s
              WHERE s.name = 'auto_explain.log_parameter_max_length' AND s.setting <> '0'
                  AND EXISTS (SELECT FROM pg_settings m WHERE m.name = 'auto_explain.log_min_duration'
                      AND m.setting <> '-1')",
    },
];

const VERSION: Rule = Rule::warning("server-version", "this minor release lacks the fix of {detail}");
const UNSUPPORTED: Rule = Rule::warning(
    "server-unsupported",
    "the tests of this release run on Postgres 15 and 18, and fixes are known here for 15 to 18: {detail}",
);
const SCHEMA: Rule = Rule::warning(
    "schema-version",
    "{detail}; what this release lists differs from that schema, so such findings are warnings: lint with the \
     release of the schema, or run `operator migrate`",
);

#[cfg(test)]
pub(super) const RULES: &[Rule] = &[VERSION, UNSUPPORTED, SCHEMA];

/// A fault of Postgres, and the minor release of each major one that mends it.
struct Fix {
    cve: &'static str,
    what: &'static str,
    minors: &'static [(i32, i32)],
}

impl Fix {
    fn minor(&self, major: i32) -> Option<i32> {
        self.minors.iter().find(|(known, _)| *known == major).map(|(_, minor)| *minor)
    }
}

/// What is known of a release of Postgres.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing: the list does not have its major release.
    Unknown,
    /// It lacks no fix of the list.
    Patched,
    /// It lacks these, and where to go.
    Lacks(String),
}

/// Known faults of Postgres that a tenant's SQL could use against this schema. Left out are those that need an attacker
/// who owns tables or extensions, or feeds psql or pg_restore (CVE-2024-0985, CVE-2023-39417, CVE-2024-7348,
/// CVE-2025-1094, CVE-2025-8714, CVE-2025-8715), which no tenant does.
const FIXES: &[Fix] = &[
    Fix { cve: "CVE-2023-2455", what: "policies of the wrong role after inlining", minors: &[(15, 3)] },
    Fix { cve: "CVE-2023-39418", what: "MERGE passes policies", minors: &[(15, 4)] },
    Fix { cve: "CVE-2023-5869", what: "an overflow in arrays runs code", minors: &[(15, 5), (16, 1)] },
    Fix { cve: "CVE-2024-4317", what: "extended statistics of others are shown", minors: &[(15, 7), (16, 3)] },
    Fix {
        cve: "CVE-2024-10976",
        what: "policies of the wrong role below subqueries",
        minors: &[(15, 9), (16, 5), (17, 1)],
    },
    Fix { cve: "CVE-2024-10978", what: "SET ROLE resets to the wrong role", minors: &[(15, 9), (16, 5), (17, 1)] },
    Fix {
        cve: "CVE-2024-10979",
        what: "PL/Perl changes the server's environment",
        minors: &[(15, 9), (16, 5), (17, 1)],
    },
    Fix {
        cve: "CVE-2025-8713",
        what: "statistics show rows that policies hide",
        minors: &[(15, 14), (16, 10), (17, 6)],
    },
    Fix { cve: "CVE-2026-6473", what: "an overflow runs code", minors: &[(15, 18), (16, 14), (17, 10), (18, 4)] },
];

/// Which faults the server's version is known for.
pub(super) async fn versions(catalog: &mut Catalog<'_>) -> Result<(), LintError> {
    let sql = "SELECT current_setting('server_version_num'), ''";
    let found = catalog.pairs("ask for the server's version", sql).await?;
    let number: i32 = found.first().and_then(|(number, _)| number.parse().ok()).unwrap_or_default();
    let (major, minor) = (number / 10_000, number % 10_000);
    let server = format!("Postgres {major}.{minor}");
    match standing(major, minor) {
        Standing::Unknown if major < 15 => catalog.found(&UNSUPPORTED, &server, "take a newer major release"),
        Standing::Unknown => {
            catalog.found(&UNSUPPORTED, &server, "take a newer release of this product when there is one");
        }
        Standing::Patched => {}
        Standing::Lacks(detail) => catalog.found(&VERSION, &server, &detail),
    }
    Ok(())
}

fn standing(major: i32, minor: i32) -> Standing {
    let known: Vec<_> = FIXES.iter().filter_map(|fix| Some((fix, fix.minor(major)?))).collect();
    let Some(enough) = known.iter().map(|(_, fixed)| *fixed).max() else { return Standing::Unknown };
    let missing = known.iter().filter(|(_, fixed)| minor < *fixed);
    let missing: Vec<String> = missing.map(|(fix, _)| format!("{} ({})", fix.cve, fix.what)).collect();
    if missing.is_empty() {
        return Standing::Patched;
    }
    Standing::Lacks(format!("{}: upgrade to {major}.{enough} or later", missing.join(", ")))
}

/// Whether the schema is the one that the lists describe. A rollback leaves one of a later release, and while an
/// upgrade is under way it is an earlier one.
pub(super) async fn schema_version(catalog: &mut Catalog<'_>) -> Result<(), LintError> {
    let operation = "ask which migrations have run";
    let readable = "SELECT '', '' FROM pg_class c
        WHERE c.relname = '_sqlx_migrations' AND c.relnamespace = to_regnamespace('public')
            AND has_schema_privilege(c.relnamespace, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')";
    if catalog.pairs(operation, readable).await?.is_empty() {
        return Ok(());
    }
    let sql = "SELECT coalesce(max(version), 0)::text, '' FROM public._sqlx_migrations WHERE success";
    let found = catalog.pairs(operation, sql).await?;
    let present: i64 = found.first().and_then(|(version, _)| version.parse().ok()).unwrap_or_default();
    let known = migrations().iter().map(|migration| migration.version).max().unwrap_or_default();
    if present != known {
        catalog.same_release = false;
        let detail = format!("the schema is at migration {present}, this release at {known}");
        catalog.found(&SCHEMA, "schema stellar", &detail);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_told_what_it_lacks_and_where_to_go() {
        assert_eq!(standing(15, 18), Standing::Patched);
        assert_eq!(standing(14, 30), Standing::Unknown);
        assert_eq!(standing(19, 0), Standing::Unknown);
        let told = "CVE-2025-8713 (statistics show rows that policies hide), CVE-2026-6473 (an overflow runs code): \
                    upgrade to 17.10 or later";
        assert_eq!(standing(17, 5), Standing::Lacks(told.to_owned()));
        assert!(matches!(standing(15, 2), Standing::Lacks(told) if told.starts_with("CVE-2023-2455 ")));
    }
}
