//! Who was granted what: every grant in the schema and on the database, against the list.

use std::collections::BTreeSet;

use super::{
    Catalog, Check, LintError, Rule,
    compare::differences,
    expected::{COLUMN_GRANTS, FUNCTIONS, NO_DEFAULT_EXECUTE, OTHER_GRANTS, TABLE_GRANTS},
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        rule: Rule::error(
            "schema-writable",
            "{detail} may make objects in it, and put them in the way of others: REVOKE CREATE ON SCHEMA {object}",
        ),
        sql: concat!(
            "SELECT DISTINCT quote_ident(n.nspname), coalesce(r.rolname, 'PUBLIC')
             FROM pg_namespace n CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) g
             LEFT JOIN pg_roles r ON r.oid = g.grantee
             WHERE g.privilege_type = 'CREATE' AND g.grantee <> n.nspowner AND n.nspname <> 'stellar'
                 AND (g.grantee = 0 OR r.rolname ~ ",
            product_roles!(),
            ")"
        ),
    },
    Check {
        rule: Rule::error(
            "grant-elsewhere",
            "{detail}, which no migration grants: REVOKE it, or DROP OWNED BY the role",
        ),
        // Postgres notes every grant to a role here, whatever the kind of object.
        sql: concat!(
            "SELECT DISTINCT pg_describe_object(d.classid, d.objid, 0), r.rolname || ' has a grant on it'
             FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
             LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
             LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
             WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'a'
                 AND d.dbid IN (0, (SELECT b.oid FROM pg_database b WHERE b.datname = current_database()))
                 -- Memberships, default privileges, large objects and servers have rules of their own.
                 AND d.classid NOT IN ('pg_database'::regclass, 'pg_auth_members'::regclass,
                     'pg_default_acl'::regclass, 'pg_largeobject'::regclass, 'pg_foreign_server'::regclass)
                 AND NOT (d.classid = 'pg_namespace'::regclass AND d.objid = 'stellar'::regnamespace)
                 AND coalesce(c.relnamespace, p.pronamespace, 0) <> 'stellar'::regnamespace
                 -- The operator reads which migrations have run.
                 AND (c.relname IS DISTINCT FROM '_sqlx_migrations' OR r.rolname <> 'stellar_operator')
                 AND r.rolname ~ ",
            product_roles!(),
            "
             UNION ALL
             SELECT 'parameter ' || a.parname, 'PUBLIC has a grant on it'
             FROM pg_parameter_acl a CROSS JOIN LATERAL aclexplode(a.paracl) g WHERE g.grantee = 0"
        ),
    },
    Check {
        rule: Rule::warning(
            "open-relation",
            "{detail} is granted to PUBLIC, so every tenant has it too: REVOKE it, if this holds anything of tenants",
        ),
        sql: "SELECT c.oid::regclass::text, string_agg(DISTINCT g.privilege_type, ', ')
              FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN LATERAL aclexplode(c.relacl) g
              WHERE g.grantee = 0 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
                  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'stellar')
                  AND NOT EXISTS (
                      SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
              GROUP BY c.oid",
    },
];

const TO_PUBLIC: Rule = Rule::error(
    "grant-to-public",
    "{detail} is granted to every role of the server, tenants too: REVOKE it FROM PUBLIC",
);
const OWNER_ONLY: Rule = Rule::error(
    "grant-owner-only",
    "{detail} passes row-level security or locks the table against everybody, so it is the owner's alone: REVOKE it",
);
const UNEXPECTED: Rule = Rule::error("grant-unexpected", "no migration grants {detail}: REVOKE it").listed();
const EXECUTABLE: Rule = Rule::error(
    "function-executable",
    "this function acts with its owner's rights for those it is granted to, and no migration grants {detail}: \
     REVOKE it",
)
.listed();
const MISSING: Rule = Rule::warning(
    "grant-missing",
    "{detail} is not granted, so requests fail: GRANT it, unless the operator does within seconds",
)
.listed();
const DEFAULT_PRIVILEGES: Rule = Rule::error(
    "default-privileges",
    "{detail}: every object made from now on is open to others, or every function executable: ALTER DEFAULT \
     PRIVILEGES back to what migrations/0001_roles.sql says",
)
.listed();

#[cfg(test)]
pub(super) const RULES: &[Rule] = &[TO_PUBLIC, OWNER_ONLY, UNEXPECTED, EXECUTABLE, MISSING, DEFAULT_PRIVILEGES];

/// Of other databases' grants, and what a platform's own roles may do with the database as a whole, nothing is said.
const FOUND: &str = concat!(
    "SELECT object, privilege_type || ' to ' || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END
         || CASE WHEN is_grantable THEN ' with grant option' ELSE '' END
     FROM (
         SELECT c.oid::regclass::text AS object, c.relowner AS owner, g.*
         FROM pg_class c
         CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) g
         WHERE c.relnamespace = 'stellar'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
         UNION ALL
         SELECT c.oid::regclass || '.' || a.attname, c.relowner, g.*
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
         CROSS JOIN LATERAL aclexplode(a.attacl) g
         WHERE c.relnamespace = 'stellar'::regnamespace
         UNION ALL
         SELECT p.oid::regprocedure::text, p.proowner, g.*
         FROM pg_proc p CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g
         WHERE p.pronamespace = 'stellar'::regnamespace
         UNION ALL
         SELECT 'schema stellar', n.nspowner, g.*
         FROM pg_namespace n CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) g
         WHERE n.nspname = 'stellar'
         UNION ALL
         SELECT 'the database', d.datdba, g.*
         FROM pg_database d CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) g
         WHERE d.datname = current_database()
             AND (g.grantee = 0 OR pg_get_userbyid(g.grantee) ~ ",
    product_roles!(),
    ")
     ) AS granted
     WHERE granted.grantee <> granted.owner"
);

const FOUND_DEFAULTS: &str = concat!(
    "SELECT concat_ws(' ', 'objects', CASE d.defaclobjtype WHEN 'r' THEN 'table' WHEN 'S' THEN 'sequence'
             WHEN 'f' THEN 'function' WHEN 'T' THEN 'type' WHEN 'n' THEN 'schema' ELSE 'other' END,
         'made by', r.rolname, 'in ' || nullif(d.defaclnamespace, 0)::regnamespace),
         array_to_string(d.defaclacl, ' ')
     FROM pg_default_acl d JOIN pg_roles r ON r.oid = d.defaclrole
     WHERE (d.defaclnamespace = 'stellar'::regnamespace OR r.rolname ~ ",
    product_roles!(),
    ")
         -- Who can make no object.
         AND r.rolname !~ ",
    tenant_logins!()
);

/// The grants of the lists that are not there.
pub(super) async fn missing(catalog: &mut Catalog<'_>) -> Result<BTreeSet<(String, String)>, LintError> {
    let (found, expected) = (catalog.pairs("read the grants", FOUND).await?, expected());
    Ok(differences(&expected, &found)
        .1
        .into_iter()
        .map(|(object, detail)| (object.to_owned(), detail.to_owned()))
        .collect())
}

/// Grants and default privileges against the lists.
pub(super) async fn compare(catalog: &mut Catalog<'_>) -> Result<(), LintError> {
    let (found, expected) = (catalog.pairs("read the grants", FOUND).await?, expected());
    let (unexpected, missing) = differences(&expected, &found);
    for (object, detail) in unexpected {
        let privilege = detail.split(' ').next().unwrap_or_default();
        let rule = if detail.contains(" to PUBLIC") {
            &TO_PUBLIC
        } else if ["TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"].contains(&privilege) {
            &OWNER_ONLY
        } else if privilege == "EXECUTE" {
            &EXECUTABLE
        } else {
            &UNEXPECTED
        };
        catalog.found(rule, object, detail);
    }
    for (object, detail) in missing {
        catalog.found(&MISSING, object, detail);
    }

    let found = catalog.pairs("read the default privileges", FOUND_DEFAULTS).await?;
    let expected: Vec<_> = NO_DEFAULT_EXECUTE
        .split(' ')
        .map(|role| (format!("objects function made by {role}"), format!("{role}=X/{role}")))
        .collect();
    let (unexpected, missing) = differences(&expected, &found);
    for (object, detail) in unexpected {
        catalog.found(&DEFAULT_PRIVILEGES, object, &format!("the default is {detail}"));
    }
    for (object, _) in missing.into_iter().filter(|(object, _)| !found.iter().any(|(found, _)| found == object)) {
        catalog.found(&DEFAULT_PRIVILEGES, object, "the default is EXECUTE to PUBLIC");
    }
    Ok(())
}

fn expected() -> Vec<(String, String)> {
    let mut grants = Vec::new();
    let mut add = |object: String, privilege: &str, roles: &str| {
        let roles = roles.split_ascii_whitespace();
        grants.extend(roles.map(|role| (object.clone(), format!("{privilege} to {role}"))));
    };
    for (privileges, tables, roles) in TABLE_GRANTS {
        for table in tables.split(' ') {
            privileges.split(' ').for_each(|privilege| add(format!("stellar.{table}"), privilege, roles));
        }
    }
    for (privilege, table, columns, roles) in COLUMN_GRANTS {
        columns.split(' ').for_each(|column| add(format!("stellar.{table}.{column}"), privilege, roles));
    }
    for (signature, _, _, roles) in FUNCTIONS {
        add(format!("stellar.{signature}"), "EXECUTE", roles);
    }
    for (privilege, object, roles) in OTHER_GRANTS {
        add((*object).to_owned(), privilege, roles);
    }
    grants
}
