//! Objects that would lead round the policies: views, rules, functions of other schemas, and what tenants own.

use super::{Check, Rule};

pub(super) const CHECKS: &[Check] = &[
    Check {
        rule: Rule::error(
            "view-over-tenants",
            "this {detail} shows rows with its owner's rights to whoever may read it: drop it, or make it a view \
             WITH (security_invoker = true)",
        ),
        sql: "SELECT DISTINCT v.oid::regclass::text, CASE v.relkind WHEN 'v' THEN 'view'
                  WHEN 'm' THEN 'materialized view' ELSE 'table''s rule' END
              FROM pg_rewrite w
              JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                  AND d.refclassid = 'pg_class'::regclass
              JOIN pg_class t ON t.oid = d.refobjid JOIN pg_class v ON v.oid = w.ev_class
              WHERE t.relnamespace = 'stellar'::regnamespace AND t.oid <> v.oid
                  AND NOT (v.relkind = 'v' AND EXISTS (
                      SELECT FROM pg_options_to_table(v.reloptions) o
                      WHERE o.option_name = 'security_invoker' AND o.option_value IN ('true', 'on', 'yes', '1')))",
    },
    Check {
        rule: Rule::error(
            "rule-unexpected",
            "the rule {detail} rewrites statements on this table: DROP RULE {detail} ON {object}",
        ),
        sql: "SELECT c.oid::regclass::text, quote_ident(w.rulename)
              FROM pg_rewrite w JOIN pg_class c ON c.oid = w.ev_class
              WHERE c.relnamespace = 'stellar'::regnamespace AND c.relkind NOT IN ('v', 'm')",
    },
    Check {
        rule: Rule::error(
            "definer-elsewhere",
            "a tenant may call it, and it acts with the rights of {detail}, which sees every tenant's rows: \
             REVOKE EXECUTE ON FUNCTION {object} FROM PUBLIC",
        ),
        sql: concat!(
            "SELECT DISTINCT p.oid::regprocedure::text, o.rolname::text
             FROM pg_proc p JOIN pg_roles o ON o.oid = p.proowner JOIN pg_namespace n ON n.oid = p.pronamespace
             WHERE p.prosecdef AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'stellar')
                 -- Nobody can call these two kinds.
                 AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
                 AND (o.rolsuper OR o.rolbypassrls OR EXISTS (
                     SELECT FROM pg_roles mighty
                     WHERE mighty.rolname IN ('stellar_owner', 'stellar_maintainer', 'stellar_role_manager')
                         AND pg_has_role(o.oid, mighty.oid, 'MEMBER')))
                 AND EXISTS (
                     SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g
                     LEFT JOIN pg_roles r ON r.oid = g.grantee
                     WHERE g.grantee = 0 OR r.rolname ~ ",
            product_roles!(),
            ") AND EXISTS (
                     SELECT FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) g
                     LEFT JOIN pg_roles r ON r.oid = g.grantee
                     WHERE g.privilege_type = 'USAGE' AND (g.grantee = 0 OR r.rolname ~ ",
            product_roles!(),
            "))"
        ),
    },
    Check {
        rule: Rule::error(
            "object-unexpected",
            "no migration makes it in the schema stellar: drop it, or move it to a schema of your own",
        )
        .listed(),
        sql: "SELECT pg_describe_object(d.classid, d.objid, 0), '' FROM pg_depend d
              WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = 'stellar'::regnamespace
                  -- Relations, functions and default privileges have lists of their own.
                  AND d.classid NOT IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_default_acl'::regclass)",
    },
    Check {
        rule: Rule::error(
            "ownership",
            "it belongs to {detail}, which owns nothing in an installation as it was made: somebody ran SQL as \
             that role. Find out who, then DROP OWNED BY it",
        ),
        sql: concat!(
            "SELECT pg_describe_object(d.classid, d.objid, 0), r.rolname::text
             FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
             LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
             LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
             WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o'
                 AND d.dbid IN (0, (SELECT b.oid FROM pg_database b WHERE b.datname = current_database()))
                 AND d.classid NOT IN ('pg_default_acl'::regclass, 'pg_largeobject'::regclass)
                 AND r.rolname ~ ",
            product_roles!(),
            // What these own in the schema is compared with the lists.
            "
             AND NOT (r.rolname IN ('stellar_owner', 'stellar_maintainer', 'stellar_role_manager')
                     AND (coalesce(c.relnamespace, p.pronamespace, 0) = 'stellar'::regnamespace
                         OR (d.classid = 'pg_namespace'::regclass AND d.objid = 'stellar'::regnamespace)))"
        ),
    },
    Check {
        rule: Rule::error(
            "large-object",
            "{detail} has it, outside of policies and quotas: find out who made it, then SELECT lo_unlink of its number",
        ),
        sql: concat!(
            "SELECT 'large object ' || l.oid, r.rolname::text
             FROM pg_largeobject_metadata l JOIN pg_roles r ON r.oid = l.lomowner
             WHERE r.rolname ~ ",
            product_roles!(),
            " AND r.rolname !~ ",
            tenant_logins!(),
            "
             UNION
             SELECT 'large object ' || l.oid, coalesce(r.rolname, 'PUBLIC')
             FROM pg_largeobject_metadata l CROSS JOIN LATERAL aclexplode(l.lomacl) g LEFT JOIN pg_roles r
                 ON r.oid = g.grantee
             WHERE pg_get_userbyid(l.lomowner) !~ ",
            tenant_logins!(),
            " AND (g.grantee = 0 OR r.rolname ~ ",
            product_roles!(),
            ")"
        ),
    },
    Check {
        rule: Rule::error(
            "foreign-server",
            "{detail} may connect through it with a login that is not the tenant's: REVOKE USAGE ON FOREIGN \
             SERVER {object}",
        ),
        sql: concat!(
            "SELECT quote_ident(s.srvname), coalesce(r.rolname, 'PUBLIC')
             FROM pg_foreign_server s CROSS JOIN LATERAL aclexplode(s.srvacl) g LEFT JOIN pg_roles r
                 ON r.oid = g.grantee
             WHERE g.grantee = 0 OR r.rolname ~ ",
            product_roles!()
        ),
    },
    Check {
        rule: Rule::warning(
            "publication",
            "it sends {detail} to its subscribers without row-level security: drop it, unless you know every \
             subscriber",
        ),
        sql: "SELECT quote_ident(p.pubname), 'every table' FROM pg_publication p WHERE p.puballtables
              UNION ALL
              SELECT quote_ident(p.pubname), r.prrelid::regclass::text
              FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_class c ON c.oid = r.prrelid
              WHERE c.relnamespace = 'stellar'::regnamespace
              UNION ALL
              SELECT quote_ident(p.pubname), 'the schema stellar'
              FROM pg_publication p JOIN pg_publication_namespace s ON s.pnpubid = p.oid
              WHERE s.pnnspid = 'stellar'::regnamespace",
    },
    Check {
        rule: Rule::warning(
            "event-trigger",
            "it runs {detail} in sessions of others, the administrator's too: see what that function does, or \
             DROP EVENT TRIGGER {object}",
        ),
        sql: "SELECT quote_ident(e.evtname), e.evtfoid::regprocedure::text FROM pg_event_trigger e
              WHERE e.evtenabled <> 'D' AND NOT EXISTS (
                  SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_event_trigger'::regclass AND d.objid = e.oid AND d.deptype = 'e')",
    },
];
