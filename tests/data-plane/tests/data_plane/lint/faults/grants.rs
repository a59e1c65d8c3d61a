//! Grants and default privileges.

use super::{Fault, Sees, error, warning};

pub const FAULTS: &[Fault] = &[
    error(
        "grant-to-public",
        "temporary tables for everybody",
        "GRANT TEMP ON DATABASE stellar TO PUBLIC",
        "REVOKE TEMP ON DATABASE stellar FROM PUBLIC",
    ),
    error(
        "grant-to-public",
        "a function for everybody",
        "GRANT EXECUTE ON FUNCTION stellar.tenant_erase(uuid, text, integer) TO PUBLIC",
        "REVOKE EXECUTE ON FUNCTION stellar.tenant_erase(uuid, text, integer) FROM PUBLIC",
    ),
    error(
        "grant-to-public",
        "a table for everybody",
        "GRANT SELECT ON stellar.memories TO PUBLIC",
        "REVOKE SELECT ON stellar.memories FROM PUBLIC",
    ),
    error(
        "grant-to-public",
        "the schema for everybody",
        "GRANT USAGE ON SCHEMA stellar TO PUBLIC",
        "REVOKE USAGE ON SCHEMA stellar FROM PUBLIC",
    ),
    error(
        "grant-owner-only",
        "TRUNCATE, which asks no policy",
        "GRANT TRUNCATE ON stellar.memories TO stellar_pool",
        "REVOKE TRUNCATE ON stellar.memories FROM stellar_pool",
    ),
    error(
        "grant-owner-only",
        "TRIGGER, which runs code in sessions of others",
        "GRANT TRIGGER ON stellar.memories TO stellar_tenants",
        "REVOKE TRIGGER ON stellar.memories FROM stellar_tenants",
    ),
    error(
        "grant-owner-only",
        "REFERENCES of a column, which tells that a row exists",
        "GRANT REFERENCES (id) ON stellar.memories TO stellar_tenants",
        "REVOKE REFERENCES (id) ON stellar.memories FROM stellar_tenants",
    ),
    Fault {
        seen_by: Sees::AnyLoginFrom(17),
        ..error(
            "grant-owner-only",
            "MAINTAIN, which locks and analyses",
            "GRANT MAINTAIN ON stellar.memories TO stellar_pool",
            "REVOKE MAINTAIN ON stellar.memories FROM stellar_pool",
        )
    },
    error(
        "grant-unexpected",
        "UPDATE of the whole table, which locks it against everybody",
        "GRANT UPDATE ON stellar.usage TO stellar_pool",
        "REVOKE UPDATE ON stellar.usage FROM stellar_pool",
    ),
    error(
        "grant-unexpected",
        "a column of capability hashes",
        "GRANT SELECT (capability_hash) ON stellar.users TO stellar_gateway",
        "REVOKE SELECT (capability_hash) ON stellar.users FROM stellar_gateway",
    ),
    error(
        "grant-unexpected",
        "memories for the operator",
        "GRANT SELECT ON stellar.memories TO stellar_operator",
        "REVOKE SELECT ON stellar.memories FROM stellar_operator",
    ),
    error(
        "grant-unexpected",
        "a grant to one tenant",
        "GRANT SELECT ON stellar.users TO {ROLE}",
        "REVOKE SELECT ON stellar.users FROM {ROLE}",
    ),
    error(
        "grant-unexpected",
        "a grant that may be passed on",
        "GRANT SELECT ON stellar.tiers TO stellar_pool WITH GRANT OPTION",
        "REVOKE GRANT OPTION FOR SELECT ON stellar.tiers FROM stellar_pool",
    ),
    error(
        "grant-unexpected",
        "objects of the pool in the schema",
        "GRANT CREATE ON SCHEMA stellar TO stellar_pool",
        "REVOKE CREATE ON SCHEMA stellar FROM stellar_pool",
    ),
    error(
        "grant-unexpected",
        "schemas of the pool in the database",
        "GRANT CREATE ON DATABASE stellar TO stellar_pool",
        "REVOKE CREATE ON DATABASE stellar FROM stellar_pool",
    ),
    warning(
        "grant-missing",
        "the gateway cannot read the tiers",
        "REVOKE SELECT ON stellar.tiers FROM stellar_gateway",
        "GRANT SELECT ON stellar.tiers TO stellar_gateway",
    ),
    error(
        "grant-elsewhere",
        "a table of another schema for the pool",
        "CREATE TABLE public.secrets (id int); GRANT SELECT ON public.secrets TO stellar_pool",
        "DROP TABLE public.secrets",
    ),
    error(
        "grant-elsewhere",
        "a parameter that switches triggers off",
        "GRANT SET ON PARAMETER session_replication_role TO {ROLE}",
        "REVOKE SET ON PARAMETER session_replication_role FROM {ROLE}",
    ),
    error(
        "grant-elsewhere",
        "the same parameter for everybody",
        "GRANT SET ON PARAMETER session_replication_role TO PUBLIC",
        "REVOKE SET ON PARAMETER session_replication_role FROM PUBLIC",
    ),
    error(
        "function-executable",
        "the pool may prune",
        "GRANT EXECUTE ON FUNCTION stellar.prune(interval, interval, integer) TO stellar_pool",
        "REVOKE EXECUTE ON FUNCTION stellar.prune(interval, interval, integer) FROM stellar_pool",
    ),
    error(
        "function-executable",
        "the gateway may make roles log in",
        "GRANT EXECUTE ON FUNCTION stellar.role_login(uuid, text, integer, boolean) TO stellar_gateway",
        "REVOKE EXECUTE ON FUNCTION stellar.role_login(uuid, text, integer, boolean) FROM stellar_gateway",
    ),
    error(
        "default-privileges",
        "tables of tomorrow for the pool",
        "ALTER DEFAULT PRIVILEGES FOR ROLE stellar_owner IN SCHEMA stellar GRANT SELECT ON TABLES TO stellar_pool",
        "ALTER DEFAULT PRIVILEGES FOR ROLE stellar_owner IN SCHEMA stellar REVOKE SELECT ON TABLES FROM stellar_pool",
    ),
    error(
        "default-privileges",
        "functions of tomorrow for everybody",
        "ALTER DEFAULT PRIVILEGES FOR ROLE stellar_maintainer GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE stellar_maintainer REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
    ),
    error(
        "schema-writable",
        "objects in the schema public",
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    ),
    error(
        "schema-writable",
        "a schema for tenants to play in",
        "CREATE SCHEMA playground; GRANT CREATE ON SCHEMA playground TO stellar_tenants",
        "DROP SCHEMA playground",
    ),
    warning(
        "open-relation",
        "a copy of memories that everybody may read",
        "CREATE TABLE public.copy AS SELECT * FROM stellar.memories; GRANT SELECT ON public.copy TO PUBLIC",
        "DROP TABLE public.copy",
    ),
];
