//! Inner credentials are rotated by counting up `spec.rotation`, and nobody who asks notices.

use end_to_end::{
    cluster::{POD, Tenant, get, sql},
    load::Load,
};
use harness::eventually_within;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn capability_and_password_are_rotated_without_one_failed_request() {
    let tenant = Tenant::ready("rotated", &json!({ "tier": "pro" }));
    let (client, id, namespace) = (tenant.client(), tenant.user_id(), tenant.namespace());
    let content = "written before the rotation";
    assert_eq!(client.store(content).await.unwrap().status, 201);
    let secret = || get("secret", "engine-db", Some(&namespace)).unwrap();
    let verifier = || sql(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = 't_{}'", id.replace('-', "")));
    let capability = || sql(&format!("SELECT capability_hash FROM stellar.users WHERE id = '{id}'"));
    let before = (secret()["data"]["url"].clone(), capability());
    let is_superuser = sql("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == "t";
    let old_verifier = is_superuser.then(verifier);

    let load = Load::begin(&client, content);
    for rotation in 1..=2 {
        tenant.patch(&json!({ "rotation": rotation }));
        eventually_within(POD, &format!("rotation {rotation} is complete"), || async {
            let secret = secret();
            let done = secret["metadata"]["annotations"]["stellar-memory.dev/rotation"].as_str()
                == Some(&rotation.to_string());
            (done && secret["data"]["url-next"].is_null()).then_some(())
        })
        .await;
        tenant.placed("dedicated").await;
        load.goes_on().await;
    }
    // What was valid before the last rotation ends after its overlap; here at once.
    sql(&format!("UPDATE stellar.users SET capability_previous_until = now() WHERE id = '{id}'"));
    load.goes_on().await;
    println!("{} requests were answered during two rotations, none failed", load.end().await);

    assert_ne!(secret()["data"]["url"], before.0, "the password is another");
    assert_ne!(capability(), before.1, "the capability is another");
    assert_eq!(sql(&format!("SELECT capability_generation FROM stellar.users WHERE id = '{id}'")), "3");
    if let Some(old) = old_verifier {
        assert_ne!(verifier(), old, "Postgres has another verifier");
    }
    let told = client.get("/audit").await.unwrap();
    let rotations =
        told.body["items"].as_array().unwrap().iter().filter(|entry| entry["what"] == "credentials-rotated");
    assert_eq!(rotations.count(), 2, "{}", told.text);
    let back = end_to_end::cluster::kubectl(
        &["patch", "tenant", &tenant.name, "--type", "merge", "-p", r#"{"spec":{"rotation":1}}"#],
        None,
    );
    assert!(!back.status.success() && String::from_utf8_lossy(&back.stderr).contains("only counts up"));
}
