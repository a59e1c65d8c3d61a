-- Who may see which row. Every rule here holds against arbitrary SQL of a tenant's role or inside a pooled
-- transaction; ARCHITECTURE.md lists them as invariants and the isolation tests remove each one to see it missed.
SET LOCAL ROLE stellar_owner;
GRANT CREATE ON SCHEMA stellar TO stellar_maintainer;
RESET ROLE;

SET LOCAL ROLE stellar_maintainer;

-- The tenant that the running transaction may act for, or NULL. NULL on anything missing or malformed.
--   a tenant's own role:  session_user says who it is, while placed `dedicated` or draining
--   the pooled engine:    app.current_user_id with the capability that belongs to it, while `pooled` or draining
CREATE FUNCTION stellar.current_tenant() RETURNS uuid
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    claimed text;
    capability text;
    proof bytea;
    found_id uuid;
BEGIN
    IF session_user = 'stellar_pool' THEN
        claimed := current_setting('app.current_user_id', true);
        capability := current_setting('app.tenant_capability', true);
        -- A UUID as it is written, and 64 hex digits: hyphens where they belong and nowhere else.
        IF claimed IS NULL OR claimed NOT LIKE '________-____-____-____-____________'
            OR length(replace(claimed, '-', '')) <> 32 OR claimed ~ '[^-0-9a-f]'
            OR capability IS NULL OR length(capability) <> 64 OR capability ~ '[^0-9a-f]' THEN
            RETURN NULL;
        END IF;
        proof := sha256(decode(capability, 'hex'));
        SELECT u.id INTO found_id
        FROM stellar.users u
        WHERE u.id = claimed::uuid
            AND (proof = u.capability_hash
                OR proof = u.capability_hash_previous AND u.capability_previous_until > now())
            AND (u.placement = 'pooled' OR u.pool_access_until > now())
            AND u.retired_at IS NULL;
    ELSE
        SELECT u.id INTO found_id
        FROM stellar.users u
        WHERE u.role_name = session_user
            AND (u.placement = 'dedicated' OR u.role_access_until > now())
            AND u.retired_at IS NULL;
    END IF;
    RETURN found_id;
END
$$;

-- The counters of this tenant, if the running transaction may act for it with this capability; else no row. By the rules of
-- current_tenant(), and the capability is asked of dedicated engines too, since network policies are not enforced everywhere.
CREATE FUNCTION stellar.admitted(tenant uuid, capability bytea)
RETURNS TABLE (change_seq bigint, memory_count integer, memory_limit integer)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    proof bytea := sha256(capability);
BEGIN
    RETURN QUERY SELECT g.change_seq, g.memory_count, g.memory_limit
    FROM stellar.users u JOIN stellar.usage g ON g.user_id = u.id
    WHERE u.id = tenant
        AND (proof = u.capability_hash OR proof = u.capability_hash_previous AND u.capability_previous_until > now())
        AND u.retired_at IS NULL
        AND CASE WHEN session_user = 'stellar_pool' THEN u.placement = 'pooled' OR u.pool_access_until > now()
            ELSE u.role_name = session_user AND (u.placement = 'dedicated' OR u.role_access_until > now()) END;
END
$$;

-- Takes the current tenant's usage row before a write touches anything else (two writers that lock in another order
-- deadlock), and holds its placement: no flip takes effect between the statements of a write.
CREATE FUNCTION stellar.write_lock() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tenant uuid := stellar.current_tenant();
BEGIN
    PERFORM FROM stellar.usage u WHERE u.user_id = tenant FOR UPDATE;
    PERFORM FROM stellar.users u WHERE u.id = tenant FOR SHARE;
END
$$;

-- Where the logs of many tenants end, in one question: what wakes the rooms that an engine's clients are in when another
-- replica wrote. Each tenant is named with its capability and answered only where it is served, by the same rules as
-- current_tenant(); for all others there is no row.
CREATE FUNCTION stellar.log_ends(p_tenants uuid[], p_capabilities bytea[]) RETURNS TABLE (user_id uuid, change_seq bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT u.id, g.change_seq
    FROM unnest(p_tenants, p_capabilities) AS asked (id, capability)
    JOIN stellar.users u ON u.id = asked.id
    JOIN stellar.usage g ON g.user_id = u.id
    WHERE sha256(asked.capability) IN (u.capability_hash,
            CASE WHEN u.capability_previous_until > now() THEN u.capability_hash_previous END)
        AND u.retired_at IS NULL
        AND CASE WHEN session_user = 'stellar_pool' THEN u.placement = 'pooled' OR u.pool_access_until > now()
            ELSE u.role_name = session_user AND (u.placement = 'dedicated' OR u.role_access_until > now()) END
$$;

RESET ROLE;
SET LOCAL ROLE stellar_owner;

-- What the running transaction writes is on disk before its commit is answered, whatever a configuration says: else a crash
-- of Postgres takes back what a client was told. Who asks for more than that keeps it.
CREATE FUNCTION stellar.commit_durably() RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    IF pg_catalog.current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        PERFORM pg_catalog.set_config('synchronous_commit', 'on', true);
    END IF;
END
$$;
GRANT EXECUTE ON FUNCTION stellar.commit_durably() TO stellar_maintainer;

-- The first call of every request's transaction: names the tenant, proves the right to it, re-applies the settings
-- that SQL injected into an earlier transaction of the same connection may have changed. No row: not served here.
-- Readers begin REPEATABLE READ, so that one snapshot answers whether the tenant is served here and what it has.
-- It runs as its caller and has no SET clause, so that what it sets lasts to the end of the transaction.
CREATE FUNCTION stellar.enter(tenant uuid, capability bytea, agent text, writes boolean, key_id uuid DEFAULT NULL)
RETURNS TABLE (change_seq bigint, memory_count integer, memory_limit integer)
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
        pg_catalog.set_config('row_security', 'on', true),
        -- Without statistics costs are misjudged, and compiling a small query takes longer than running it.
        pg_catalog.set_config('jit', 'off', true),
        pg_catalog.set_config('statement_timeout', '10s', true),
        pg_catalog.set_config('lock_timeout', '5s', true),
        pg_catalog.set_config('idle_in_transaction_session_timeout', '15s', true),
        pg_catalog.set_config('TimeZone', 'UTC', true),
        pg_catalog.set_config('DateStyle', 'ISO, YMD', true),
        pg_catalog.set_config('app.current_user_id', tenant::text, true),
        pg_catalog.set_config('app.tenant_capability', pg_catalog.encode(capability, 'hex'), true),
        pg_catalog.set_config('app.agent', coalesce(agent, ''), true),
        pg_catalog.set_config('app.key_id', coalesce(key_id::text, ''), true),
        stellar.commit_durably();
    -- Asked again after the lock: a flip may have taken effect while this waited.
    IF writes AND EXISTS (SELECT FROM stellar.admitted(tenant, capability)) THEN
        PERFORM stellar.write_lock();
    END IF;
    RETURN QUERY SELECT a.change_seq, a.memory_count, a.memory_limit FROM stellar.admitted(tenant, capability) a;
END
$$;

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['users', 'usage', 'api_keys', 'memories', 'changes', 'operations', 'audit'] LOOP
        EXECUTE format('ALTER TABLE stellar.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE stellar.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY maintainer ON stellar.%I TO stellar_maintainer USING (true) WITH CHECK (true)', t);
    END LOOP;
    -- What a tenant reads, and in part writes, of its own. The sub-select runs once a statement. For all roles, though the
    -- grants admit tenants and pool alone: a role that a policy names can be taken out of it by DROP OWNED BY, which every
    -- member of that role may say, so that one tenant could end the service of all.
    FOREACH t IN ARRAY ARRAY['usage', 'memories', 'changes', 'operations', 'audit'] LOOP
        EXECUTE format(
            'CREATE POLICY tenant ON stellar.%I '
            'USING (user_id = (SELECT stellar.current_tenant())) '
            'WITH CHECK (user_id = (SELECT stellar.current_tenant()))', t);
    END LOOP;
    -- The control plane reads control tables, and nothing of what tenants remember.
    FOREACH t IN ARRAY ARRAY['users', 'usage', 'api_keys'] LOOP
        EXECUTE format('CREATE POLICY control ON stellar.%I FOR SELECT TO stellar_operator, stellar_gateway USING (true)', t);
    END LOOP;
END
$$;
RESET ROLE;
