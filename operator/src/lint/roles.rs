//! The product's roles: what they are, what they are members of, and with which settings their sessions begin.

use super::{Check, Rule};

/// Settings that sessions of the product's roles begin with, as role and name: a value may be a secret. Time and memory harm
/// nobody.
macro_rules! settings {
    () => {
        concat!(
            "(SELECT r.rolname, s.name
              FROM (SELECT s.setrole, split_part(setting, '=', 1) AS name
                  FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS setting
                  WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))) AS s
              JOIN pg_roles r ON r.oid = s.setrole
              WHERE s.name NOT IN ('statement_timeout', 'lock_timeout', 'transaction_timeout',
                      'idle_in_transaction_session_timeout', 'idle_session_timeout', 'work_mem', 'maintenance_work_mem')
                  AND r.rolname ~ ",
            product_roles!(),
            ")"
        )
    };
}

/// Whether a tenant can have made the setting, of its own role or, before Postgres 16, of the group. What only an
/// administrator sets, pg_settings tells, save for the names here, which it shows to few.
macro_rules! of_a_tenant {
    () => {
        "(s.rolname ~ '^(stellar_tenants|t_[0-9a-f]{32})$'
          AND s.name NOT IN ('session_preload_libraries', 'dynamic_library_path')
          AND NOT EXISTS (SELECT FROM pg_settings p WHERE p.name = s.name AND p.context LIKE 'superuser%'))"
    };
}

pub(super) const CHECKS: &[Check] = &[
    Check {
        rule: Rule::error("role-missing", "the role is gone: create it as migrations/0001_roles.sql does, and grant again"),
        sql: "SELECT name, '' FROM unnest(ARRAY['stellar_owner', 'stellar_maintainer', 'stellar_role_manager',
                  'stellar_tenants', 'stellar_pool', 'stellar_gateway', 'stellar_operator']) AS wanted (name)
              WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = wanted.name)",
    },
    Check {
        rule: Rule::error(
            "role-attribute",
            "it has {detail}, which passes policies or grants: ALTER ROLE {object} with NO before each, NOLOGIN \
             for LOGIN",
        ),
        sql: concat!(
            "SELECT quote_ident(r.rolname), found.attributes
             FROM pg_roles r CROSS JOIN LATERAL (SELECT concat_ws(', ',
                 CASE WHEN r.rolsuper THEN 'SUPERUSER' END,
                 CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END,
                 CASE WHEN r.rolreplication THEN 'REPLICATION' END,
                 CASE WHEN r.rolcreatedb THEN 'CREATEDB' END,
                 CASE WHEN r.rolcreaterole AND r.rolname <> 'stellar_role_manager' THEN 'CREATEROLE' END,
                 CASE WHEN r.rolcanlogin AND r.rolname IN
                     ('stellar_owner', 'stellar_maintainer', 'stellar_role_manager', 'stellar_tenants') THEN 'LOGIN' END
             ) AS attributes) AS found
             WHERE found.attributes <> '' AND r.rolname ~ ",
            product_roles!()
        ),
    },
    Check {
        rule: Rule::warning(
            "login-attribute",
            "it logs in with {detail}, before which no policy and no grant holds: ALTER ROLE {object} with NO before \
             each, unless it is an administrator's",
        ),
        // The role that initdb made is an administrator too. From Postgres 16 on CREATEROLE gives power over roles of one's
        // own alone.
        sql: concat!(
            "SELECT quote_ident(r.rolname), found.attributes
             FROM pg_roles r CROSS JOIN LATERAL (SELECT concat_ws(', ',
                 CASE WHEN r.rolsuper THEN 'SUPERUSER' END,
                 CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END,
                 CASE WHEN r.rolcreaterole AND current_setting('server_version_num')::integer < 160000 THEN 'CREATEROLE' END
             ) AS attributes) AS found
             WHERE r.rolcanlogin AND found.attributes <> '' AND r.oid <> 10 AND r.oid NOT IN ",
            administrators!(),
            " AND r.rolname !~ ",
            product_roles!()
        ),
    },
    Check {
        rule: Rule::error(
            "membership-unexpected",
            "{detail}, which no migration grants and which hands over all rights of that role: REVOKE the one \
             role FROM the other",
        ),
        // Superusers may be members: nothing binds them anyway.
        sql: concat!(
            "SELECT member.rolname::text, 'it is a member of ' || r.rolname || CASE
                WHEN m.admin_option THEN ' with admin option' ELSE '' END
             FROM pg_auth_members m JOIN pg_roles member ON member.oid = m.member JOIN pg_roles r ON r.oid = m.roleid
             WHERE (member.rolname ~ ", product_roles!(), " OR r.rolname ~ ", product_roles!(), ")
                 AND NOT (r.rolname = 'stellar_tenants' AND member.rolname = 'stellar_role_manager')
                 AND NOT (r.rolname = 'stellar_tenants' AND member.rolname ~ '^t_[0-9a-f]{32}$' AND NOT m.admin_option)
                 AND NOT (r.rolname ~ '^t_[0-9a-f]{32}$' AND member.rolname = 'stellar_role_manager')
                 -- It gives a connection where others get none, and nothing else.
                 AND NOT (r.rolname = 'pg_use_reserved_connections' AND NOT m.admin_option AND member.rolname IN
                     ('stellar_pool', 'stellar_gateway', 'stellar_operator', 'stellar_tenants'))
                 AND NOT (member.rolname !~ ", product_roles!(), " AND (
                     member.rolsuper OR member.oid IN ", administrators!(), "))"
        ),
    },
    Check {
        rule: Rule::warning(
            "membership-missing",
            "without it no tenant can be made: GRANT stellar_tenants TO stellar_role_manager WITH ADMIN OPTION",
        ),
        sql: "SELECT 'stellar_role_manager', '' WHERE NOT EXISTS (
                  SELECT FROM pg_auth_members m JOIN pg_roles member ON member.oid = m.member JOIN pg_roles r
                      ON r.oid = m.roleid
                  WHERE r.rolname = 'stellar_tenants' AND member.rolname = 'stellar_role_manager' AND m.admin_option)",
    },
    Check {
        rule: Rule::error(
            "role-setting",
            "its sessions begin with a {detail} of their own, before any policy is asked: ALTER ROLE {object} \
             RESET {detail}",
        ),
        sql: concat!(
            "SELECT quote_ident(s.rolname), s.name FROM ", settings!(), " AS s WHERE NOT ", of_a_tenant!()
        ),
    },
    Check {
        rule: Rule::warning(
            "tenant-leavings",
            "{detail}, which no engine does and which harms no other tenant: somebody else ran SQL as that role, so \
             find out who, and count up spec.rotation of a tenant",
        ),
        sql: concat!(
            "SELECT quote_ident(s.rolname), 'it begins its sessions with a ' || s.name || ' of its own (ALTER ROLE … RESET it)'
             FROM ", settings!(), " AS s WHERE ", of_a_tenant!(), "
             UNION ALL
             SELECT quote_ident(r.rolname), 'it owns large object ' || l.oid || ' (lo_unlink it)'
             FROM pg_largeobject_metadata l JOIN pg_roles r ON r.oid = l.lomowner
             WHERE r.rolname ~ ", tenant_logins!(), "
             UNION ALL
             SELECT DISTINCT quote_ident(r.rolname), 'it has default privileges (ALTER DEFAULT PRIVILEGES FOR ROLE … back)'
             FROM pg_default_acl d JOIN pg_roles r ON r.oid = d.defaclrole WHERE r.rolname ~ ", tenant_logins!()
        ),
    },
    Check {
        rule: Rule::error(
            "database-setting",
            "every session begins with a {detail} of {object}, tenants' sessions too: ALTER DATABASE (or ROLE \
             ALL) RESET {detail}",
        ),
        sql: "SELECT CASE WHEN s.setdatabase = 0 THEN 'all roles' ELSE 'the database' END, split_part(setting, '=', 1)
              FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS setting
              WHERE s.setrole = 0
                  AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
                  AND (split_part(setting, '=', 1) IN ('role', 'session_authorization', 'session_replication_role', 'row_security')
                      OR split_part(setting, '=', 1) LIKE 'app.%')",
    },
];
