-- current_tenant() runs once a statement, and most of what it took went into checking the form of what it is told: a
-- counted pattern is worked out anew at every call. The same form by cheaper means, and the proof hashed once.
SET LOCAL ROLE stellar_owner;
GRANT CREATE ON SCHEMA stellar TO stellar_maintainer;
RESET ROLE;
SET LOCAL ROLE stellar_maintainer;

-- The tenant that the running transaction may act for, or NULL. NULL on anything missing or malformed.
--   a tenant's own role:  session_user says who it is, while placed `dedicated` or draining
--   the pooled engine:    app.current_user_id with the capability that belongs to it, while `pooled` or draining
CREATE OR REPLACE FUNCTION stellar.current_tenant() RETURNS uuid
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

RESET ROLE;
SET LOCAL ROLE stellar_owner;
REVOKE CREATE ON SCHEMA stellar FROM stellar_maintainer;
RESET ROLE;
