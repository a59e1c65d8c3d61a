//! Inner credentials are rotated by counting up `spec.rotation`, and nobody who asks notices: neither of a tenant with an
//! engine of its own, whose password is rotated, nor of one in the pool, for which the capability is the only proof.

use end_to_end::{
    cluster::{POD, Tenant, get, sql},
    load::Load,
};
use harness::eventually_within;
use serde_json::json;

const CONTENT: &str = "written before the rotation";

#[tokio::test(flavor = "multi_thread")]
async fn capability_and_password_are_rotated_without_one_failed_request_in_the_pool_and_outside() {
    let placements = ["dedicated", "pooled"];
    let tenants = [
        Tenant::apply("rotated", &json!({ "tier": "pro" })),
        Tenant::apply("rotated-pooled", &json!({ "tier": "free" })),
    ];
    tenants.iter().for_each(Tenant::wait_ready);
    let (clients, ids) = (tenants.each_ref().map(Tenant::client), tenants.each_ref().map(Tenant::user_id));
    for client in &clients {
        assert_eq!(client.store(CONTENT).await.unwrap().status, 201);
    }
    let namespace = tenants[0].namespace();
    let secret = || get("secret", "engine-db", Some(&namespace)).unwrap();
    let verifier =
        || sql(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = 't_{}'", ids[0].replace('-', "")));
    let user = |id: &str, column: &str| sql(&format!("SELECT {column} FROM stellar.users WHERE id = '{id}'"));
    let capabilities = || ids.each_ref().map(|id| user(id, "capability_hash"));
    let before = (secret()["data"]["url"].clone(), capabilities());
    let is_superuser = sql("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == "t";
    let old_verifier = is_superuser.then(verifier);

    let loads = clients.each_ref().map(|client| Load::begin(client, CONTENT));
    for rotation in 1..=2 {
        for tenant in &tenants {
            tenant.patch(&json!({ "rotation": rotation }));
        }
        eventually_within(POD, &format!("rotation {rotation} is complete"), || async {
            let secret = secret();
            let done = secret["metadata"]["annotations"]["stellar-memory.dev/rotation"].as_str()
                == Some(&rotation.to_string());
            (done && secret["data"]["url-next"].is_null()).then_some(())
        })
        .await;
        for (tenant, placement) in tenants.iter().zip(placements) {
            tenant.placed(placement).await;
        }
        for load in &loads {
            load.goes_on().await;
        }
    }
    // What was valid before the last rotation ends after its overlap; here at once.
    for id in &ids {
        sql(&format!("UPDATE stellar.users SET capability_previous_until = now() WHERE id = '{id}'"));
    }
    for load in &loads {
        load.goes_on().await;
    }
    for (load, placement) in loads.into_iter().zip(placements) {
        println!("{placement}: {} requests were answered during two rotations, none failed", load.end().await);
    }

    assert_ne!(secret()["data"]["url"], before.0, "the password is another");
    if let Some(old) = old_verifier {
        assert_ne!(verifier(), old, "Postgres has another verifier");
    }
    let after = capabilities();
    for (n, placement) in placements.into_iter().enumerate() {
        assert_ne!(after[n], before.1[n], "{placement}: the capability is another");
        assert_eq!(user(&ids[n], "capability_generation"), "3", "{placement}");
        let told = clients[n].get("/audit").await.unwrap();
        let rotations =
            told.body["items"].as_array().unwrap().iter().filter(|entry| entry["what"] == "credentials-rotated");
        assert_eq!(rotations.count(), 2, "{placement}: {}", told.text);
    }
    let back = end_to_end::cluster::kubectl(
        &["patch", "tenant", &tenants[0].name, "--type", "merge", "-p", r#"{"spec":{"rotation":1}}"#],
        None,
    );
    assert!(!back.status.success() && String::from_utf8_lossy(&back.stderr).contains("only counts up"));
}
