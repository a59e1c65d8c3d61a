-- The group roles and logins of the data plane. Roles belong to the whole Postgres cluster, so each is made only
-- where it is missing. Passwords are not set here: the migrate program puts them in as SCRAM verifiers.
--
--   stellar_owner         owns schema and tables; nobody logs in as it
--   stellar_maintainer    owns the definer functions that see every tenant's rows (policy `true`, no BYPASSRLS)
--   stellar_role_manager  owns the functions that make and drop tenant roles; the one role with CREATEROLE
--   stellar_tenants       what every tenant role is a member of
--   stellar_pool          login of the pooled engine
--   stellar_gateway       login of the gateway
--   stellar_operator      login of the operator
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES
            ('stellar_owner', 'NOLOGIN'),
            ('stellar_maintainer', 'NOLOGIN'),
            ('stellar_role_manager', 'NOLOGIN CREATEROLE'),
            ('stellar_tenants', 'NOLOGIN'),
            ('stellar_pool', 'LOGIN'),
            ('stellar_gateway', 'LOGIN'),
            ('stellar_operator', 'LOGIN')
        ) AS roles (name, attributes)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted.name) THEN
            EXECUTE format('CREATE ROLE %I %s', wanted.name, wanted.attributes);
        END IF;
    END LOOP;

    -- An administrator that is not a superuser becomes able to create objects as these.
    GRANT stellar_owner, stellar_maintainer, stellar_role_manager TO CURRENT_USER;
    -- Every new tenant role is made a member of stellar_tenants by this one.
    GRANT stellar_tenants TO stellar_role_manager WITH ADMIN OPTION;

    -- TEMP lets a session put a table of its own in front of ours; CONNECT is given by name.
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format(
        'GRANT CONNECT ON DATABASE %I TO stellar_tenants, stellar_pool, stellar_gateway, stellar_operator',
        current_database()
    );
    EXECUTE format('GRANT CREATE ON DATABASE %I TO stellar_owner', current_database());
    REVOKE CREATE ON SCHEMA public FROM PUBLIC;
END
$$;

-- No function is executable until it is granted by name.
ALTER DEFAULT PRIVILEGES FOR ROLE stellar_owner, stellar_maintainer, stellar_role_manager
    REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

CREATE SCHEMA stellar AUTHORIZATION stellar_owner;
SET LOCAL ROLE stellar_owner;
GRANT USAGE ON SCHEMA stellar TO stellar_maintainer, stellar_role_manager;
RESET ROLE;
