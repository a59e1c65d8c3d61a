//! What this release's schema grants and defines: the one place to change together with `migrations/`. Written by hand
//! and not read from the migrations, so that a weakened migration is found like a weakened database. Lists of names in
//! one string are separated by blanks.

/// Tables of the schema.
pub(super) const TABLES: &str = "api_keys audit changes gateways memories operations tiers usage users";

/// Policies: tables, name, definition.
pub(super) const POLICIES: &[(&str, &str, &str)] = &[
    (
        "api_keys audit changes memories operations usage users",
        "maintainer",
        "PERMISSIVE FOR ALL TO stellar_maintainer USING (true) WITH CHECK (true)",
    ),
    (
        "audit changes memories operations usage",
        "tenant",
        "PERMISSIVE FOR ALL TO PUBLIC \
         USING ((user_id = ( SELECT stellar.current_tenant() AS current_tenant))) \
         WITH CHECK ((user_id = ( SELECT stellar.current_tenant() AS current_tenant)))",
    ),
    ("api_keys usage users", "control", "PERMISSIVE FOR SELECT TO stellar_gateway, stellar_operator USING (true)"),
];

/// Grants on whole tables: privileges, tables, roles.
pub(super) const TABLE_GRANTS: &[(&str, &str, &str)] = &[
    ("SELECT INSERT UPDATE DELETE", TABLES, "stellar_maintainer"),
    ("SELECT", "audit changes memories operations tiers usage", "stellar_pool stellar_tenants"),
    ("SELECT", "tiers usage", "stellar_gateway stellar_operator"),
];

/// Grants on columns: privilege, table, columns, roles.
pub(super) const COLUMN_GRANTS: &[(&str, &str, &str, &str)] = &[
    (
        "INSERT",
        "memories",
        "user_id id content metadata session speaker occurred_at source agent key_id created_at importance emotion zone \
         total_score embedding embedding_version index_row index_version written_at written_by",
        "stellar_pool stellar_tenants",
    ),
    (
        "UPDATE",
        "memories",
        "content metadata importance emotion zone total_score last_recalled_at recall_count embedding \
         embedding_version index_row index_version written_at written_by",
        "stellar_pool stellar_tenants",
    ),
    ("INSERT", "operations", "user_id op_id request_hash answer", "stellar_pool stellar_tenants"),
    (
        "SELECT",
        "users",
        "id name tier placement endpoint suspended role_name max_agents max_api_keys requests_per_minute \
         capability_generation pool_access_until role_access_until retired_at created_at updated_at max_sockets \
         socket_messages_per_second",
        "stellar_gateway stellar_operator",
    ),
    (
        "SELECT",
        "api_keys",
        "user_id id agent key_hash prefix managed created_at expires_at revoked_at last_used_at",
        "stellar_gateway stellar_operator",
    ),
];

/// Grants on the schema and the database: privilege, object, roles.
pub(super) const OTHER_GRANTS: &[(&str, &str, &str)] = &[
    (
        "USAGE",
        "schema stellar",
        "stellar_maintainer stellar_role_manager stellar_tenants stellar_pool stellar_gateway stellar_operator",
    ),
    ("CONNECT", "the database", "stellar_tenants stellar_pool stellar_gateway stellar_operator"),
    ("CREATE", "the database", "stellar_owner"),
];

/// Default privileges: whose new functions are executable by nobody else.
pub(super) const NO_DEFAULT_EXECUTE: &str = "stellar_maintainer stellar_owner stellar_role_manager";

const MAINTAINER: &str = "stellar_maintainer";
const ROLE_MANAGER: &str = "stellar_role_manager";
const OWNER: &str = "stellar_owner";
const TENANTS: &str = "stellar_pool stellar_tenants";
const OPERATOR: &str = "stellar_operator";
const GATEWAY: &str = "stellar_gateway";

/// Functions: signature, owner, language and attributes, who may execute them (beside their owner).
pub(super) const FUNCTIONS: &[(&str, &str, &str, &str)] = &[
    ("admitted(uuid,bytea)", MAINTAINER, "plpgsql stable definer", TENANTS),
    ("audit_added()", MAINTAINER, "plpgsql volatile definer", OWNER),
    ("commit_durably()", OWNER, "plpgsql volatile", "stellar_maintainer stellar_pool stellar_tenants"),
    ("control_changed()", MAINTAINER, "plpgsql volatile definer", OWNER),
    ("current_tenant()", MAINTAINER, "plpgsql stable definer", TENANTS),
    ("enter(uuid,bytea,text,boolean,uuid)", OWNER, "plpgsql volatile", TENANTS),
    ("entries_kept(integer)", MAINTAINER, "sql immutable", ""),
    ("forget(uuid)", MAINTAINER, "plpgsql volatile definer", TENANTS),
    ("gateway_heartbeat(uuid)", MAINTAINER, "plpgsql volatile definer", GATEWAY),
    ("gateway_leave(uuid)", MAINTAINER, "sql volatile definer", GATEWAY),
    (
        "key_create(uuid,text,bytea,text,timestamp with time zone,uuid,text)",
        MAINTAINER,
        "plpgsql volatile definer",
        GATEWAY,
    ),
    ("key_ensure(uuid,text,bytea,text,interval)", MAINTAINER, "plpgsql volatile definer", OPERATOR),
    ("key_require_live(uuid,uuid)", MAINTAINER, "plpgsql volatile search_path=pg_catalog, pg_temp", ""),
    ("key_revoke(uuid,uuid,uuid,text)", MAINTAINER, "plpgsql volatile definer", GATEWAY),
    (
        "key_rotate(uuid,uuid,bytea,text,timestamp with time zone,interval,uuid,text)",
        MAINTAINER,
        "plpgsql volatile definer",
        GATEWAY,
    ),
    ("keys_forget(uuid)", MAINTAINER, "sql volatile search_path=pg_catalog, pg_temp", ""),
    ("keys_used(uuid[],uuid[],timestamp with time zone[])", MAINTAINER, "sql volatile definer", GATEWAY),
    ("log_ends(uuid[],bytea[])", MAINTAINER, "sql stable definer", TENANTS),
    ("log_trim(uuid,bigint,integer,integer)", MAINTAINER, "plpgsql volatile search_path=pg_catalog, pg_temp", ""),
    ("maintainer_grants()", MAINTAINER, "plpgsql volatile definer", OPERATOR),
    ("memories_deleted()", MAINTAINER, "plpgsql volatile definer", OWNER),
    ("memories_inserted()", MAINTAINER, "plpgsql volatile definer", OWNER),
    ("memories_updated()", MAINTAINER, "plpgsql volatile definer", OWNER),
    ("operations_kept()", MAINTAINER, "plpgsql volatile definer", OWNER),
    ("owner_grants()", OWNER, "plpgsql volatile definer", OPERATOR),
    ("prune(interval,interval,integer)", MAINTAINER, "plpgsql volatile definer", OPERATOR),
    ("prune_lag(interval,interval)", MAINTAINER, "sql stable definer", OPERATOR),
    ("role_disconnect(uuid)", ROLE_MANAGER, "plpgsql volatile definer", ""),
    ("role_drop(uuid)", ROLE_MANAGER, "plpgsql volatile definer", OPERATOR),
    ("role_ensure(uuid)", ROLE_MANAGER, "plpgsql volatile definer", OPERATOR),
    ("role_login(uuid,text,integer,boolean)", ROLE_MANAGER, "plpgsql volatile definer", OPERATOR),
    ("role_manager_grants()", ROLE_MANAGER, "plpgsql volatile definer", OPERATOR),
    ("role_nologin(uuid)", ROLE_MANAGER, "plpgsql volatile definer", OPERATOR),
    ("role_of(uuid)", ROLE_MANAGER, "sql immutable search_path=pg_catalog, pg_temp", ""),
    ("tenant_admit_role(uuid)", MAINTAINER, "sql volatile definer", OPERATOR),
    (
        "tenant_apply(uuid,text,text,boolean,integer,integer,integer,integer,integer,bytea,interval,integer,integer)",
        MAINTAINER,
        "plpgsql volatile definer",
        OPERATOR,
    ),
    ("tenant_dismiss_role(uuid)", MAINTAINER, "sql volatile definer", OPERATOR),
    ("tenant_erase(uuid,text,integer)", MAINTAINER, "plpgsql volatile definer", OPERATOR),
    ("tenant_owned(uuid,text)", MAINTAINER, "sql stable definer", OPERATOR),
    ("tenant_place(uuid,text,text,interval)", MAINTAINER, "plpgsql volatile definer", OPERATOR),
    ("tenant_retire(uuid,text)", MAINTAINER, "plpgsql volatile definer", OPERATOR),
    (
        "tier_apply(text,text,integer,integer,integer,integer,integer,integer)",
        MAINTAINER,
        "sql volatile definer",
        OPERATOR,
    ),
    ("tier_delete(text)", MAINTAINER, "sql volatile definer", OPERATOR),
    ("write_lock()", MAINTAINER, "plpgsql volatile definer", TENANTS),
];

/// Triggers: table, name, and their definition from the time on.
pub(super) const TRIGGERS: &[(&str, &str, &str)] = &[
    (
        "api_keys",
        "api_keys_added",
        "AFTER INSERT OR DELETE ON stellar.api_keys FOR EACH ROW EXECUTE FUNCTION stellar.control_changed()",
    ),
    (
        "api_keys",
        "api_keys_changed",
        "AFTER UPDATE OF revoked_at, expires_at, agent, key_hash ON stellar.api_keys \
         FOR EACH ROW EXECUTE FUNCTION stellar.control_changed()",
    ),
    (
        "audit",
        "audit_added",
        "AFTER INSERT ON stellar.audit REFERENCING NEW TABLE AS added \
         FOR EACH STATEMENT EXECUTE FUNCTION stellar.audit_added()",
    ),
    (
        "memories",
        "memories_deleted",
        "AFTER DELETE ON stellar.memories REFERENCING OLD TABLE AS deleted \
         FOR EACH STATEMENT EXECUTE FUNCTION stellar.memories_deleted()",
    ),
    (
        "memories",
        "memories_inserted",
        "AFTER INSERT ON stellar.memories REFERENCING NEW TABLE AS inserted \
         FOR EACH STATEMENT EXECUTE FUNCTION stellar.memories_inserted()",
    ),
    (
        "memories",
        "memories_updated",
        "AFTER UPDATE ON stellar.memories REFERENCING OLD TABLE AS before_update NEW TABLE AS after_update \
         FOR EACH STATEMENT EXECUTE FUNCTION stellar.memories_updated()",
    ),
    (
        "operations",
        "operations_kept",
        "AFTER INSERT ON stellar.operations REFERENCING NEW TABLE AS kept \
         FOR EACH STATEMENT EXECUTE FUNCTION stellar.operations_kept()",
    ),
    (
        "users",
        "users_changed",
        "AFTER INSERT OR DELETE OR UPDATE ON stellar.users FOR EACH ROW EXECUTE FUNCTION stellar.control_changed()",
    ),
];
