-- Who may do what. Functions, so that what somebody takes away comes back: the operator calls them when the catalog
-- lacks a grant of theirs, save what it needs itself to call them. One for each owner, since an object's grants are its
-- owner's to give. CONNECT on the database is its administrator's (0001_roles.sql).
SET LOCAL ROLE stellar_owner;

CREATE FUNCTION stellar.owner_grants() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    GRANT USAGE ON SCHEMA stellar
        TO stellar_maintainer, stellar_role_manager, stellar_tenants, stellar_pool, stellar_gateway, stellar_operator;
    GRANT SELECT, INSERT, UPDATE, DELETE ON stellar.api_keys, stellar.audit, stellar.changes, stellar.gateways, stellar.memories,
        stellar.operations, stellar.tiers, stellar.usage, stellar.users TO stellar_maintainer;
    GRANT SELECT ON stellar.tiers, stellar.usage TO stellar_tenants, stellar_pool, stellar_gateway, stellar_operator;
    GRANT SELECT ON stellar.memories, stellar.changes, stellar.operations, stellar.audit TO stellar_tenants, stellar_pool;
    -- By column: table-level UPDATE or DELETE would let one tenant lock the table against all others.
    GRANT INSERT (user_id, id, content, metadata, session, speaker, occurred_at, source, agent, key_id, created_at, importance,
            emotion, zone, total_score, embedding, embedding_version, index_row, index_version, written_at, written_by)
        ON stellar.memories TO stellar_tenants, stellar_pool;
    GRANT UPDATE (content, metadata, importance, emotion, zone, total_score, last_recalled_at, recall_count, embedding,
            embedding_version, index_row, index_version, written_at, written_by)
        ON stellar.memories TO stellar_tenants, stellar_pool;
    GRANT INSERT (user_id, op_id, request_hash, answer) ON stellar.operations TO stellar_tenants, stellar_pool;
    -- No capability hashes, to nobody but the maintainer's functions.
    GRANT SELECT (id, name, tier, placement, endpoint, suspended, role_name, max_agents, max_api_keys, requests_per_minute,
            max_sockets, socket_messages_per_second, capability_generation, pool_access_until, role_access_until, retired_at,
            created_at, updated_at)
        ON stellar.users TO stellar_operator, stellar_gateway;
    GRANT SELECT (user_id, id, agent, key_hash, prefix, managed, created_at, expires_at, revoked_at, last_used_at)
        ON stellar.api_keys TO stellar_operator, stellar_gateway;
    GRANT EXECUTE ON FUNCTION stellar.enter(uuid, bytea, text, boolean, uuid) TO stellar_tenants, stellar_pool;
    GRANT EXECUTE ON FUNCTION stellar.commit_durably() TO stellar_tenants, stellar_pool, stellar_maintainer;
    GRANT EXECUTE ON FUNCTION stellar.owner_grants() TO stellar_operator;
END
$$;
RESET ROLE;

SET LOCAL ROLE stellar_maintainer;

CREATE FUNCTION stellar.maintainer_grants() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    GRANT EXECUTE ON FUNCTION stellar.memories_inserted(), stellar.memories_updated(), stellar.memories_deleted(),
        stellar.operations_kept(), stellar.audit_added(), stellar.control_changed() TO stellar_owner;
    GRANT EXECUTE ON FUNCTION stellar.current_tenant(), stellar.admitted(uuid, bytea), stellar.write_lock(),
        stellar.log_ends(uuid[], bytea[]), stellar.forget(uuid) TO stellar_tenants, stellar_pool;
    GRANT EXECUTE ON FUNCTION
        stellar.tier_apply(text, text, integer, integer, integer, integer, integer, integer),
        stellar.tier_delete(text),
        stellar.tenant_apply(uuid, text, text, boolean, integer, integer, integer, integer, integer, bytea, interval,
            integer, integer),
        stellar.tenant_admit_role(uuid),
        stellar.tenant_place(uuid, text, text, interval),
        stellar.tenant_dismiss_role(uuid),
        stellar.tenant_owned(uuid, text),
        stellar.tenant_retire(uuid, text),
        stellar.tenant_erase(uuid, text, integer),
        stellar.key_ensure(uuid, text, bytea, text, interval),
        stellar.prune(interval, interval, integer),
        stellar.prune_lag(interval, interval),
        stellar.maintainer_grants()
    TO stellar_operator;
    GRANT EXECUTE ON FUNCTION stellar.gateway_heartbeat(uuid), stellar.gateway_leave(uuid),
        stellar.keys_used(uuid[], uuid[], timestamptz[]),
        stellar.key_create(uuid, text, bytea, text, timestamptz, uuid, text),
        stellar.key_revoke(uuid, uuid, uuid, text),
        stellar.key_rotate(uuid, uuid, bytea, text, timestamptz, interval, uuid, text) TO stellar_gateway;
END
$$;
RESET ROLE;

SET LOCAL ROLE stellar_role_manager;

CREATE FUNCTION stellar.role_manager_grants() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    GRANT EXECUTE ON FUNCTION stellar.role_ensure(uuid), stellar.role_login(uuid, text, integer, boolean),
        stellar.role_nologin(uuid), stellar.role_drop(uuid), stellar.role_manager_grants() TO stellar_operator;
END
$$;
RESET ROLE;

-- Each by its owner: nobody else may execute them yet.
SET LOCAL ROLE stellar_owner;
SELECT stellar.owner_grants();
-- From here on nobody but the owner makes anything in the schema.
REVOKE CREATE ON SCHEMA stellar FROM stellar_maintainer, stellar_role_manager;
SET LOCAL ROLE stellar_maintainer;
SELECT stellar.maintainer_grants();
SET LOCAL ROLE stellar_role_manager;
SELECT stellar.role_manager_grants();
RESET ROLE;
