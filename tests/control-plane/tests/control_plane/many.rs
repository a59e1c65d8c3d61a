//! More tenants than one look at the database takes in: drift and usage of the last of them are found all the same.

use std::time::{Duration, Instant};

use harness::eventually_within;
use serde_json::json;
use uuid::Uuid;

use crate::{
    api::{Api, TENANTS, settled},
    program::Operator,
    stage::stage,
};

/// Three looks, of which there is one every six seconds at most, and what putting right takes.
const PATIENCE: Duration = Duration::from_secs(40);

/// Rows of other tenants, more than two looks take in.
const OTHERS: &str = "
INSERT INTO stellar.users (id, name, tier)
SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'other-' || n, 'free' FROM generate_series(1, 250) n";

#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_many_tenants_is_put_right_and_its_usage_shown() {
    let stage = stage().await;
    let api = Api::admin().await;
    let mut database = stage.postgres.superuser("stellar").await.unwrap();
    sqlx::query(OTHERS).execute(&mut database).await.unwrap();
    let _operator = Operator::start(&stage.start());
    let (path, id) = (format!("{TENANTS}/last"), Uuid::from_u128(0xffff_ffff_ffff_4fff_bfff_ffff_ffff_fff0));
    api.tenant("last", &json!({ "tier": "free", "userId": id, "deletionPolicy": "Delete" })).await;
    eventually_within(PATIENCE, "Ready", || async { api.get(&path).await.filter(settled).map(drop) }).await;

    // Roles have no triggers, so nothing tells of this but the look itself.
    let role = format!("t_{}", id.simple());
    let login = format!("ALTER ROLE {role} LOGIN");
    sqlx::query(sqlx::AssertSqlSafe(login)).execute(&mut database).await.unwrap();
    let may_log_in = "SELECT rolcanlogin FROM pg_roles WHERE rolname = $1";
    let start = Instant::now();
    while sqlx::query_scalar::<_, bool>(may_log_in).bind(&role).fetch_one(&mut database).await.unwrap() {
        assert!(start.elapsed() < PATIENCE, "the role of a pooled tenant may still log in");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let used = "UPDATE stellar.usage SET memory_count = 7 WHERE user_id = $1";
    sqlx::query(used).bind(id).execute(&mut database).await.unwrap();
    eventually_within(PATIENCE, "its usage is shown", || async {
        api.get(&path).await.filter(|tenant| tenant["status"]["usage"]["memories"] == 7).map(drop)
    })
    .await;
    sqlx::query("DELETE FROM stellar.users WHERE name LIKE 'other-%'").execute(&mut database).await.unwrap();
    api.delete(&path).await;
    api.gone(&path).await;
}
