//! Objects that lead round the policies.

use super::{Fault, error, warning};

pub const FAULTS: &[Fault] = &[
    error(
        "view-over-tenants",
        "a view with its owner's rights",
        "CREATE VIEW public.report AS SELECT user_id, content FROM stellar.memories",
        "DROP VIEW public.report",
    ),
    error(
        "view-over-tenants",
        "a materialized view",
        "CREATE MATERIALIZED VIEW public.report AS SELECT user_id, content FROM stellar.memories",
        "DROP MATERIALIZED VIEW public.report",
    ),
    error(
        "rule-unexpected",
        "a rule that keeps what is forgotten",
        "CREATE RULE keep AS ON DELETE TO stellar.memories DO INSTEAD NOTHING",
        "DROP RULE keep ON stellar.memories",
    ),
    error(
        "definer-elsewhere",
        "a function of another schema that reads everything",
        "CREATE FUNCTION public.peek() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER
             AS 'SELECT content FROM stellar.memories'",
        "DROP FUNCTION public.peek()",
    ),
    error(
        "definer-elsewhere",
        "the same with the maintainer's rights, for one tenant",
        "CREATE FUNCTION public.peek() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER
             AS 'SELECT content FROM stellar.memories';
         REVOKE EXECUTE ON FUNCTION public.peek() FROM PUBLIC; GRANT EXECUTE ON FUNCTION public.peek() TO {ROLE};
         ALTER FUNCTION public.peek() OWNER TO stellar_maintainer",
        "DROP FUNCTION public.peek()",
    ),
    error(
        "object-unexpected",
        "a type in the schema",
        "CREATE TYPE stellar.mood AS ENUM ('good')",
        "DROP TYPE stellar.mood",
    ),
    error(
        "object-unexpected",
        "an extension in the schema",
        "CREATE EXTENSION pgcrypto SCHEMA stellar",
        "DROP EXTENSION pgcrypto",
    ),
    error(
        "definer-elsewhere",
        "a function of an extension that reads everything",
        "CREATE EXTENSION pgcrypto SCHEMA public; ALTER FUNCTION public.gen_random_bytes(integer) SECURITY DEFINER",
        "DROP EXTENSION pgcrypto",
    ),
    error(
        "ownership",
        "a table of a tenant",
        "CREATE TABLE public.mine (id int); ALTER TABLE public.mine OWNER TO {ROLE}",
        "DROP TABLE public.mine",
    ),
    error("ownership", "a schema of the pool", "CREATE SCHEMA hidden AUTHORIZATION stellar_pool", "DROP SCHEMA hidden"),
    error(
        "large-object",
        "a large object of the gateway",
        "SELECT lo_create(4711); ALTER LARGE OBJECT 4711 OWNER TO stellar_gateway",
        "SELECT lo_unlink(4711)",
    ),
    warning(
        "tenant-leavings",
        "a large object that the pool has for everybody",
        "SELECT lo_create(4713); ALTER LARGE OBJECT 4713 OWNER TO stellar_pool; GRANT SELECT ON LARGE OBJECT 4713 TO PUBLIC",
        "SELECT lo_unlink(4713)",
    ),
    warning(
        "tenant-leavings",
        "what a tenant makes is for everybody, though it can make nothing",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {ROLE} GRANT SELECT ON TABLES TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {ROLE} REVOKE SELECT ON TABLES FROM PUBLIC",
    ),
    error(
        "large-object",
        "a large object for everybody",
        "SELECT lo_create(4712); GRANT SELECT ON LARGE OBJECT 4712 TO PUBLIC",
        "SELECT lo_unlink(4712)",
    ),
    error(
        "foreign-server",
        "a way to another server",
        "CREATE FOREIGN DATA WRAPPER elsewhere; CREATE SERVER other FOREIGN DATA WRAPPER elsewhere;
         GRANT USAGE ON FOREIGN SERVER other TO stellar_tenants",
        "DROP FOREIGN DATA WRAPPER elsewhere CASCADE",
    ),
    warning(
        "publication",
        "memories sent away",
        "CREATE PUBLICATION away FOR TABLE stellar.memories",
        "DROP PUBLICATION away",
    ),
    warning("publication", "everything sent away", "CREATE PUBLICATION away FOR ALL TABLES", "DROP PUBLICATION away"),
    warning(
        "event-trigger",
        "code in the administrator's sessions",
        "CREATE FUNCTION public.watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
         CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION public.watch()",
        "DROP EVENT TRIGGER watch; DROP FUNCTION public.watch()",
    ),
];
