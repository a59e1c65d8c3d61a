//! What the API server itself refuses, rule by rule: an object that breaks the rule, the words that say so, and its neighbour
//! that is fine.

use serde_json::{Value, json};

use crate::{
    api::{Api, TENANTS, TIERS, tenant, tier},
    stage::stage,
};
use harness::eventually;

const ID: &str = "3b9f2c1e-0d4a-4f6b-9a77-0c1d2e3f4a5b";

/// The answer to a creation of which nothing is kept.
async fn try_out(api: &Api, path: &str, object: &Value) -> Result<(), String> {
    let path = format!("{path}?dryRun=All&fieldValidation=Strict");
    api.create(&path, object).await.map(drop).map_err(|status| status.message)
}

/// `good` is accepted; `bad` is refused, and the answer has `message` in it.
async fn check(api: &Api, path: &str, cases: Vec<(Value, Value, &str)>) {
    for (good, bad, message) in cases {
        assert_eq!(try_out(api, path, &good).await, Ok(()), "{good}");
        let refused = try_out(api, path, &bad).await.expect_err(&format!("accepted: {bad}"));
        assert!(refused.contains(message), "{bad}\nwas refused with: {refused}\nexpected: {message}");
    }
}

fn amounts(cpu: &str, memory: &str) -> Value {
    json!({ "cpu": cpu, "memory": memory })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_of_a_tenant_refuses_what_breaks_it_and_says_why() {
    let _stage = stage().await;
    let api = Api::admin().await;
    let with = |field: &str, value: Value| tenant("a", &json!({ "tier": "pro", field: value }));
    let named = |name: &str| tenant(name, &json!({ "tier": "free" }));
    let tiered = |name: Value| tenant("a", &json!({ "tier": name }));
    let limit = |field: &str, value: Value| with("limits", json!({ field: value }));
    let engine = |value: Value| with("engine", value);
    let sized =
        |requests: Value, limits: Value| engine(json!({ "resources": { "requests": requests, "limits": limits } }));
    let small = || amounts("100m", "128Mi");
    let name_rule = "a tenant's name has at most 48 characters a-z, 0-9 and -";
    let cases = vec![
        (named(&"a".repeat(48)), named(&"a".repeat(49)), name_rule),
        (named("a-1"), named("a.1"), name_rule),
        (tiered(json!("free")), tenant("a", &json!({})), "spec.tier: Required value"),
        (tiered(json!("free")), tiered(json!("")), "should be at least 1 chars long"),
        (tiered(json!("t".repeat(63))), tiered(json!("t".repeat(64))), "may not be more than 63"),
        (tiered(json!("my-tier")), tiered(json!("My_Tier")), "should match '^[a-z0-9]([a-z0-9-]*[a-z0-9])?$'"),
        (tiered(json!("promax")), tiered(json!("team")), "tier team was renamed to promax"),
        (with("userId", json!(ID)), with("userId", json!(ID.to_uppercase())), "should match '^[0-9a-f]{8}-"),
        (with("userId", json!(ID)), with("userId", json!("x")), "should be at least 36 chars long"),
        (
            with("userId", json!(ID)),
            with("userId", json!("00000000-0000-0000-0000-000000000000")),
            "the nil UUID cannot be a userId",
        ),
        (with("displayName", json!("Ada")), with("displayName", json!("")), "should be at least 1 chars long"),
        (
            with("displayName", json!("n".repeat(120))),
            with("displayName", json!("n".repeat(121))),
            "may not be more than 120",
        ),
        (with("suspended", json!(true)), with("suspended", json!("yes")), "must be of type boolean"),
        (
            with("deletionPolicy", json!("Retain")),
            with("deletionPolicy", json!("Keep")),
            "supported values: \"Retain\", \"Delete\"",
        ),
        (
            with("deletionPolicy", json!("Delete")),
            with("deletionpolicy", json!("Delete")),
            "unknown field \"spec.deletionpolicy\"",
        ),
        (limit("maxMemories", json!(0)), limit("maxMemories", json!(-2)), "should be greater than or equal to -1"),
        (
            limit("maxMemories", json!(-1)),
            limit("maxMemories", json!(2_147_483_648_u32)),
            "should be less than or equal to 2147483647",
        ),
        (limit("maxMemories", json!(5)), limit("maxMemories", json!("5")), "must be of type integer"),
        (
            limit("maxAgents", json!(1)),
            limit("maxAgents", json!(0)),
            "maxAgents must be at least 1, or -1 for no limit",
        ),
        (limit("maxAgents", json!(-1)), limit("maxAgents", json!(-2)), "should be greater than or equal to -1"),
        (
            limit("maxApiKeys", json!(1)),
            limit("maxApiKeys", json!(0)),
            "maxApiKeys must be at least 1, or -1 for no limit",
        ),
        (limit("maxApiKeys", json!(-1)), limit("maxApiKeys", json!(-2)), "should be greater than or equal to -1"),
        (
            limit("requestsPerMinute", json!(1)),
            limit("requestsPerMinute", json!(0)),
            "should be greater than or equal to 1",
        ),
        (
            limit("requestsPerMinute", json!(10_000_000)),
            limit("requestsPerMinute", json!(10_000_001)),
            "should be less than or equal to 10000000",
        ),
        (limit("maxSockets", json!(0)), limit("maxSockets", json!(-2)), "should be greater than or equal to -1"),
        (
            limit("maxSockets", json!(-1)),
            limit("maxSockets", json!(2_147_483_648_u32)),
            "should be less than or equal to 2147483647",
        ),
        (
            limit("socketMessagesPerSecond", json!(1)),
            limit("socketMessagesPerSecond", json!(0)),
            "should be greater than or equal to 1",
        ),
        (
            limit("socketMessagesPerSecond", json!(100_000)),
            limit("socketMessagesPerSecond", json!(100_001)),
            "should be less than or equal to 100000",
        ),
        (engine(json!({ "replicas": 1 })), engine(json!({ "replicas": 0 })), "should be greater than or equal to 1"),
        (engine(json!({ "replicas": 10 })), engine(json!({ "replicas": 11 })), "should be less than or equal to 10"),
        (
            sized(small(), small()),
            engine(json!({ "resources": { "limits": small() } })),
            "spec.engine.resources.requests: Required value",
        ),
        (
            sized(small(), amounts("0.1", "128Mi")),
            sized(amounts("200m", "128Mi"), small()),
            "requests must not be above limits",
        ),
        (
            sized(small(), amounts("1", "1Gi")),
            sized(amounts("100m", "1Gi"), small()),
            "requests must not be above limits",
        ),
        (sized(small(), small()), sized(amounts("0,1", "128Mi"), small()), "should match '^([0-9]{1,6}m|"),
        (sized(small(), small()), sized(amounts("100m", "128MB"), small()), "should match '^[0-9]{1,15}(Ki|"),
        (sized(small(), small()), sized(amounts("-1", "128Mi"), small()), "should match '^([0-9]{1,6}m|"),
    ];
    check(&api, TENANTS, cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_of_a_tier_refuses_what_breaks_it_and_says_why() {
    let _stage = stage().await;
    let api = Api::admin().await;
    let limits = || json!({ "maxMemories": 10, "maxAgents": 1, "maxApiKeys": 1, "requestsPerMinute": 10 });
    let spec = |placement: &str| json!({ "placement": placement, "limits": limits() });
    let named = |name: &str| tier(name, &spec("pooled"));
    let placed = |placement: &str| tier("t", &spec(placement));
    let limit = |field: &str, value: Value| {
        let mut spec = spec("pooled");
        spec["limits"][field] = value;
        tier("t", &spec)
    };
    let engine = |placement: &str, engine: Value| {
        let mut spec = spec(placement);
        spec["engine"] = engine;
        tier("t", &spec)
    };
    let size = |requests: Value| json!({ "requests": requests, "limits": amounts("1", "1Gi") });
    let replicas = |n: i32| {
        let mut size = size(amounts("1", "1Gi"));
        size["replicas"] = json!(n);
        engine("dedicated", size)
    };
    let small = || size(amounts("100m", "64Mi"));
    let lowest = "should be greater than or equal to -1";
    let cases = vec![
        (named("teams"), named("team"), "tier team was renamed to promax"),
        (named(&"t".repeat(63)), named(&"t".repeat(64)), "a tier's name has at most 63 characters a-z, 0-9 and -"),
        (named("gold-2"), named("gold.2"), "a tier's name has at most 63 characters a-z, 0-9 and -"),
        (placed("dedicated"), placed("shared"), "supported values: \"pooled\", \"dedicated\""),
        (placed("pooled"), tier("t", &json!({ "limits": limits() })), "spec.placement: Required value"),
        (placed("pooled"), tier("t", &json!({ "placement": "pooled" })), "spec.limits: Required value"),
        (limit("maxMemories", json!(0)), limit("maxMemories", json!(-2)), lowest),
        (limit("maxMemories", json!(7)), limit("maxMemories", Value::Null), "spec.limits.maxMemories: Required value"),
        (
            limit("maxAgents", json!(-1)),
            limit("maxAgents", json!(0)),
            "maxAgents must be at least 1, or -1 for no limit",
        ),
        (limit("maxAgents", json!(2)), limit("maxAgents", json!(-2)), lowest),
        (
            limit("maxApiKeys", json!(-1)),
            limit("maxApiKeys", json!(0)),
            "maxApiKeys must be at least 1, or -1 for no limit",
        ),
        (limit("maxApiKeys", json!(2)), limit("maxApiKeys", json!(-2)), lowest),
        (
            limit("requestsPerMinute", json!(1)),
            limit("requestsPerMinute", json!(-1)),
            "should be greater than or equal to 1",
        ),
        (
            limit("requestsPerMinute", json!(1)),
            limit("requestsPerMinute", json!(10_000_001)),
            "should be less than or equal to 10000000",
        ),
        // A Tier without them has those of the smallest: the first row of all has neither.
        (limit("maxSockets", json!(-1)), limit("maxSockets", json!(-2)), lowest),
        (limit("maxSockets", json!(0)), limit("maxSockets", json!("many")), "must be of type integer"),
        (
            limit("socketMessagesPerSecond", json!(1)),
            limit("socketMessagesPerSecond", json!(0)),
            "should be greater than or equal to 1",
        ),
        (
            limit("socketMessagesPerSecond", json!(100_000)),
            limit("socketMessagesPerSecond", json!(100_001)),
            "should be less than or equal to 100000",
        ),
        (engine("dedicated", small()), engine("pooled", small()), "only a dedicated tier has an engine size"),
        (
            engine("dedicated", small()),
            engine("dedicated", size(amounts("2", "64Mi"))),
            "requests must not be above limits",
        ),
        (
            engine("dedicated", small()),
            engine("dedicated", size(amounts("100m", "2Gi"))),
            "requests must not be above limits",
        ),
        (
            engine("dedicated", small()),
            engine("dedicated", size(amounts("many", "64Mi"))),
            "should match '^([0-9]{1,6}m|",
        ),
        (
            engine("dedicated", small()),
            engine("dedicated", json!({ "limits": amounts("1", "1Gi") })),
            "spec.engine.requests: Required value",
        ),
        (replicas(10), replicas(11), "should be less than or equal to 10"),
        (replicas(1), replicas(0), "should be greater than or equal to 1"),
    ];
    check(&api, TIERS, cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_without_limits_of_sockets_gets_those_of_the_smallest() {
    let _stage = stage().await;
    let api = Api::admin().await;
    let limits = json!({ "maxMemories": 10, "maxAgents": 1, "maxApiKeys": 1, "requestsPerMinute": 10 });
    api.create(TIERS, &tier("older", &json!({ "placement": "pooled", "limits": limits }))).await.unwrap();
    let made = api.get(&format!("{TIERS}/older")).await.expect("it was made");
    let limits = &made["spec"]["limits"];
    assert_eq!((&limits["maxSockets"], &limits["socketMessagesPerSecond"]), (&json!(5), &json!(10)), "{made}");
    api.delete(&format!("{TIERS}/older")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_cannot_be_added_changed_or_removed() {
    let _stage = stage().await;
    let api = Api::admin().await;
    api.tenant("with-id", &json!({ "tier": "free", "userId": ID })).await;
    api.tenant("without-id", &json!({ "tier": "free" })).await;
    let other = "3b9f2c1e-0d4a-4f6b-9a77-0c1d2e3f4a5c";
    for (name, id) in [("with-id", json!(other)), ("with-id", Value::Null), ("without-id", json!(ID))] {
        let patched = api.patch(&format!("{TENANTS}/{name}"), &json!({ "spec": { "userId": id } })).await;
        let refused = patched.expect_err("an identity that changes").message;
        assert!(refused.contains("it cannot be added, changed or removed after creation"), "{refused}");
        api.patch(&format!("{TENANTS}/{name}"), &json!({ "spec": { "displayName": "still the same" } })).await.unwrap();
    }
    for name in ["with-id", "without-id"] {
        api.delete(&format!("{TENANTS}/{name}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_tenant_with_an_engine_of_its_own_is_refused_by_what_its_tier_says() {
    let _stage = stage().await;
    let api = Api::admin().await;
    let own = |tier: &str| tenant("a", &json!({ "tier": tier, "engine": { "replicas": 2 } }));
    // The API server learns of a new kind that a policy speaks of a moment after the kind is there.
    let refused = eventually("an engine of a pooled tenant is refused", || async {
        try_out(&api, TENANTS, &own("free")).await.err()
    })
    .await;
    assert!(refused.contains("tier free is pooled: its tenants have no engine of their own"), "{refused}");
    assert_eq!(try_out(&api, TENANTS, &own("pro")).await, Ok(()));
    assert_eq!(try_out(&api, TENANTS, &own("not-there-yet")).await, Ok(()));
    assert_eq!(try_out(&api, TENANTS, &tenant("a", &json!({ "tier": "free" }))).await, Ok(()));

    // To change the tier is to compare anew.
    let path = format!("{TENANTS}/mover");
    api.tenant("mover", &json!({ "tier": "pro", "engine": { "replicas": 2 } })).await;
    let refused =
        api.patch(&path, &json!({ "spec": { "tier": "free" } })).await.expect_err("pooled, with an engine").message;
    assert!(refused.contains("tier free is pooled"), "{refused}");
    api.patch(&path, &json!({ "spec": { "tier": "free", "engine": null } })).await.unwrap();
    api.delete(&path).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_that_becomes_pooled_stops_no_deletion_of_tenants_with_an_engine_of_their_own() {
    let _stage = stage().await;
    let api = Api::admin().await;
    let limits = json!({ "maxMemories": 10, "maxAgents": 1, "maxApiKeys": 1, "requestsPerMinute": 10 });
    let silver = tier("silver", &json!({ "placement": "dedicated", "limits": limits }));
    api.create(TIERS, &silver).await.unwrap();
    let path = format!("{TENANTS}/held");
    api.tenant("held", &json!({ "tier": "silver", "engine": { "replicas": 2 } })).await;
    api.patch(&format!("{TIERS}/silver"), &json!({ "spec": { "placement": "pooled" } })).await.unwrap();
    eventually("the policy knows of the change", || async {
        try_out(&api, TENANTS, &tenant("b", &json!({ "tier": "silver", "engine": { "replicas": 2 } }))).await.err()
    })
    .await;
    api.patch(&path, &json!({ "metadata": { "finalizers": ["stellar-memory.dev/cleanup"] } })).await.unwrap();
    api.delete(&path).await;
    api.patch(&path, &json!({ "metadata": { "finalizers": [] } })).await.unwrap();
    assert!(api.get(&path).await.is_none());
    api.delete(&format!("{TIERS}/silver")).await;
}
