//! What remains when a Tenant is deleted: with Delete nothing, with Retain the rows.

use harness::eventually_within;
use serde_json::json;

use end_to_end::cluster::{POD, SYSTEM, Tenant, done, get, sql};

#[tokio::test(flavor = "multi_thread")]
async fn delete_leaves_no_object_no_role_and_no_row() {
    for tier in ["free", "pro"] {
        let tenant = Tenant::ready(&format!("leaving-{tier}"), &json!({ "tier": tier, "deletionPolicy": "Delete" }));
        let (id, client) = (tenant.user_id(), tenant.client());
        assert_eq!(client.store("soon gone").await.unwrap().status, 201);
        assert_eq!(rows(&id), "1|1|1|1", "before");
        done(&["delete", "tenant", &tenant.name, "--timeout=180s"]);
        assert_eq!(rows(&id), "0|0|0|0", "{tier}: users, memories, changes, roles");
        assert!(get("secret", &format!("{}-api-key", tenant.name), Some(SYSTEM)).is_none());
        assert!(get("namespace", &tenant.namespace(), None).is_none());
        let refused = client.recall("gone").await.unwrap();
        assert_eq!((refused.status, refused.problem()), (401, Some("invalid-api-key")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retain_keeps_the_rows_for_a_tenant_of_the_same_user_id() {
    let user_id = uuid::Uuid::new_v4().to_string();
    let spec = json!({ "tier": "free", "userId": user_id, "deletionPolicy": "Retain" });
    let tenant = Tenant::ready("staying", &spec);
    let client = tenant.client();
    assert_eq!(client.store("still here in spring").await.unwrap().status, 201);
    done(&["delete", "tenant", &tenant.name, "--timeout=180s"]);
    assert_eq!(sql(&format!("SELECT count(*) FROM stellar.memories WHERE user_id = '{user_id}'")), "1");
    assert_eq!(client.recall("spring").await.unwrap().status, 401, "nobody is served meanwhile");
    // The heir has another name and the same identity.
    let heir = Tenant::ready("heir", &json!({ "tier": "pro", "userId": user_id }));
    let recalled = heir.client().recall("spring").await.unwrap();
    assert_eq!(recalled.body[0]["content"], "still here in spring", "{}", recalled.text);
    drop(tenant);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_cannot_share_an_identity() {
    let user_id = uuid::Uuid::new_v4().to_string();
    let first = Tenant::ready("first-claim", &json!({ "tier": "free", "userId": user_id }));
    let second = Tenant::apply("second-claim", &json!({ "tier": "free", "userId": user_id }));
    eventually_within(POD, "the second is refused with a reason", || async {
        second.object()["status"]["conditions"].to_string().contains("UserIdInUse").then_some(())
    })
    .await;
    assert_eq!(first.client().store("unharmed").await.unwrap().status, 201);
    // Deleting the one that never owned anything must not take the other's rows along.
    done(&["delete", "tenant", "second-claim", "--timeout=180s"]);
    assert_eq!(first.client().recall("unharmed").await.unwrap().body[0]["content"], "unharmed");
}

fn rows(user_id: &str) -> String {
    let role = format!("t_{}", user_id.replace('-', ""));
    sql(&format!(
        "SELECT (SELECT count(*) FROM stellar.users WHERE id = '{user_id}'),
            (SELECT count(*) FROM stellar.memories WHERE user_id = '{user_id}'),
            (SELECT count(*) FROM stellar.changes WHERE user_id = '{user_id}'),
            (SELECT count(*) FROM pg_roles WHERE rolname = '{role}')"
    ))
}
