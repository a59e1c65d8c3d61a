-- What the operator may do: everything through these functions, which write only when something differs (a system at
-- rest writes nothing). Also the notice to the gateways: its payload is only an opaque id.
SET LOCAL ROLE stellar_maintainer;

CREATE FUNCTION stellar.tier_apply(
    p_name text, p_placement text, p_max_memories integer, p_max_agents integer, p_max_api_keys integer,
    p_requests_per_minute integer, p_max_sockets integer DEFAULT NULL, p_socket_messages_per_second integer DEFAULT NULL
) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO stellar.tiers AS t (name, placement, max_memories, max_agents, max_api_keys, requests_per_minute,
        max_sockets, socket_messages_per_second)
    VALUES (p_name, p_placement, p_max_memories, p_max_agents, p_max_api_keys, p_requests_per_minute,
        coalesce(p_max_sockets, 5), coalesce(p_socket_messages_per_second, 10))
    ON CONFLICT (name) DO UPDATE SET placement = excluded.placement, max_memories = excluded.max_memories,
        max_agents = excluded.max_agents, max_api_keys = excluded.max_api_keys,
        requests_per_minute = excluded.requests_per_minute, max_sockets = coalesce(p_max_sockets, t.max_sockets),
        socket_messages_per_second = coalesce(p_socket_messages_per_second, t.socket_messages_per_second)
    WHERE (t.placement, t.max_memories, t.max_agents, t.max_api_keys, t.requests_per_minute,
            t.max_sockets, t.socket_messages_per_second) IS DISTINCT FROM
        (excluded.placement, excluded.max_memories, excluded.max_agents, excluded.max_api_keys, excluded.requests_per_minute,
            coalesce(p_max_sockets, t.max_sockets),
            coalesce(p_socket_messages_per_second, t.socket_messages_per_second))
$$;

CREATE FUNCTION stellar.tier_delete(p_name text) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH gone AS (DELETE FROM stellar.tiers t WHERE t.name = p_name RETURNING 1) SELECT EXISTS (SELECT FROM gone)
$$;

-- Makes or updates a tenant's row and its usage row. A row that another living tenant of a different name holds is
-- refused with SQLSTATE SM409; a retired one is taken over with its memories.
-- The parameters that have a default came later, and leave their limits as they are: an operator of a release before goes on
-- working during an upgrade and after a rollback.
CREATE FUNCTION stellar.tenant_apply(
    p_id uuid, p_name text, p_tier text, p_suspended boolean, p_max_memories integer, p_max_agents integer,
    p_max_api_keys integer, p_requests_per_minute integer, p_capability_generation integer, p_capability_hash bytea,
    p_overlap interval DEFAULT '5 minutes', p_max_sockets integer DEFAULT NULL,
    p_socket_messages_per_second integer DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held stellar.users;
    sockets integer;
    messages integer;
BEGIN
    -- In the order of every writer (write_lock): else a store and a change of the tier could wait for each other.
    PERFORM FROM stellar.usage g WHERE g.user_id = p_id FOR UPDATE;
    SELECT u.* INTO held FROM stellar.users u WHERE u.id = p_id FOR UPDATE;
    sockets := coalesce(p_max_sockets, held.max_sockets, 5);
    messages := coalesce(p_socket_messages_per_second, held.socket_messages_per_second, 10);
    IF NOT FOUND THEN
        INSERT INTO stellar.users (id, name, tier, suspended, max_agents, max_api_keys, requests_per_minute,
            max_sockets, socket_messages_per_second, capability_generation, capability_hash)
        VALUES (p_id, p_name, p_tier, p_suspended, p_max_agents, p_max_api_keys, p_requests_per_minute,
            sockets, messages, p_capability_generation, p_capability_hash);
        INSERT INTO stellar.audit (user_id, what, detail)
        VALUES (p_id, 'tenant-created', jsonb_build_object('name', p_name, 'tier', p_tier));
    ELSIF held.name <> p_name AND held.retired_at IS NULL THEN
        RAISE EXCEPTION 'the user id belongs to another tenant' USING ERRCODE = 'SM409';
    ELSIF (held.name, held.tier, held.suspended, held.max_agents, held.max_api_keys, held.requests_per_minute,
            held.max_sockets, held.socket_messages_per_second,
            held.capability_generation, held.capability_hash, held.retired_at) IS DISTINCT FROM
        (p_name, p_tier, p_suspended, p_max_agents, p_max_api_keys, p_requests_per_minute, sockets, messages,
            p_capability_generation, p_capability_hash, NULL::timestamptz) THEN
        UPDATE stellar.users u SET
            name = p_name, tier = p_tier, suspended = p_suspended, max_agents = p_max_agents,
            max_api_keys = p_max_api_keys, requests_per_minute = p_requests_per_minute, max_sockets = sockets,
            socket_messages_per_second = messages, retired_at = NULL,
            capability_hash_previous = CASE WHEN held.capability_hash IS DISTINCT FROM p_capability_hash
                THEN held.capability_hash ELSE held.capability_hash_previous END,
            capability_previous_until = CASE WHEN held.capability_hash IS DISTINCT FROM p_capability_hash
                THEN now() + p_overlap ELSE held.capability_previous_until END,
            capability_generation = p_capability_generation, capability_hash = p_capability_hash, updated_at = now()
        WHERE u.id = p_id;
        INSERT INTO stellar.audit (user_id, what, detail)
        SELECT p_id, done.what, done.detail
        FROM (VALUES
            ('tenant-taken-over', held.retired_at IS NOT NULL, jsonb_build_object('name', p_name)),
            ('tier-changed', held.tier <> p_tier, jsonb_build_object('from', held.tier, 'to', p_tier)),
            ('tenant-suspended', p_suspended AND NOT held.suspended, jsonb_build_object()),
            ('tenant-resumed', held.suspended AND NOT p_suspended, jsonb_build_object()),
            ('credentials-rotated', held.capability_hash <> p_capability_hash,
                jsonb_build_object('generation', p_capability_generation))
        ) AS done (what, happened, detail)
        WHERE done.happened;
    END IF;
    INSERT INTO stellar.usage AS g (user_id, memory_count, memory_limit)
    VALUES (p_id, 0, p_max_memories)
    ON CONFLICT (user_id) DO UPDATE SET memory_limit = excluded.memory_limit
    WHERE g.memory_limit <> excluded.memory_limit;
END
$$;

-- Lets a pooled tenant's own role in before the flip, so that its new engine can warm up and prove that it serves.
CREATE FUNCTION stellar.tenant_admit_role(p_id uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE stellar.users u SET role_access_until = 'infinity'
    WHERE u.id = p_id AND u.placement = 'pooled' AND u.role_access_until IS DISTINCT FROM 'infinity'
$$;

-- The flip: from now on the gateway sends requests to the new place; the old one stays valid for `p_drain`.
-- Returns whether anything changed.
CREATE FUNCTION stellar.tenant_place(p_id uuid, p_placement text, p_endpoint text, p_drain interval) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE stellar.users u SET
        placement = p_placement,
        endpoint = p_endpoint,
        pool_access_until = CASE WHEN p_placement = 'dedicated' AND u.placement = 'pooled' THEN now() + p_drain
            WHEN p_placement = 'pooled' THEN NULL ELSE u.pool_access_until END,
        role_access_until = CASE WHEN p_placement = 'pooled' AND u.placement = 'dedicated' THEN now() + p_drain ELSE NULL END,
        updated_at = now()
    WHERE u.id = p_id AND (u.placement, u.endpoint) IS DISTINCT FROM (p_placement, p_endpoint);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO stellar.audit (user_id, what, detail) VALUES (p_id, 'tenant-moved', jsonb_build_object('to', p_placement));
    RETURN true;
END
$$;

-- Ends an admission that a change of mind left behind (pooled again before the flip happened).
CREATE FUNCTION stellar.tenant_dismiss_role(p_id uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE stellar.users u SET role_access_until = NULL
    WHERE u.id = p_id AND u.placement = 'pooled' AND u.role_access_until = 'infinity'
$$;

-- Whether cleaning up after this tenant may touch the identity: a Tenant that was refused with SM409 must be
-- deletable without harm to the one that holds the identity.
CREATE FUNCTION stellar.tenant_owned(p_id uuid, p_name text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT NOT EXISTS (SELECT FROM stellar.users u WHERE u.id = p_id AND u.name <> p_name) $$;

-- Deletion policy Retain: the rows stay, nobody is served, every key ends.
CREATE FUNCTION stellar.tenant_retire(p_id uuid, p_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT stellar.tenant_owned(p_id, p_name) THEN
        RETURN;
    END IF;
    UPDATE stellar.api_keys k SET revoked_at = now() WHERE k.user_id = p_id AND k.revoked_at IS NULL;
    UPDATE stellar.users u SET retired_at = now(), placement = 'pooled', endpoint = NULL, pool_access_until = NULL,
        role_access_until = NULL, updated_at = now()
    WHERE u.id = p_id AND u.retired_at IS NULL;
    IF FOUND THEN
        INSERT INTO stellar.audit (user_id, what) VALUES (p_id, 'tenant-retired');
    END IF;
END
$$;

-- Deletion policy Delete, in steps: call until it returns true. At most `p_batch` memories, changes or answers go in one call.
CREATE FUNCTION stellar.tenant_erase(p_id uuid, p_name text, p_batch integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT stellar.tenant_owned(p_id, p_name) THEN
        RETURN true;
    END IF;
    -- First nobody can write any more, and the triggers know that nothing is to be counted. In the order of every writer.
    DELETE FROM stellar.usage u WHERE u.user_id = p_id;
    UPDATE stellar.users u SET retired_at = now() WHERE u.id = p_id AND u.retired_at IS NULL;
    DELETE FROM stellar.memories m WHERE m.ctid = ANY (ARRAY(
        SELECT x.ctid FROM stellar.memories x WHERE x.user_id = p_id LIMIT p_batch));
    IF FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM stellar.changes c WHERE c.ctid = ANY (ARRAY(
        SELECT x.ctid FROM stellar.changes x WHERE x.user_id = p_id LIMIT p_batch));
    IF FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM stellar.operations o WHERE o.ctid = ANY (ARRAY(
        SELECT x.ctid FROM stellar.operations x WHERE x.user_id = p_id LIMIT p_batch));
    IF FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM stellar.users u WHERE u.id = p_id;
    RETURN true;
END
$$;

-- Makes sure that the key in the tenant's Secret works. Other keys of the operator's end after `p_overlap`. False: the text
-- was another tenant's key once, and never becomes this one's.
CREATE FUNCTION stellar.key_ensure(p_user_id uuid, p_agent text, p_hash bytea, p_prefix text, p_overlap interval) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    holder uuid;
    made uuid;
BEGIN
    INSERT INTO stellar.api_keys (user_id, agent, key_hash, prefix, managed)
    VALUES (p_user_id, p_agent, p_hash, p_prefix, true)
    ON CONFLICT (key_hash) DO NOTHING RETURNING id INTO made;
    IF made IS NOT NULL THEN
        INSERT INTO stellar.audit (user_id, what, detail)
        VALUES (p_user_id, 'api-key-created', jsonb_build_object('key', made, 'agent', p_agent));
    ELSE
        SELECT k.user_id INTO holder FROM stellar.api_keys k WHERE k.key_hash = p_hash;
        IF holder IS DISTINCT FROM p_user_id THEN
            RETURN false;
        END IF;
        UPDATE stellar.api_keys k SET revoked_at = NULL, expires_at = NULL
        WHERE k.key_hash = p_hash AND (k.revoked_at IS NOT NULL OR k.expires_at IS NOT NULL);
    END IF;
    UPDATE stellar.api_keys k SET expires_at = now() + p_overlap
    WHERE k.user_id = p_user_id AND k.managed AND k.key_hash <> p_hash AND k.revoked_at IS NULL AND k.expires_at IS NULL;
    RETURN true;
END
$$;

-- The gateways' notice. last_used_at is no news.
CREATE FUNCTION stellar.control_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_TABLE_NAME = 'users' THEN
        PERFORM pg_notify('stellar_control', (CASE WHEN TG_OP = 'DELETE' THEN OLD.id ELSE NEW.id END)::text);
    ELSE
        PERFORM pg_notify('stellar_control', (CASE WHEN TG_OP = 'DELETE' THEN OLD.user_id ELSE NEW.user_id END)::text);
    END IF;
    RETURN NULL;
END
$$;

GRANT EXECUTE ON FUNCTION stellar.control_changed() TO stellar_owner;
RESET ROLE;

SET LOCAL ROLE stellar_owner;
CREATE TRIGGER users_changed AFTER INSERT OR UPDATE OR DELETE ON stellar.users
    FOR EACH ROW EXECUTE FUNCTION stellar.control_changed();
CREATE TRIGGER api_keys_added AFTER INSERT OR DELETE ON stellar.api_keys
    FOR EACH ROW EXECUTE FUNCTION stellar.control_changed();
CREATE TRIGGER api_keys_changed AFTER UPDATE OF revoked_at, expires_at, agent, key_hash ON stellar.api_keys
    FOR EACH ROW EXECUTE FUNCTION stellar.control_changed();
RESET ROLE;
