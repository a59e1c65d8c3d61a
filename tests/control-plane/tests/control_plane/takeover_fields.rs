//! The confused deputy: a Tenant whose fields, name or Secret point at what is another's (External Secrets CVE-2026-22822).

use std::{collections::BTreeSet, time::Duration};

use harness::eventually_within;
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::{
    api::{Api, TENANTS, condition, settled, tenant},
    kubelet::Kubelet,
    program::Operator,
    stage::{SYSTEM, stage},
};

const PATIENCE: Duration = Duration::from_mins(1);

fn path(tenant: &str) -> String {
    format!("{TENANTS}/{tenant}")
}

fn secret(name: &str) -> String {
    format!("/api/v1/namespaces/{SYSTEM}/secrets/{name}")
}

async fn until(api: &Api, name: &str, what: &str, done: impl Fn(&Value) -> bool) -> Value {
    let (path, done) = (path(name), &done);
    eventually_within(PATIENCE, &format!("{name}: {what}"), || async { api.get(&path).await.filter(done) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_somebody_else_is_never_read_as_a_key_written_or_deleted() {
    let stage = stage().await;
    let api = Api::admin().await;
    let _operator = Operator::start(&stage.start());
    api.tenant("neighbour", &json!({ "tier": "free", "deletionPolicy": "Delete" })).await;
    let neighbour = until(&api, "neighbour", "pooled", settled).await["metadata"]["uid"].clone();
    let owner = json!([{ "apiVersion": "stellar-memory.dev/v1alpha1", "kind": "Tenant", "name": "neighbour", "uid": neighbour }]);
    // What the Secret has, and whether that makes it the Tenant's. The last has the one label that the operator goes by: it
    // is taken, and whatever is looked at below shows it.
    let cases = [
        ("openai", json!({}), false),
        ("labelled", json!({ "labels": { "stellar-memory.dev/tenant": "neighbour" } }), false),
        ("owned", json!({ "ownerReferences": owner }), false),
        ("given", json!({ "labels": { "stellar-memory.dev/tenant": "given" } }), true),
    ];
    let known = "sk-stellar-00000000000000000000000000000000";
    let mut before = Vec::new();
    for (name, mut metadata, taken) in cases {
        metadata["name"] = json!(format!("{name}-api-key"));
        let object =
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": { "api-key": known } });
        let made = api.create(&format!("/api/v1/namespaces/{SYSTEM}/secrets"), &object).await.unwrap();
        before.push((name, taken, made));
        api.tenant(name, &json!({ "tier": "free", "deletionPolicy": "Delete" })).await;
    }
    let mut database = stage.postgres.superuser("stellar").await.unwrap();
    let keys = "SELECT count(*) FROM stellar.api_keys k JOIN stellar.users u ON u.id = k.user_id WHERE u.name = $1";
    for (name, taken, before) in &before {
        let reason = if *taken { "KeyInSecret" } else { "SecretTaken" };
        let found = until(&api, name, reason, |found| condition(found, "KeyReady", "reason") == Some(reason)).await;
        let message = condition(&found, "KeyReady", "message").unwrap();
        if !taken {
            assert_eq!(condition(&found, "Ready", "reason"), Some(reason), "{found}");
            assert!(message.contains(&format!("{name}-api-key exists and was not made for this Tenant")), "{message}");
        }
        assert!(!found.to_string().contains(known), "the status tells nothing of what is in it");
        let opens: i64 = sqlx::query_scalar(keys).bind(*name).fetch_one(&mut database).await.unwrap();
        assert_eq!(opens, i64::from(*taken), "{name}: keys that open something");
        let secret = secret(&format!("{name}-api-key"));
        assert_eq!(api.get(&secret).await.as_ref() != Some(before), *taken, "{name}: it was written");
        api.delete(&path(name)).await;
        api.gone(&path(name)).await;
        assert_eq!(api.get(&secret).await.as_ref(), (!taken).then_some(before), "{name}: after the Tenant");
        api.delete(&secret).await;
    }
}

/// What an identity has in Postgres, as one line.
async fn rows(database: &mut PgConnection, id: &str) -> String {
    let sql = "SELECT concat_ws(' ', u.name, u.tier, u.suspended, u.retired_at IS NULL, u.xmin,
            (SELECT count(*) FROM stellar.api_keys k WHERE k.user_id = u.id AND k.revoked_at IS NULL AND k.expires_at IS NULL),
            (SELECT count(*) FROM pg_roles WHERE rolname = stellar.role_of(u.id)),
            (SELECT string_agg(m.content, ',') FROM stellar.memories m WHERE m.user_id = u.id))
        FROM stellar.users u WHERE u.id = $1::uuid";
    sqlx::query_scalar(sql).bind(id).fetch_optional(database).await.unwrap().unwrap_or_default()
}

/// What a Tenant has got of all that one with an identity has: parts of its status, the Secret, the namespace.
async fn got(api: &Api, name: &str, tenant: &Value) -> Vec<String> {
    let fields = ["tier", "placement", "usage", "namespace", "apiKeySecret"];
    let told = fields.into_iter().filter(|field| !tenant["status"][*field].is_null()).map(str::to_owned);
    let mut got: Vec<_> = told.collect();
    for object in [secret(&format!("{name}-api-key")), format!("/api/v1/namespaces/stellar-tenant-{name}")] {
        if api.get(&object).await.is_some() {
            got.push(object);
        }
    }
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_of_another_tenant_gives_and_takes_nothing() {
    let stage = stage().await;
    let api = Api::admin().await;
    let _operator = Operator::start(&stage.start());
    let mut database = stage.postgres.superuser("stellar").await.unwrap();
    // It asks for all that could show or end something of the holder's.
    let claim = |id: &str| json!({ "tier": "pro", "userId": id, "suspended": true, "deletionPolicy": "Delete" });
    // One whose identity is its uid, one whose identity was given.
    let given = uuid::Uuid::new_v4().to_string();
    api.tenant("holder-uid", &json!({ "tier": "free", "deletionPolicy": "Delete" })).await;
    api.tenant("holder-given", &json!({ "tier": "free", "userId": given, "deletionPolicy": "Delete" })).await;
    for holder in ["holder-uid", "holder-given"] {
        let id = until(&api, holder, "pooled", settled).await["status"]["userId"].as_str().unwrap().to_owned();
        let before = rows(&mut database, &id).await;
        let claimant = format!("claims-{holder}");
        api.tenant(&claimant, &claim(&id)).await;
        let found = until(&api, &claimant, "UserIdInUse", |found| {
            condition(found, "DatabaseReady", "reason") == Some("UserIdInUse")
        })
        .await;
        assert_eq!(got(&api, &claimant, &found).await, Vec::<String>::new(), "{found}");
        assert!(!found["status"].to_string().contains(holder), "the holder's name is not told: {found}");
        assert_eq!(rows(&mut database, &id).await, before, "while both are there");
        api.delete(&path(&claimant)).await;
        api.gone(&path(&claimant)).await;
        assert_eq!(rows(&mut database, &id).await, before, "its deletion deletes nothing of the holder's");
        // What the row of the holder's name protects: under its own name the same deletion takes all.
        api.delete(&path(holder)).await;
        api.gone(&path(holder)).await;
        assert_eq!(rows(&mut database, &id).await, "", "and the holder's deletes it");
    }
    // One that nobody holds any more is given to who asks for it, and the same looks see that.
    let left = uuid::Uuid::new_v4().to_string();
    api.tenant("leaver", &json!({ "tier": "free", "userId": left, "deletionPolicy": "Retain" })).await;
    until(&api, "leaver", "pooled", settled).await;
    api.delete(&path("leaver")).await;
    api.gone(&path("leaver")).await;
    let before = rows(&mut database, &left).await;
    api.tenant("claims-leaver", &claim(&left)).await;
    let found = until(&api, "claims-leaver", "a namespace", |found| found["status"]["namespace"].is_string()).await;
    let got = got(&api, "claims-leaver", &found).await;
    assert_eq!(got.len(), 7, "{got:?}");
    let after = rows(&mut database, &left).await;
    assert!(before.starts_with("leaver ") && after.starts_with("claims-leaver "), "{before} {after}");
    api.delete(&path("claims-leaver")).await;
    api.gone(&path("claims-leaver")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_end_as_the_operators_own_objects_do_collide_with_nothing() {
    let stage = stage().await;
    let api = Api::admin().await;
    let _kubelet = Kubelet::start(&api);
    let _operator = Operator::start(&stage.start());
    let names = ["n", "n-api-key", "n-api-key-api-key", "engine", "stellar-tenant-n", "stellar-operator-db"];
    for name in names {
        api.tenant(name, &json!({ "tier": "pro", "deletionPolicy": "Delete" })).await;
    }
    let mut seen = BTreeSet::new();
    for name in names {
        let found =
            until(&api, name, "dedicated", |found| settled(found) && found["status"]["placement"] == "dedicated").await;
        let uid = &found["metadata"]["uid"];
        let namespace = format!("/api/v1/namespaces/{}", found["status"]["namespace"].as_str().unwrap());
        for object in [secret(found["status"]["apiKeySecret"].as_str().unwrap()), namespace] {
            let made = api.get(&object).await.unwrap();
            assert_eq!(made["metadata"]["labels"]["stellar-memory.dev/tenant"], name, "{object}");
            assert_eq!(made["metadata"]["ownerReferences"].as_array().unwrap().len(), 1, "{object}");
            assert_eq!(&made["metadata"]["ownerReferences"][0]["uid"], uid, "{object}");
            assert!(seen.insert(object.clone()), "{object} is of two Tenants");
        }
    }
    api.delete(&path("n")).await;
    api.gone(&path("n")).await;
    assert_eq!(seen.len(), names.len() * 2);
    for object in &seen {
        let is_of_n = object.ends_with("/n-api-key") || object.ends_with("/stellar-tenant-n");
        assert_eq!(api.get(object).await.is_none(), is_of_n, "{object}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_texts_are_refused_or_stay_where_they_are() {
    let stage = stage().await;
    let api = Api::admin().await;
    for name in ["..", "a/b", "a%2fb", "../x", "a_b", "A", "-a", "a-", "a b", "a\nb", "ä", "{{a}}", "$(id)", ""] {
        let path = format!("{TENANTS}?dryRun=All");
        assert!(api.create(&path, &tenant(name, &json!({ "tier": "free" }))).await.is_err(), "name {name:?}");
    }
    for tier in ["../pro", "pro/../free", "pro\n", " pro", "Pro", "pro;drop", "{{pro}}", "pro'--", "pro\u{0}", "*", ""]
    {
        let path = format!("{TENANTS}?dryRun=All");
        assert!(api.create(&path, &tenant("odd", &json!({ "tier": tier }))).await.is_err(), "tier {tier:?}");
    }
    for id in ["../a", "00000000-0000-0000-0000-00000000000g", "{0b0e6a1c-5c0e-4a53-9f3c-2b8d7e1f4a60}", "' OR '1'='1"]
    {
        let path = format!("{TENANTS}?dryRun=All");
        assert!(
            api.create(&path, &tenant("odd", &json!({ "tier": "free", "userId": id }))).await.is_err(),
            "userId {id:?}"
        );
    }

    // One with nothing odd in it is accepted in the same way.
    let plain = json!({ "tier": "free", "userId": "0b0e6a1c-5c0e-4a53-9f3c-2b8d7e1f4a60" });
    api.create(&format!("{TENANTS}?dryRun=All"), &tenant("odd", &plain)).await.unwrap();

    let _kubelet = Kubelet::start(&api);
    let operator = Operator::start(&stage.start());
    let texts = [
        ("odd-quotes", "\"'`; DROP TABLE stellar.users; -- marker7d"),
        ("odd-lines", "marker7d\n  labels:\n    stellar-memory.dev/tenant: thief\n---\nkind: Secret"),
        ("odd-templates", "{{ .Values.marker7d }} ${marker7d} $(marker7d) %s %n"),
    ];
    for (name, text) in texts {
        api.tenant(name, &json!({ "tier": "pro", "displayName": text, "deletionPolicy": "Delete" })).await;
    }
    let mut database = stage.postgres.superuser("stellar").await.unwrap();
    for (name, text) in texts {
        let found =
            until(&api, name, "dedicated", |found| settled(found) && found["status"]["placement"] == "dedicated").await;
        assert_eq!(found["spec"]["displayName"], text, "kept as it was written");
        let row: String = sqlx::query_scalar("SELECT to_jsonb(u)::text FROM stellar.users u WHERE u.name = $1")
            .bind(name)
            .fetch_one(&mut database)
            .await
            .unwrap();
        let namespace = format!("stellar-tenant-{name}");
        let mut objects = vec![row, found["status"].to_string()];
        objects.push(api.get(&secret(&format!("{name}-api-key"))).await.unwrap().to_string());
        objects.push(api.get(&format!("/api/v1/namespaces/{namespace}")).await.unwrap().to_string());
        for list in [
            format!("/api/v1/namespaces/{namespace}/secrets"),
            format!("/apis/apps/v1/namespaces/{namespace}/deployments"),
            "/apis/events.k8s.io/v1/namespaces/default/events".to_owned(),
        ] {
            objects.push(api.get(&list).await.unwrap().to_string());
        }
        for object in objects {
            assert!(!object.contains("marker7d"), "{name}: {object}");
        }
    }
    assert!(operator.terminate().await, "SIGTERM ends it with code 0");
}
