-- What the gateway may do: everything through these functions.
SET LOCAL ROLE stellar_maintainer;

-- Tells that this gateway lives and returns how many do (seen within 15 s). Meant to be called every 5 s.
CREATE FUNCTION stellar.gateway_heartbeat(p_id uuid) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    live integer;
BEGIN
    INSERT INTO stellar.gateways AS g (id) VALUES (p_id) ON CONFLICT (id) DO UPDATE SET seen_at = now();
    DELETE FROM stellar.gateways g WHERE g.seen_at < now() - interval '1 minute';
    SELECT count(*) INTO live FROM stellar.gateways g WHERE g.seen_at > now() - interval '15 seconds';
    RETURN greatest(live, 1);
END
$$;

-- A gateway that shuts down gives its share back at once.
CREATE FUNCTION stellar.gateway_leave(p_id uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ DELETE FROM stellar.gateways g WHERE g.id = p_id $$;

-- Notes the last use of keys, in batches. Never moves a time backwards.
CREATE FUNCTION stellar.keys_used(p_user_ids uuid[], p_key_ids uuid[], p_at timestamptz[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE stellar.api_keys k SET last_used_at = used.at
    FROM unnest(p_user_ids, p_key_ids, p_at) AS used (user_id, id, at)
    WHERE k.user_id = used.user_id AND k.id = used.id AND (k.last_used_at IS NULL OR k.last_used_at < used.at)
$$;

-- A key that was just revoked or replaced makes, replaces and revokes none any more: a gateway may not have heard of its end
-- yet, so the functions below look at the key that asks. SQLSTATE SM404 when it has ended, as for a tenant that is gone.
CREATE FUNCTION stellar.key_require_live(p_user_id uuid, p_key_id uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM stellar.api_keys k
        WHERE k.user_id = p_user_id AND k.id = p_key_id AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
    ) THEN
        RAISE EXCEPTION 'the key that asks has ended' USING ERRCODE = 'SM404';
    END IF;
END
$$;

-- Takes away all but the newest 1,000 of a tenant's keys that have ended, which count in no quota. The operator's stay: they
-- tell whether a Secret's text was a key before.
CREATE FUNCTION stellar.keys_forget(p_user_id uuid) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM stellar.api_keys k WHERE k.ctid = ANY (ARRAY(
        SELECT old.ctid FROM stellar.api_keys old
        WHERE old.user_id = p_user_id AND NOT old.managed AND least(old.revoked_at, old.expires_at) < now()
        ORDER BY least(old.revoked_at, old.expires_at) DESC OFFSET 1000 FOR UPDATE SKIP LOCKED))
$$;

-- Makes a key. SQLSTATE SM413 when the tenant's agents or keys are all used; DETAIL is
-- {"what": "agents" | "api_keys", "used": n, "limit": n}.
CREATE FUNCTION stellar.key_create(
    p_user_id uuid, p_agent text, p_hash bytea, p_prefix text, p_expires_at timestamptz, p_by_key uuid, p_by_agent text
) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tenant record;
    live record;
    made uuid;
BEGIN
    PERFORM stellar.commit_durably();
    SELECT u.max_agents, u.max_api_keys INTO tenant
    FROM stellar.users u WHERE u.id = p_user_id AND u.retired_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such tenant' USING ERRCODE = 'SM404';
    END IF;
    PERFORM stellar.key_require_live(p_user_id, p_by_key);
    SELECT count(*) AS keys, count(DISTINCT k.agent) AS agents, coalesce(bool_or(k.agent = p_agent), false) AS known INTO live
    FROM stellar.api_keys k
    WHERE k.user_id = p_user_id AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now());
    IF tenant.max_api_keys >= 0 AND live.keys >= tenant.max_api_keys THEN
        RAISE EXCEPTION 'key quota reached' USING ERRCODE = 'SM413',
            DETAIL = json_build_object('what', 'api_keys', 'used', live.keys, 'limit', tenant.max_api_keys)::text;
    END IF;
    IF tenant.max_agents >= 0 AND NOT live.known AND live.agents >= tenant.max_agents THEN
        RAISE EXCEPTION 'agent quota reached' USING ERRCODE = 'SM413',
            DETAIL = json_build_object('what', 'agents', 'used', live.agents, 'limit', tenant.max_agents)::text;
    END IF;
    PERFORM stellar.keys_forget(p_user_id);
    INSERT INTO stellar.api_keys (user_id, agent, key_hash, prefix, expires_at)
    VALUES (p_user_id, p_agent, p_hash, p_prefix, p_expires_at) RETURNING id INTO made;
    INSERT INTO stellar.audit (user_id, agent, key_id, what, detail)
    VALUES (p_user_id, p_by_agent, p_by_key, 'api-key-created', jsonb_build_object('key', made, 'agent', p_agent));
    RETURN made;
END
$$;

-- Revokes a key. False: the tenant has no live key of that id. The operator's own key is revoked by
-- deleting the Secret that holds it (SQLSTATE SM409).
CREATE FUNCTION stellar.key_revoke(p_user_id uuid, p_key_id uuid, p_by_key uuid, p_by_agent text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    is_managed boolean;
BEGIN
    PERFORM stellar.commit_durably();
    PERFORM stellar.key_require_live(p_user_id, p_by_key);
    SELECT k.managed INTO is_managed FROM stellar.api_keys k
    WHERE k.user_id = p_user_id AND k.id = p_key_id AND k.revoked_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF is_managed THEN
        RAISE EXCEPTION 'the operator manages this key' USING ERRCODE = 'SM409';
    END IF;
    UPDATE stellar.api_keys k SET revoked_at = now() WHERE k.user_id = p_user_id AND k.id = p_key_id;
    INSERT INTO stellar.audit (user_id, agent, key_id, what, detail)
    VALUES (p_user_id, p_by_agent, p_by_key, 'api-key-revoked', jsonb_build_object('key', p_key_id));
    RETURN true;
END
$$;

-- Makes a key of the same agent; the old one ends after `p_overlap`, and never later than it would have anyway. No row: the
-- tenant has no live key of that id. For the time of the overlap there may be one key more than the tenant may have, but
-- not two (SQLSTATE SM413, as key_create): without an overlap, where there is one more already, the new key ends when the old
-- one would have. The operator's own key is rotated by deleting the Secret that holds it
-- (SQLSTATE SM409).
CREATE FUNCTION stellar.key_rotate(
    p_user_id uuid, p_key_id uuid, p_hash bytea, p_prefix text, p_expires_at timestamptz, p_overlap interval, p_by_key uuid,
    p_by_agent text
) RETURNS TABLE (id uuid, agent text, expires_at timestamptz, old_expires_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tenant record;
    old record;
    live bigint;
    made uuid;
    ends timestamptz;
    lasts timestamptz := p_expires_at;
BEGIN
    PERFORM stellar.commit_durably();
    -- Makers of keys wait for each other. Not FOR UPDATE: whoever revokes this key meanwhile holds it, and needs the tenant
    -- for its audit entry.
    SELECT u.max_api_keys INTO tenant
    FROM stellar.users u WHERE u.id = p_user_id AND u.retired_at IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such tenant' USING ERRCODE = 'SM404';
    END IF;
    PERFORM stellar.key_require_live(p_user_id, p_by_key);
    SELECT k.agent, k.managed, k.expires_at INTO old FROM stellar.api_keys k
    WHERE k.user_id = p_user_id AND k.id = p_key_id AND k.revoked_at IS NULL
        AND (k.expires_at IS NULL OR k.expires_at > now())
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF old.managed THEN
        RAISE EXCEPTION 'the operator manages this key' USING ERRCODE = 'SM409';
    END IF;
    SELECT count(*) INTO live FROM stellar.api_keys k
    WHERE k.user_id = p_user_id AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now());
    IF tenant.max_api_keys >= 0 AND live > tenant.max_api_keys THEN
        IF p_overlap <= interval '0' THEN
            lasts := least(p_expires_at, old.expires_at);
        ELSE
            RAISE EXCEPTION 'key quota reached' USING ERRCODE = 'SM413',
                DETAIL = json_build_object('what', 'api_keys', 'used', live, 'limit', tenant.max_api_keys)::text;
        END IF;
    END IF;
    ends := least(old.expires_at, now() + p_overlap);
    -- Revoked where there is no overlap: that needs no clock of a gateway.
    UPDATE stellar.api_keys k
    SET expires_at = ends, revoked_at = CASE WHEN p_overlap <= interval '0' THEN now() END
    WHERE k.user_id = p_user_id AND k.id = p_key_id;
    PERFORM stellar.keys_forget(p_user_id);
    INSERT INTO stellar.api_keys AS k (user_id, agent, key_hash, prefix, expires_at)
    VALUES (p_user_id, old.agent, p_hash, p_prefix, lasts) RETURNING k.id INTO made;
    INSERT INTO stellar.audit (user_id, agent, key_id, what, detail)
    VALUES (p_user_id, p_by_agent, p_by_key, 'api-key-rotated',
        jsonb_build_object('key', p_key_id, 'new_key', made, 'agent', old.agent, 'old_expires_at', ends));
    RETURN QUERY SELECT made, old.agent, lasts, ends;
END
$$;
RESET ROLE;
