-- Tenant roles. The one place with dynamic SQL: the name is built from a UUID and quoted, the verifier is checked.
-- Long-running programs never have CREATEROLE; the operator may execute these and nothing else.
SET LOCAL ROLE stellar_owner;
GRANT CREATE ON SCHEMA stellar TO stellar_role_manager;
RESET ROLE;
SET LOCAL ROLE stellar_role_manager;

CREATE FUNCTION stellar.role_of(tenant uuid) RETURNS text
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp
AS $$ SELECT 't_' || replace(tenant::text, '-', '') $$;

-- Makes the role if it is missing, its one membership, and what it is. Returns whether anything was not as it should be.
CREATE FUNCTION stellar.role_ensure(tenant uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    role text := stellar.role_of(tenant);
    changed boolean := false;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
        EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        changed := true;
    END IF;
    -- Without these its engine cannot log in, or has none of the group's rights. Roles above this one are the linter's to tell.
    IF EXISTS (
        SELECT FROM pg_roles r
        WHERE r.rolname = role AND NOT r.rolsuper AND NOT r.rolreplication
            AND (NOT r.rolinherit OR r.rolcreaterole OR r.rolvaliduntil < 'infinity')
    ) THEN
        EXECUTE format('ALTER ROLE %I INHERIT NOCREATEROLE VALID UNTIL %L', role, 'infinity');
        changed := true;
    END IF;
    -- By its rights and not by the membership, which from Postgres 16 on may be one without them.
    IF NOT pg_has_role(role, 'stellar_tenants', 'USAGE') THEN
        -- The group's rights, and not to become the group: what it may set and own would be each tenant's to change.
        EXECUTE format('GRANT stellar_tenants TO %I', role) || CASE
            WHEN current_setting('server_version_num')::integer >= 160000 THEN ' WITH INHERIT TRUE, SET FALSE' ELSE '' END;
        changed := true;
    END IF;
    RETURN changed;
END
$$;

-- Lets the role log in with a password given as a SCRAM verifier (RFC 5803 form). Writes only what differs:
-- `rotate` says that the password is new.
CREATE FUNCTION stellar.role_login(tenant uuid, verifier text, connections integer, rotate boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    role text := stellar.role_of(tenant);
    found_role record;
BEGIN
    IF verifier !~ '^SCRAM-SHA-256\$[0-9]{4,7}:[A-Za-z0-9+/=]{16,64}\$[A-Za-z0-9+/=]{44}:[A-Za-z0-9+/=]{44}$' THEN
        RAISE EXCEPTION 'not a SCRAM verifier' USING ERRCODE = 'SM400';
    END IF;
    SELECT r.rolcanlogin, r.rolconnlimit INTO found_role FROM pg_roles r WHERE r.rolname = role;
    IF NOT rotate AND found_role.rolcanlogin AND found_role.rolconnlimit = connections THEN
        RETURN false;
    END IF;
    EXECUTE format('ALTER ROLE %I LOGIN PASSWORD %L CONNECTION LIMIT %s', role, verifier, connections);
    RETURN true;
END
$$;

-- Ends every session of the role. The owner must be a member of the role to be allowed to.
CREATE FUNCTION stellar.role_disconnect(tenant uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    role text := stellar.role_of(tenant);
BEGIN
    IF NOT pg_has_role(current_user, role, 'USAGE') THEN
        EXECUTE format('GRANT %I TO CURRENT_USER', role);
    END IF;
    PERFORM pg_terminate_backend(a.pid) FROM pg_stat_activity a WHERE a.usename = role;
END
$$;

-- Back to NOLOGIN, sessions ended. Returns whether anything changed.
CREATE FUNCTION stellar.role_nologin(tenant uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    role text := stellar.role_of(tenant);
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role AND r.rolcanlogin) THEN
        RETURN false;
    END IF;
    EXECUTE format('ALTER ROLE %I NOLOGIN PASSWORD NULL', role);
    PERFORM stellar.role_disconnect(tenant);
    RETURN true;
END
$$;

-- Drops the role and all that depends on it in this database. True: it was there. A role that made something in another
-- database of the server, where nothing of ours reaches, stays without a login and without its membership: else a tenant
-- could keep itself from being deleted.
CREATE FUNCTION stellar.role_drop(tenant uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    role text := stellar.role_of(tenant);
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
        RETURN false;
    END IF;
    EXECUTE format('ALTER ROLE %I NOLOGIN', role);
    PERFORM stellar.role_disconnect(tenant);
    EXECUTE format('DROP OWNED BY %I', role);
    BEGIN
        EXECUTE format('DROP ROLE %I', role);
    EXCEPTION WHEN dependent_objects_still_exist THEN
        EXECUTE format('REVOKE stellar_tenants FROM %I', role);
    END;
    RETURN true;
END
$$;
RESET ROLE;
