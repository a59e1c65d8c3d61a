//! A tier changes with one kubectl patch, and requests are answered all along.

use serde_json::{Value, json};

use end_to_end::{
    cluster::{POD, SYSTEM, Tenant, apply, done, get, row, told},
    load::Load,
};

#[tokio::test(flavor = "multi_thread")]
async fn free_to_pro_and_back_without_one_failed_request_and_with_the_same_memories() {
    let tenant = Tenant::ready("upgrading", &json!({ "tier": "free" }));
    let client = tenant.client();
    let first = client.store("written before the upgrade").await.unwrap();
    assert_eq!(first.status, 201, "{}", first.text);

    let load = Load::begin(&client, "written before the upgrade");
    tenant.patch(&json!({ "tier": "pro" }));
    tenant.placed("dedicated").await;
    let pods: Value = serde_json::from_str(&done(&["get", "pods", "-n", &tenant.namespace(), "-o", "json"])).unwrap();
    let statuses = pods["items"][0]["status"]["conditions"].as_array().unwrap();
    assert!(statuses.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"), "the dedicated pod is ready");
    load.goes_on().await;

    tenant.patch(&json!({ "tier": "free" }));
    tenant.placed("pooled").await;
    harness::eventually_within(POD, "the engine's namespace is gone after the drain", || async {
        get("namespace", &tenant.namespace(), None).is_none().then_some(())
    })
    .await;

    println!("{} requests were answered during two moves, none failed", load.end().await);
    assert_eq!(client.recall("written before upgrade").await.unwrap().body[0]["id"], first.body["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_team_adds_changes_and_deletes_tiers_of_its_own_without_harm_to_their_tenants() {
    let tiers = [("tiny-shared", "pooled"), ("tiny-own", "dedicated")];
    for (tier, placement) in tiers {
        let tier = json!({
            "apiVersion": "stellar-memory.dev/v1alpha1", "kind": "Tier", "metadata": { "name": tier },
            "spec": { "placement": placement,
                "limits": { "maxMemories": 2, "maxAgents": 1, "maxApiKeys": 1, "requestsPerMinute": 100 } },
        });
        apply(&tier).unwrap();
    }
    let tenants = tiers.map(|(tier, _)| Tenant::apply(&format!("of-{tier}"), &json!({ "tier": tier })));
    for (tenant, (tier, _)) in tenants.iter().zip(tiers) {
        tenant.wait_ready();
        let client = tenant.client();
        for status in [201, 201, 403] {
            assert_eq!(client.store("a small thing").await.unwrap().status, status, "{}", tenant.name);
        }
        a_changed_limit_counts_without_a_restart_and_takes_nothing_away(tenant, tier).await;
    }
    tenants_and_tiers_are_found_by_their_fields();

    // Deleting a tier in use harms nobody, and is told.
    for (tenant, (tier, placement)) in tenants.iter().zip(tiers) {
        done(&["delete", "tier", tier]);
        harness::eventually("the missing tier is told in the row and by an event", || async {
            let row = row(&tenant.name);
            let shown = (&*row.ready, &*row.reason) == ("False", "TierNotFound");
            (shown && told(&tenant.name, "Warning", "TierNotFound")).then_some(())
        })
        .await;
        let row = row(&tenant.name);
        assert_eq!((&*row.tier, &*row.placement), (tier, placement));
        let client = tenant.client();
        assert_eq!(client.recall("small").await.unwrap().status, 200, "{} is still served", tenant.name);
        assert_eq!(client.store("one more").await.unwrap().status, 403, "within the limits that it had");
        assert!(get("tier", tier, None).is_none());
    }
}

/// The limit of a tier goes up and down while its tenant, which has the two memories that fit, is served.
async fn a_changed_limit_counts_without_a_restart_and_takes_nothing_away(tenant: &Tenant, tier: &str) {
    let (client, namespace) = (tenant.client(), tenant.namespace());
    let pods = || {
        let serving = "app.kubernetes.io/component in (gateway,engine)";
        let columns =
            r#"jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[*].restartCount}{"\n"}{end}"#;
        let shown = |namespace: &str| done(&["get", "pods", "-n", namespace, "-l", serving, "-o", columns]);
        (shown(SYSTEM), shown(&namespace))
    };
    let change = |limit: i32| {
        let patch = json!({ "spec": { "limits": { "maxMemories": limit } } }).to_string();
        done(&["patch", "tier", tier, "--type", "merge", "-p", &patch]);
    };
    let is_refused = async |used: i32, limit: i32| {
        let refused = client.store("one thing too many").await.unwrap();
        assert_eq!((refused.status, refused.problem()), (403, Some("memory-quota-reached")), "{}", refused.text);
        assert_eq!((&refused.body["used"], &refused.body["limit"]), (&json!(used), &json!(limit)), "{}", refused.text);
    };
    let before = pods();
    assert!(before.0.lines().count() >= 2, "a gateway and the shared engine: {before:?}");

    change(3);
    harness::eventually("there is room for a third memory", || async {
        let stored = client.store("a third thing").await.unwrap();
        assert!([201, 403].contains(&stored.status), "{}", stored.text);
        (stored.status == 201).then_some(())
    })
    .await;
    is_refused(3, 3).await;

    // Below what is stored: nothing is deleted, and only what adds is refused.
    change(1);
    harness::eventually("the lowered limit is told", || async {
        let refused = client.store("one thing too many").await.unwrap();
        assert_eq!(refused.status, 403, "{}", refused.text);
        (refused.body["limit"] == 1).then_some(())
    })
    .await;
    is_refused(3, 1).await;
    let kept = client.get("/memories").await.unwrap();
    assert_eq!((kept.status, &kept.body["total"]), (200, &json!(3)), "{}", kept.text);
    let recalled = client.recall("third").await.unwrap();
    assert_eq!((recalled.status, &recalled.body[0]["content"]), (200, &json!("a third thing")), "{}", recalled.text);
    let exported = client.get("/export").await.unwrap();
    assert_eq!((exported.status, exported.text.matches(" thing\"").count()), (200, 3), "{}", exported.text);
    let id = kept.body["items"][0]["id"].as_str().unwrap();
    assert_eq!(client.delete(&format!("/forget/{id}")).await.unwrap().status, 200);
    is_refused(2, 1).await;
    assert_eq!(pods(), before, "{}: nothing was restarted", tenant.name);
}

/// The tenants `of-tiny-shared` and `of-tiny-own`, and their tiers.
fn tenants_and_tiers_are_found_by_their_fields() {
    let found = |kind: &str, field: &str| done(&["get", kind, "--field-selector", field, "-o", "name"]);
    assert_eq!(found("tenants", "spec.tier=tiny-own"), "tenant.stellar-memory.dev/of-tiny-own\n");
    for (kind, field) in [("tenants", "status.placement"), ("tiers", "spec.placement")] {
        for (placement, its, not_its) in
            [("pooled", "tiny-shared", "tiny-own"), ("dedicated", "tiny-own", "tiny-shared")]
        {
            let found = found(kind, &format!("{field}={placement}"));
            assert!(found.contains(its) && !found.contains(not_its), "{kind}, {placement}: {found}");
        }
    }
}
