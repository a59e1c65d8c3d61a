//! Functions and triggers.

use super::{Fault, error};

pub const FAULTS: &[Fault] = &[
    error(
        "function-search-path",
        "a definer function that finds what its caller puts in front",
        "ALTER FUNCTION stellar.forget(uuid) RESET search_path",
        "ALTER FUNCTION stellar.forget(uuid) SET search_path = pg_catalog, pg_temp",
    ),
    error(
        "function-search-path",
        "the same with pg_temp first",
        "ALTER FUNCTION stellar.admitted(uuid, bytea) SET search_path = pg_temp, pg_catalog",
        "ALTER FUNCTION stellar.admitted(uuid, bytea) SET search_path = pg_catalog, pg_temp",
    ),
    error(
        "function-unexpected",
        "a second function of the same name",
        "CREATE FUNCTION stellar.forget(memory text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "DROP FUNCTION stellar.forget(text)",
    ),
    error(
        "function-missing",
        "a function under another name",
        "ALTER FUNCTION stellar.gateway_leave(uuid) RENAME TO leave",
        "ALTER FUNCTION stellar.leave(uuid) RENAME TO gateway_leave",
    ),
    error(
        "function-attributes",
        "an answer that is kept for the next tenant",
        "ALTER FUNCTION stellar.current_tenant() IMMUTABLE",
        "ALTER FUNCTION stellar.current_tenant() STABLE",
    ),
    error(
        "function-attributes",
        "a definer function with a mightier owner",
        "ALTER FUNCTION stellar.forget(uuid) OWNER TO postgres",
        "ALTER FUNCTION stellar.forget(uuid) OWNER TO stellar_maintainer",
    ),
    error(
        "function-attributes",
        "a function that asks with its caller's rights",
        "ALTER FUNCTION stellar.admitted(uuid, bytea) SECURITY INVOKER",
        "ALTER FUNCTION stellar.admitted(uuid, bytea) SECURITY DEFINER",
    ),
    error(
        "function-attributes",
        "a function that may run before the policy",
        "ALTER FUNCTION stellar.enter(uuid, bytea, text, boolean, uuid) LEAKPROOF",
        "ALTER FUNCTION stellar.enter(uuid, bytea, text, boolean, uuid) NOT LEAKPROOF",
    ),
    error(
        "function-body",
        "no capability is asked for",
        "DO $do$ BEGIN
             EXECUTE regexp_replace(pg_get_functiondef('stellar.current_tenant()'::regprocedure),
                 'AND .proof = u.capability_hash.*?now...', '');
         END $do$",
        "",
    ),
    error(
        "function-body",
        "the quota is not enforced",
        "DO $do$ BEGIN
             EXECUTE replace(pg_get_functiondef('stellar.memories_inserted()'::regprocedure),
                 'counted.memory_limit >= 0', 'counted.memory_limit >= 1000000');
         END $do$",
        "",
    ),
    error(
        "function-body",
        "the old settings of a connection stay",
        "DO $do$ BEGIN
             EXECUTE replace(pg_get_functiondef('stellar.enter(uuid, bytea, text, boolean, uuid)'::regprocedure),
                 '''row_security'', ''on''', '''row_security'', ''off''');
         END $do$",
        "",
    ),
    error(
        "trigger-disabled",
        "the quota's trigger is off",
        "ALTER TABLE stellar.memories DISABLE TRIGGER memories_inserted",
        "ALTER TABLE stellar.memories ENABLE TRIGGER memories_inserted",
    ),
    error(
        "trigger-disabled",
        "foreign keys are off",
        "ALTER TABLE stellar.audit DISABLE TRIGGER ALL",
        "ALTER TABLE stellar.audit ENABLE TRIGGER ALL",
    ),
    error(
        "trigger-unexpected",
        "a trigger that tells of every memory",
        "CREATE TRIGGER told AFTER INSERT ON stellar.memories FOR EACH ROW EXECUTE FUNCTION stellar.control_changed()",
        "DROP TRIGGER told ON stellar.memories",
    ),
    error(
        "trigger-missing",
        "changes are not logged",
        "DROP TRIGGER memories_updated ON stellar.memories",
        "CREATE TRIGGER memories_updated AFTER UPDATE ON stellar.memories
             REFERENCING OLD TABLE AS before_update NEW TABLE AS after_update
             FOR EACH STATEMENT EXECUTE FUNCTION stellar.memories_updated()",
    ),
    error(
        "trigger-changed",
        "revoked keys are not told to gateways",
        "DROP TRIGGER api_keys_changed ON stellar.api_keys;
         CREATE TRIGGER api_keys_changed AFTER UPDATE OF agent ON stellar.api_keys
             FOR EACH ROW EXECUTE FUNCTION stellar.control_changed()",
        "DROP TRIGGER api_keys_changed ON stellar.api_keys;
         CREATE TRIGGER api_keys_changed AFTER UPDATE OF revoked_at, expires_at, agent, key_hash ON stellar.api_keys
             FOR EACH ROW EXECUTE FUNCTION stellar.control_changed()",
    ),
];
