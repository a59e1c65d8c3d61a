//! What a tenant meets at the edge of its tier.

use harness::TenantSpec;
use serde_json::json;

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
    let plane = shared().await;
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
