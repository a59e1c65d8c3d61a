-- Limits of sync sockets: how many a tenant has open at one time over all gateways (-1: no limit), and how many operations
-- a second one of them sends. Rows from before have what the smallest tier has, until the operator writes them.
SET LOCAL ROLE stellar_owner;
ALTER TABLE stellar.tiers
    ADD COLUMN max_sockets integer NOT NULL DEFAULT 5 CHECK (max_sockets >= -1),
    ADD COLUMN socket_messages_per_second integer NOT NULL DEFAULT 10 CHECK (socket_messages_per_second >= 1);
ALTER TABLE stellar.users
    ADD COLUMN max_sockets integer NOT NULL DEFAULT 5 CHECK (max_sockets >= -1),
    ADD COLUMN socket_messages_per_second integer NOT NULL DEFAULT 10 CHECK (socket_messages_per_second >= 1);
GRANT SELECT (max_sockets, socket_messages_per_second) ON stellar.users TO stellar_operator, stellar_gateway;
GRANT CREATE ON SCHEMA stellar TO stellar_maintainer;
RESET ROLE;

-- Both functions as before, with two parameters more. These come last and may be left out, which leaves the limits as they
-- are: an operator of the release before goes on working during an upgrade and after a rollback.
SET LOCAL ROLE stellar_maintainer;
DROP FUNCTION stellar.tier_apply(text, text, integer, integer, integer, integer);
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

DROP FUNCTION stellar.tenant_apply(uuid, text, text, boolean, integer, integer, integer, integer, integer, bytea, interval);
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

GRANT EXECUTE ON FUNCTION
    stellar.tier_apply(text, text, integer, integer, integer, integer, integer, integer),
    stellar.tenant_apply(uuid, text, text, boolean, integer, integer, integer, integer, integer, bytea, interval, integer, integer)
TO stellar_operator;
RESET ROLE;

SET LOCAL ROLE stellar_owner;
REVOKE CREATE ON SCHEMA stellar FROM stellar_maintainer;
RESET ROLE;
