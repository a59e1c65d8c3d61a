-- Where the logs of many tenants end, in one question: what wakes the rooms that an engine's clients are in when another
-- replica wrote. Each tenant is named with its capability and answered only where it is served, by the same rules as
-- current_tenant(); for all others there is no row.
SET LOCAL ROLE stellar_owner;
GRANT CREATE ON SCHEMA stellar TO stellar_maintainer;
RESET ROLE;
SET LOCAL ROLE stellar_maintainer;

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

GRANT EXECUTE ON FUNCTION stellar.log_ends(uuid[], bytea[]) TO stellar_tenants, stellar_pool;
RESET ROLE;
SET LOCAL ROLE stellar_owner;
REVOKE CREATE ON SCHEMA stellar FROM stellar_maintainer;
RESET ROLE;
