//! Several gateways and several shared engines are, to a tenant, one service.

use harness::{Client, DataPlane, Program, Tenant, TenantSpec, eventually};

const AT_ONCE: [&str; 2] = ["--pre-stop-lag", "0s"];

async fn shares_with(gateway: &Program, live: usize) {
    eventually(&format!("a gateway knows of {live}"), || async {
        gateway.metrics().await.ok()?.contains(&format!("stellar_gateway_live {live}\n")).then_some(())
    })
    .await;
}

fn client(gateway: &Program, tenant: &Tenant) -> Client {
    Client::new(&format!("http://127.0.0.1:{}", gateway.port), &tenant.key)
}

/// How many of many requests at once are let through.
async fn let_through(client: &Client) -> usize {
    let mut answered = 0;
    for _ in 0..60 {
        let status = client.get("/auth/usage").await.unwrap().status;
        assert!(matches!(status, 200 | 429), "{status}");
        answered += usize::from(status == 200);
    }
    answered
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_share_a_tenants_rate_and_one_that_leaves_gives_its_share_back() {
    let plane = DataPlane::start_with(&[], &AT_ONCE).await.unwrap();
    let second = plane.another_gateway_with(&AT_ONCE).await.unwrap();
    shares_with(&plane.gateway, 2).await;
    shares_with(&second, 2).await;
    let spec = TenantSpec { requests_per_minute: 40, ..TenantSpec::default() };
    let tenant = plane.tenant("shared-rate", spec).await.unwrap();
    for gateway in [&plane.gateway, &second] {
        let passed = let_through(&client(gateway, &tenant)).await;
        // One more comes every three seconds meanwhile.
        assert!((20..25).contains(&passed), "{passed} of 40 a minute passed at one of two gateways");
    }
    second.terminate().unwrap();
    shares_with(&plane.gateway, 1).await;
    let other = plane.tenant("whole-rate", spec).await.unwrap();
    let passed = let_through(&client(&plane.gateway, &other)).await;
    assert!((40..46).contains(&passed), "{passed} of 40 a minute passed at the only gateway");
}

async fn recalls(engine: &Program) -> u64 {
    let page = engine.metrics().await.unwrap();
    let start = "stellar_engine_http_requests_total{route=\"/api/v1/recall\",status=\"2xx\"} ";
    page.lines().find_map(|line| line.strip_prefix(start)).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_stays_with_one_engine_and_is_served_by_the_other_when_that_dies() {
    let plane = DataPlane::start().await.unwrap();
    let mut second = plane.another_engine(&[]).await.unwrap();
    let gateway = plane.gateway_to(&[&plane.engine, &second]).await.unwrap();
    let (mut clients, mut at_second) = (Vec::new(), 0);
    for n in 0..20 {
        let tenant = plane.tenant(&format!("sticky-{n}"), TenantSpec::default()).await.unwrap();
        let client = client(&gateway, &tenant);
        assert_eq!(client.store(&format!("the number is {n}")).await.unwrap().status, 201);
        let before = (recalls(&plane.engine).await, recalls(&second).await);
        for _ in 0..5 {
            assert_eq!(client.recall("number").await.unwrap().status, 200);
        }
        let went = (recalls(&plane.engine).await - before.0, recalls(&second).await - before.1);
        assert!(matches!(went, (5, 0) | (0, 5)), "one tenant's requests went to both: {went:?}");
        at_second += usize::from(went.1 == 5);
        clients.push(client);
    }
    assert!((1..20).contains(&at_second), "tenants are spread over the engines: {at_second} of 20 at the second");
    second.kill().unwrap();
    for (n, client) in clients.iter().enumerate() {
        let recalled = client.recall("number").await.unwrap();
        assert_eq!(recalled.body[0]["content"], format!("the number is {n}").as_str(), "{}", recalled.text);
    }
}
