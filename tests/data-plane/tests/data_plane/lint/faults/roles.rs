//! Roles, settings and the server.

use super::{Fault, Sees, error, warning};

pub const FAULTS: &[Fault] = &[
    error(
        "role-missing",
        "a role under another name",
        "ALTER ROLE stellar_gateway RENAME TO stellar_gate",
        "ALTER ROLE stellar_gate RENAME TO stellar_gateway",
    ),
    error(
        "role-attribute",
        "a login that passes policies",
        "ALTER ROLE stellar_pool BYPASSRLS",
        "ALTER ROLE stellar_pool NOBYPASSRLS",
    ),
    error(
        "role-attribute",
        "a superuser",
        "ALTER ROLE stellar_operator SUPERUSER",
        "ALTER ROLE stellar_operator NOSUPERUSER",
    ),
    error(
        "role-attribute",
        "a tenant that makes roles",
        "ALTER ROLE {ROLE} CREATEROLE",
        "ALTER ROLE {ROLE} NOCREATEROLE",
    ),
    error(
        "role-attribute",
        "a gateway that replicates",
        "ALTER ROLE stellar_gateway REPLICATION",
        "ALTER ROLE stellar_gateway NOREPLICATION",
    ),
    error(
        "role-attribute",
        "a maintainer that logs in",
        "ALTER ROLE stellar_maintainer LOGIN",
        "ALTER ROLE stellar_maintainer NOLOGIN",
    ),
    warning(
        "login-attribute",
        "a login for reports that passes policies",
        "CREATE ROLE reporting LOGIN BYPASSRLS; GRANT pg_read_all_data TO reporting",
        "DROP ROLE reporting",
    ),
    warning("login-attribute", "another superuser", "CREATE ROLE reporting LOGIN SUPERUSER", "DROP ROLE reporting"),
    Fault {
        seen_by: Sees::AnyLoginBefore(16),
        ..warning(
            "login-attribute",
            "a login that could take any role",
            "CREATE ROLE reporting LOGIN CREATEROLE",
            "DROP ROLE reporting",
        )
    },
    error(
        "membership-unexpected",
        "the pool is a maintainer",
        "GRANT stellar_maintainer TO stellar_pool",
        "REVOKE stellar_maintainer FROM stellar_pool",
    ),
    error(
        "membership-unexpected",
        "tenants read everything",
        "GRANT pg_read_all_data TO stellar_tenants",
        "REVOKE pg_read_all_data FROM stellar_tenants",
    ),
    error(
        "membership-unexpected",
        "a tenant is another tenant",
        "GRANT {OTHER} TO {ROLE}",
        "REVOKE {OTHER} FROM {ROLE}",
    ),
    error(
        "membership-unexpected",
        "somebody else is the owner",
        "CREATE ROLE analyst; GRANT stellar_owner TO analyst",
        "DROP ROLE analyst",
    ),
    warning(
        "membership-missing",
        "no tenant can be made",
        "SET ROLE admin; REVOKE stellar_tenants FROM stellar_role_manager CASCADE; RESET ROLE",
        "SET ROLE admin; GRANT stellar_tenants TO stellar_role_manager WITH ADMIN OPTION; RESET ROLE;
         SELECT stellar.role_ensure('{ID}'), stellar.role_ensure('{OTHER_ID}')",
    ),
    error(
        "role-setting",
        "the pool begins as a tenant",
        "ALTER ROLE stellar_pool SET app.current_user_id = '{ID}'",
        "ALTER ROLE stellar_pool RESET app.current_user_id",
    ),
    error(
        "role-setting",
        "a tenant's rows fire no trigger",
        "ALTER ROLE {ROLE} SET session_replication_role = replica",
        "ALTER ROLE {ROLE} RESET session_replication_role",
    ),
    warning(
        "tenant-leavings",
        "a tenant begins with its own search path",
        "ALTER ROLE {ROLE} IN DATABASE stellar SET search_path = public",
        "ALTER ROLE {ROLE} IN DATABASE stellar RESET search_path",
    ),
    error(
        "database-setting",
        "everybody begins as a tenant",
        "ALTER DATABASE stellar SET app.current_user_id = '{ID}'",
        "ALTER DATABASE stellar RESET app.current_user_id",
    ),
    error(
        "replication-role",
        "no trigger fires",
        "ALTER DATABASE stellar SET session_replication_role = replica",
        "ALTER DATABASE stellar RESET session_replication_role",
    ),
    warning(
        "row-security-off",
        "statements fail instead of showing less",
        "ALTER DATABASE stellar SET row_security = off",
        "ALTER DATABASE stellar RESET row_security",
    ),
    warning(
        "logged-parameters",
        "every statement is logged with its parameters",
        "ALTER DATABASE stellar SET log_statement = 'all'",
        "ALTER DATABASE stellar RESET log_statement",
    ),
    warning(
        "logged-parameters",
        "slow statements are logged with their parameters",
        "ALTER DATABASE stellar SET log_min_duration_statement = '1s'",
        "ALTER DATABASE stellar RESET log_min_duration_statement",
    ),
    warning(
        "logged-parameters-on-error",
        "failed statements are logged with their parameters",
        "ALTER DATABASE stellar SET log_parameter_max_length_on_error = -1",
        "ALTER DATABASE stellar RESET log_parameter_max_length_on_error",
    ),
    Fault {
        seen_by: Sees::AnyLoginFrom(16),
        ..warning(
            "logged-plans",
            "plans are logged with their parameters",
            "LOAD 'auto_explain'; ALTER DATABASE stellar SET session_preload_libraries = 'auto_explain';
             ALTER DATABASE stellar SET auto_explain.log_min_duration = '1s'",
            "LOAD 'auto_explain'; ALTER DATABASE stellar RESET session_preload_libraries;
             ALTER DATABASE stellar RESET auto_explain.log_min_duration",
        )
    },
    warning(
        "schema-version",
        "the schema of a later release",
        "INSERT INTO public._sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'later', true, '', 0)",
        "DELETE FROM public._sqlx_migrations WHERE version = 9999",
    ),
];
