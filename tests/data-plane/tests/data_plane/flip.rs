//! A tenant moves between a shared and a dedicated engine, and nobody who asks meanwhile notices.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use harness::TenantSpec;

use crate::shared;

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_a_tenant_moves_there_and_back() {
    let plane = shared().await;
    let spec = TenantSpec { max_memories: -1, ..TenantSpec::default() };
    let tenant = plane.tenant("moves", spec).await.unwrap();
    let client = plane.client(&tenant);
    client.opens().await;

    let (stop, stored) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|worker| {
            let (client, stop, stored) = (client.clone(), stop.clone(), stored.clone());
            tokio::spawn(async move {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    let (word, content) = (format!("w{worker}n{n}"), format!("worker {worker} saw w{worker}n{n}"));
                    let answer = client.store(&content).await.unwrap();
                    assert_eq!(answer.status, 201, "{}", answer.text);
                    let recalled = client.recall(&word).await.unwrap();
                    assert_eq!(recalled.status, 200, "{}", recalled.text);
                    assert_eq!(
                        recalled.body[0]["content"],
                        content.as_str(),
                        "its own write is seen: {}",
                        recalled.text
                    );
                    n += 1;
                    stored.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let more = async |n: usize| {
        let from = stored.load(Ordering::Relaxed);
        harness::eventually("the load goes on", || async {
            (stored.load(Ordering::Relaxed) >= from + n).then_some(())
        })
        .await;
    };

    more(20).await;
    let mut engine = plane.dedicated_engine(&tenant).await.unwrap();
    plane.place(&tenant, Some(&engine), "30 s").await.unwrap();
    more(40).await;
    let metrics = engine.metrics().await.unwrap();
    assert!(
        metrics.contains("route=\"/api/v1/store\"") || metrics.contains("store"),
        "the dedicated engine serves:\n{metrics}"
    );
    plane.place(&tenant, None, "30 s").await.unwrap();
    more(20).await;
    engine.terminate().unwrap();
    harness::eventually("the drained engine ends", || {
        let ended = engine.exited();
        async move { ended }
    })
    .await;
    more(20).await;
    // Once more, this time with no drain at all: the gateway must find its way by 421.
    let engine = plane.dedicated_engine(&tenant).await.unwrap();
    plane.place(&tenant, Some(&engine), "0 s").await.unwrap();
    more(20).await;
    plane.place(&tenant, None, "0 s").await.unwrap();
    more(20).await;

    stop.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.unwrap();
    }
    let total = client.get("/stats").await.unwrap().body["total_memories"].as_u64().unwrap();
    assert_eq!(total, stored.load(Ordering::Relaxed) as u64, "each store counted once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dedicated_engine_refuses_other_tenants_and_requests_without_a_capability() {
    let plane = shared().await;
    let (ada, eve) = (
        plane.tenant("own-engine", TenantSpec::default()).await.unwrap(),
        plane.tenant("stranger", TenantSpec::default()).await.unwrap(),
    );
    let engine = plane.dedicated_engine(&ada).await.unwrap();
    let url = format!("http://127.0.0.1:{}/api/v1/stats", engine.port);
    let http = reqwest::Client::new();
    let ask = async |tenant: &harness::Tenant, capability: Option<String>| {
        let mut request = http.get(&url).header(tenancy::TENANT_HEADER, tenant.id.to_string());
        if let Some(capability) = capability {
            request = request.header(tenancy::CAPABILITY_HEADER, capability);
        }
        request.send().await.unwrap().status().as_u16()
    };
    let capability = |tenant: &harness::Tenant| Some(plane.master().capability(tenant.id, 1).expose());
    assert_eq!(ask(&ada, capability(&ada)).await, 200);
    assert_eq!(ask(&eve, capability(&eve)).await, 421);
    assert_ne!(ask(&ada, None).await, 200);
    assert_eq!(ask(&ada, capability(&eve)).await, 421);
}

/// From Postgres 16 on a membership can be without the group's rights, whatever the role is, and must be without taking on
/// the group.
#[tokio::test]
async fn a_tenants_role_that_lost_its_rights_or_its_login_gets_them_again() {
    let plane = shared().await;
    let tenant = plane.tenant("harmed", TenantSpec::default()).await.unwrap();
    let role = format!("t_{}", tenant.id.uuid().simple());
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    let mut operator = plane.login("operator").await.unwrap();
    let version = "SELECT current_setting('server_version_num')::integer";
    let version: i32 = sqlx::query_scalar(version).fetch_one(&mut superuser).await.unwrap();
    // From 16 on each grant is its grantor's.
    let by = if version >= 160_000 { " GRANTED BY stellar_role_manager" } else { "" };
    let mut harms = vec![
        format!("REVOKE stellar_tenants FROM {role}{by}"),
        format!("ALTER ROLE {role} NOINHERIT; REVOKE stellar_tenants FROM {role}{by}"),
        format!("ALTER ROLE {role} NOINHERIT"),
        format!("ALTER ROLE {role} VALID UNTIL '2001-01-01'"),
    ];
    if version >= 160_000 {
        harms.push(format!("GRANT stellar_tenants TO {role} WITH INHERIT FALSE{by}"));
    }
    for harm in harms {
        sqlx::raw_sql(sqlx::AssertSqlSafe(harm.clone())).execute(&mut superuser).await.unwrap();
        for changes in [true, false] {
            let ensure = sqlx::query_scalar("SELECT stellar.role_ensure($1)").bind(tenant.id.uuid());
            let changed: bool = ensure.fetch_one(&mut operator).await.unwrap();
            assert_eq!(changed, changes, "{harm}");
        }
        let whole = "SELECT pg_has_role(rolname, 'stellar_tenants', 'USAGE') AND rolinherit
            AND coalesce(rolvaliduntil > now(), true) FROM pg_roles WHERE rolname = $1";
        let whole: bool = sqlx::query_scalar(whole).bind(&role).fetch_one(&mut superuser).await.unwrap();
        assert!(whole, "{harm}");
        if version >= 160_000 {
            let becomes = sqlx::query_scalar("SELECT pg_has_role($1, 'stellar_tenants', 'SET')").bind(&role);
            let becomes: bool = becomes.fetch_one(&mut superuser).await.unwrap();
            assert!(!becomes, "after {harm} the tenant can take on the group");
        }
    }
}
