//! What a tenant meets at the edge of its tier.

mod kept;

use std::time::{Duration, Instant};

use harness::{DataPlane, Socket, TenantSpec};
use serde_json::json;
use sqlx::Connection as _;

use crate::shared;

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_over_the_quota_is_refused_and_the_others_are_intact() {
    let plane = shared().await;
    let spec = TenantSpec { max_memories: 30, ..TenantSpec::default() };
    let tenant = plane.tenant("quota", spec).await.unwrap();
    let client = plane.client(&tenant);
    // More at once than fit: exactly those that fit are stored.
    let stores = (0..40).map(|n| {
        let client = client.clone();
        async move { client.store(&format!("fact number {n}")).await.unwrap() }
    });
    let answers = futures::future::join_all(stores).await;
    let stored = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(stored, 30);
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        assert_eq!((refused.status, refused.problem()), (403, Some("memory-quota-reached")), "{}", refused.text);
        assert_eq!((&refused.body["used"], &refused.body["limit"]), (&json!(30), &json!(30)), "{}", refused.text);
        assert_eq!(refused.body["next_tier"], "free", "the smallest tier that would do: {}", refused.text);
    }
    assert_eq!(client.get("/memories").await.unwrap().body["total"], 30);
    // A place that is given back can be taken; a raised limit is effective at once.
    let id = client.get("/memories").await.unwrap().body["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(client.delete(&format!("/forget/{id}")).await.unwrap().status, 200);
    assert_eq!(client.store("fits again").await.unwrap().status, 201);
    assert_eq!(client.store("does not").await.unwrap().status, 403);
    plane.apply(&tenant, TenantSpec { max_memories: 31, ..spec }).await.unwrap();
    assert_eq!(client.store("fits under the new limit").await.unwrap().status, 201);
    // A lowered limit takes nothing away.
    plane.apply(&tenant, TenantSpec { max_memories: 5, ..spec }).await.unwrap();
    assert_eq!(client.get("/memories").await.unwrap().body["total"], 31);
    assert_eq!(client.store("over a lowered limit").await.unwrap().status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_rate_is_kept_and_told_in_headers() {
    // Further gateways, which other tests start, would share the rate.
    let plane = DataPlane::start().await.unwrap();
    let spec = TenantSpec { requests_per_minute: 5, ..TenantSpec::default() };
    let tenant = plane.tenant("rate", spec).await.unwrap();
    let client = plane.client(&tenant);
    let mut refused = None;
    for n in 0..8 {
        let answer = client.get("/stats").await.unwrap();
        if answer.status == 429 {
            assert!(n >= 5, "refused as number {n}");
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.header("x-ratelimit-limit"), Some("5"), "{:?}", answer.headers);
        assert!(answer.header("ratelimit").is_some() && answer.header("ratelimit-policy").is_some());
    }
    let refused = refused.expect("the rate is limited");
    assert_eq!(refused.problem(), Some("rate-limited"));
    let wait: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=12).contains(&wait), "a place frees every 12 s; told {wait}");
    assert_eq!(refused.header("x-ratelimit-remaining"), Some("0"));
    // Another tenant is not affected, and a new rate is effective at once.
    let other = plane.client(&plane.tenant("rate-other", TenantSpec::default()).await.unwrap());
    assert_eq!(other.get("/stats").await.unwrap().status, 200);
    plane.apply(&tenant, TenantSpec { requests_per_minute: 600, ..spec }).await.unwrap();
    harness::eventually("the new rate is effective", || async {
        (client.get("/stats").await.unwrap().status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn smaller_limits_hold_at_once_delete_nothing_and_refuse_only_what_adds() {
    let plane = shared().await;
    let spec = TenantSpec { max_memories: 10, max_agents: 3, max_api_keys: 3, ..TenantSpec::default() };
    let ada = plane.tenant("downgraded", spec).await.unwrap();
    let client = plane.client(&ada);
    let mut ids = Vec::new();
    for n in 0..8 {
        ids.push(client.store(&format!("worth keeping {n}")).await.unwrap().body["id"].as_str().unwrap().to_owned());
    }
    let mut others = Vec::new();
    for agent in ["second", "third"] {
        let made = client.post("/auth/api-keys", &json!({ "agent": agent })).await.unwrap();
        assert_eq!(made.status, 201, "{}", made.text);
        others.push(harness::Client::new(&plane.url(), made.body["api_key"].as_str().unwrap()));
    }

    let small = TenantSpec { max_memories: 3, max_agents: 1, max_api_keys: 1, ..spec };
    plane.apply(&ada, small).await.unwrap();
    let refused = client.store("one too many").await.unwrap();
    assert_eq!((refused.status, refused.problem()), (403, Some("memory-quota-reached")), "{}", refused.text);
    assert_eq!((&refused.body["used"], &refused.body["limit"]), (&json!(8), &json!(3)));
    let refused = client.post("/auth/api-keys", &json!({ "agent": "second" })).await.unwrap();
    assert_eq!((refused.status, refused.problem()), (403, Some("key-quota-reached")), "{}", refused.text);
    assert_eq!(client.get("/memories").await.unwrap().body["total"], 8, "nothing is deleted");
    assert_eq!(client.recall("worth keeping").await.unwrap().body.as_array().unwrap().len(), 5);
    let export = client.get("/export").await.unwrap();
    assert_eq!((export.status, export.text.matches("worth keeping").count()), (200, 8), "{}", export.text);
    for other in &others {
        assert_eq!(other.get("/stats").await.unwrap().status, 200, "every key goes on opening");
    }

    for id in &ids[..6] {
        assert_eq!(client.delete(&format!("/forget/{id}")).await.unwrap().status, 200);
    }
    assert_eq!(client.store("there is room again").await.unwrap().status, 201);
    assert_eq!(client.store("and now there is none").await.unwrap().status, 403);
    plane.apply(&ada, spec).await.unwrap();
    assert_eq!(client.store("a larger tier, at once").await.unwrap().status, 201);
}

/// Both lock what the tenant uses and then the tenant: were the change to go the other way, Postgres would end one of the two.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_changes_while_a_store_waits_fails_neither() {
    let plane = DataPlane::start().await.unwrap();
    let tenant = plane.tenant("changes", TenantSpec::default()).await.unwrap();
    let client = plane.client(&tenant);
    client.opens().await;
    let mut holder = plane.postgres.superuser("stellar").await.unwrap();
    let mut held = holder.begin().await.unwrap();
    let hold = "SELECT FROM stellar.usage WHERE user_id = $1 FOR UPDATE";
    sqlx::query(hold).bind(tenant.id.uuid()).execute(&mut *held).await.unwrap();
    let waiting = async |count: i64| {
        harness::eventually(&format!("{count} wait"), || async {
            let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
            let waiting = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted";
            let found: i64 = sqlx::query_scalar(waiting).fetch_one(&mut superuser).await.unwrap();
            (found == count).then_some(())
        })
        .await;
    };
    let changed = TenantSpec { max_memories: 7, ..TenantSpec::default() };
    let (stored, applied, ()) = tokio::join!(
        client.store("stored meanwhile"),
        async {
            waiting(1).await;
            plane.apply(&tenant, changed).await
        },
        async {
            waiting(2).await;
            held.commit().await.unwrap();
        },
    );
    let stored = stored.unwrap();
    assert_eq!(stored.status, 201, "{}", stored.text);
    applied.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_of_sockets_are_told_and_a_changed_one_counts_at_once() {
    let plane = shared().await;
    let spec = TenantSpec { max_sockets: 7, socket_messages_per_second: 20, ..TenantSpec::default() };
    let tenant = plane.tenant("socket-limits", spec).await.unwrap();
    let client = plane.client(&tenant);
    let told = async |sockets: i32, messages: i32| {
        harness::eventually(&format!("{sockets} sockets and {messages} messages a second are told"), || async {
            let usage = client.get("/auth/usage").await.unwrap();
            let limits = (&usage.body["max_sockets"], &usage.body["socket_messages_per_second"]);
            (limits == (&json!(sockets), &json!(messages))).then_some(())
        })
        .await;
    };
    told(7, 20).await;
    for (max_sockets, socket_messages_per_second) in [(-1, 20), (0, 1), (50, 50)] {
        plane.apply(&tenant, TenantSpec { max_sockets, socket_messages_per_second, ..spec }).await.unwrap();
        told(max_sockets, socket_messages_per_second).await;
    }
    // An operator of the release before does not know of them, and changes nothing.
    let without = "SELECT stellar.tenant_apply($1, $2, 'free', false, 1000, 1, 5, 77, 1, $3)";
    let capability = plane.master().capability(tenant.id, 1).hash();
    sqlx::query(without)
        .bind(tenant.id.uuid())
        .bind(&tenant.name)
        .bind(capability.as_bytes().as_slice())
        .execute(&mut plane.login("operator").await.unwrap())
        .await
        .unwrap();
    harness::eventually("what that operator does know of counts", || async {
        (client.get("/auth/usage").await.unwrap().body["requests_per_minute"] == 77).then_some(())
    })
    .await;
    told(50, 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tiers_have_limits_of_sockets_which_out_of_range_are_refused() {
    let plane = shared().await;
    let mut operator = plane.login("operator").await.unwrap();
    let limits = "SELECT max_sockets, socket_messages_per_second FROM stellar.tiers WHERE name = $1";
    for (tier, expected) in [("free", (5, 10)), ("pro", (50, 50)), ("promax", (1000, 200))] {
        let found: (i32, i32) = sqlx::query_as(limits).bind(tier).fetch_one(&mut operator).await.unwrap();
        assert_eq!(found, expected, "{tier}");
    }
    let apply = "SELECT stellar.tier_apply('limits-of-sockets', 'pooled', 1, 1, 1, 1, $1, $2)";
    for (sockets, messages) in [(-2, 10), (5, 0)] {
        let refused = sqlx::query(apply).bind(sockets).bind(messages).execute(&mut operator).await.unwrap_err();
        let code = refused.as_database_error().and_then(|error| error.code().map(String::from));
        assert_eq!(code.as_deref(), Some("23514"), "{sockets} {messages}: {refused}");
    }
    let of = async |operator: &mut sqlx::PgConnection| -> (i32, i32) {
        sqlx::query_as(limits).bind("limits-of-sockets").fetch_one(operator).await.unwrap()
    };
    sqlx::query(apply).bind(3).bind(4).execute(&mut operator).await.unwrap();
    assert_eq!(of(&mut operator).await, (3, 4));
    sqlx::query(apply).bind(-1).bind(4).execute(&mut operator).await.unwrap();
    assert_eq!(of(&mut operator).await, (-1, 4));
    let without = "SELECT stellar.tier_apply('limits-of-sockets', 'pooled', 2, 1, 1, 1)";
    sqlx::query(without).execute(&mut operator).await.unwrap();
    assert_eq!(of(&mut operator).await, (-1, 4), "an operator of the release before leaves them");
    sqlx::query("SELECT stellar.tier_delete('limits-of-sockets')").execute(&mut operator).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_limit_counts_for_new_sockets_and_for_open_ones() {
    let plane = shared().await;
    let spec = TenantSpec { max_sockets: 1, socket_messages_per_second: 1, ..TenantSpec::default() };
    let tenant = plane.tenant("sockets", spec).await.unwrap();
    let (url, client) = (plane.url(), plane.client(&tenant));
    let enter = async || Socket::enter(&url, &tenant.key, None).await.ok();
    let (mut open, _) = harness::eventually("the first socket is let in", enter).await;
    assert!(enter().await.is_none(), "a second one is over the limit");
    plane.apply(&tenant, TenantSpec { max_sockets: 2, ..spec }).await.unwrap();
    let (second, _) = harness::eventually("a second socket is let in", enter).await;
    assert!(enter().await.is_none(), "a third one is over the limit");
    drop(second);
    harness::eventually("its place is given back", enter).await;

    // A second goes by between operations, until the rate of this open socket is raised.
    let slow = store(&mut open, 3).await;
    assert!(slow > Duration::from_millis(1_500), "{slow:?}");
    plane.apply(&tenant, TenantSpec { socket_messages_per_second: 1_000, ..spec }).await.unwrap();
    harness::eventually("the gateway knows of the new rate", || async {
        let usage = client.get("/auth/usage").await.unwrap();
        (usage.body["socket_messages_per_second"] == 1_000).then_some(())
    })
    .await;
    let fast = store(&mut open, 20).await;
    assert!(fast < Duration::from_secs(10), "20 operations took {fast:?}");
}

/// How long it takes until so many stores, sent at once, are acknowledged.
async fn store(socket: &mut Socket, count: usize) -> Duration {
    let operation = |_| {
        let id = uuid::Uuid::new_v4();
        json!({ "op": "store", "op_id": format!("op-{id}"), "content": format!("memory {id}") })
    };
    let operations: Vec<_> = (0..count).map(operation).collect();
    let start = Instant::now();
    socket.send_all(&operations).await.unwrap();
    for _ in 0..count {
        assert_eq!(socket.frame_of("ack").await.unwrap()["applied"], true);
    }
    start.elapsed()
}
