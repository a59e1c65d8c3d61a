//! All that the operator keeps for one tenant, in Kubernetes and in Postgres, without what is different each time.

use serde_json::{Map, Value, json};
use sqlx::{Connection as _, PgConnection};
use tenancy::ApiKey;
use uuid::Uuid;

use crate::{
    api::{Api, TENANTS},
    stage::{SYSTEM, decode},
};

const KINDS: [&str; 9] = [
    "/api/v1 secrets",
    "/api/v1 services",
    "/api/v1 serviceaccounts",
    "/api/v1 resourcequotas",
    "/api/v1 limitranges",
    "/apis/apps/v1 deployments",
    "/apis/networking.k8s.io/v1 networkpolicies",
    "/apis/policy/v1 poddisruptionbudgets",
    "/apis/rbac.authorization.k8s.io/v1 rolebindings",
];

const ROWS: &str = "
SELECT jsonb_build_object(
    'users', (SELECT jsonb_agg(to_jsonb(u) - '{created_at,updated_at,retired_at,capability_hash,capability_hash_previous}'::text[]
            - '{role_access_until,pool_access_until}'::text[] || jsonb_build_object('retired', u.retired_at IS NOT NULL,
            'previous', u.capability_hash_previous IS NOT NULL, 'role_access', coalesce(u.role_access_until = 'infinity', false),
            'pool_access', coalesce(u.pool_access_until = 'infinity', false)))
        FROM stellar.users u WHERE u.id = $1),
    'usage', (SELECT jsonb_agg(jsonb_build_array(g.memory_count, g.memory_limit)) FROM stellar.usage g WHERE g.user_id = $1),
    'keys', (SELECT jsonb_agg(jsonb_build_array(k.managed, k.revoked_at IS NULL, k.expires_at IS NULL)) FROM stellar.api_keys k
        WHERE k.user_id = $1),
    'role', (SELECT jsonb_agg(jsonb_build_array(r.rolcanlogin, r.rolconnlimit, r.rolsuper, r.rolcreaterole, r.rolcreatedb,
            r.rolbypassrls, r.rolinherit, (SELECT jsonb_agg(m.roleid::regrole::text) FROM pg_auth_members m WHERE m.member = r.oid)))
        FROM pg_roles r WHERE r.rolname = stellar.role_of($1)))";

/// Of the tenant `name` with the identity `id`.
pub async fn of(api: &Api, database: &mut PgConnection, name: &str, id: Uuid) -> String {
    let namespace = format!("stellar-tenant-{name}");
    let mut all = Map::new();
    let mut key_works: Option<bool> = None;
    for path in [
        format!("{TENANTS}/{name}"),
        format!("/api/v1/namespaces/{SYSTEM}/secrets/{name}-api-key"),
        format!("/api/v1/namespaces/{namespace}"),
    ] {
        let found = api.get(&path).await;
        if let Some(text) = found.as_ref().map(|object| &object["data"]["api-key"]).filter(|text| text.is_string()) {
            let hash = ApiKey::parse(&decode(text)).expect("the Secret holds a key").hash();
            let known = "SELECT EXISTS (SELECT FROM stellar.api_keys WHERE user_id = $1 AND key_hash = $2
                AND revoked_at IS NULL AND expires_at IS NULL)";
            let known = sqlx::query_scalar(known).bind(id).bind(hash.as_bytes().as_slice());
            key_works = Some(known.fetch_one(&mut *database).await.unwrap());
        }
        all.insert(path, found.map_or(Value::Null, |object| normal(object, true)));
    }
    let mut login_works: Option<bool> = None;
    for kind in KINDS {
        let (group, plural) = kind.split_once(' ').unwrap();
        let list = api.get(&format!("{group}/namespaces/{namespace}/{plural}")).await.unwrap();
        for object in list["items"].as_array().unwrap() {
            let found = object["metadata"]["name"].as_str().unwrap();
            if object["metadata"]["labels"]["stellar-memory.dev/tenant"].is_null() {
                continue;
            }
            if object["data"]["url"].is_string() {
                login_works = Some(PgConnection::connect(&decode(&object["data"]["url"])).await.is_ok());
            }
            all.insert(format!("{plural}/{found}"), normal(object.clone(), false));
        }
    }
    let rows: Value = sqlx::query_scalar(ROWS).bind(id).fetch_one(database).await.unwrap();
    let works = json!({ "key": key_works, "login": login_works });
    let text = serde_json::to_string_pretty(&json!({ "kubernetes": all, "postgres": rows, "works": works })).unwrap();
    text.replace(name, "NAME").replace(&id.to_string(), "ID").replace(&id.simple().to_string(), "ID")
}

/// Without uids, versions, times, and the texts of secrets.
fn normal(mut object: Value, with_status: bool) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"] {
        metadata.remove(field);
    }
    for owner in metadata.get_mut("ownerReferences").and_then(Value::as_array_mut).into_iter().flatten() {
        owner["uid"] = Value::Null;
    }
    hide_values(metadata.get_mut("annotations"));
    hide_values(object.pointer_mut("/spec/template/metadata/annotations"));
    hide_values(object.get_mut("data"));
    if !with_status {
        object["status"] = Value::Null;
    }
    for condition in object.pointer_mut("/status/conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        condition["lastTransitionTime"] = Value::Null;
    }
    object
}

fn hide_values(map: Option<&mut Value>) {
    for (_, value) in map.and_then(Value::as_object_mut).into_iter().flatten() {
        *value = Value::Null;
    }
}

/// The lines in which two differ.
pub fn difference(expected: &str, found: &str) -> String {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (expected, found) = (lines(expected), lines(found));
    let missing = expected.iter().filter(|line| !found.contains(line)).map(|line| format!("- {line}"));
    let surplus = found.iter().filter(|line| !expected.contains(line)).map(|line| format!("+ {line}"));
    missing.chain(surplus).take(40).collect::<Vec<_>>().join("\n")
}
