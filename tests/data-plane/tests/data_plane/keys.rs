//! Rotating keys, and who holds some.

use std::time::{Duration, Instant};

use harness::{Answer, Client, TenantSpec};
use serde_json::{Value, json};

use crate::{shared, tenant};

async fn status(client: &Client) -> u16 {
    client.get("/stats").await.unwrap().status
}

async fn made(client: &Client, agent: &str) -> (String, Client) {
    let made = client.post("/auth/api-keys", &json!({ "agent": agent })).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text);
    text_of(&made).await
}

/// The id of a new key, and a client with it.
async fn text_of(made: &Answer) -> (String, Client) {
    let key = Client::new(&shared().await.url(), made.body["api_key"].as_str().unwrap());
    (made.body["id"].as_str().unwrap().to_owned(), key)
}

async fn rotate(client: &Client, id: &str, body: &Value) -> Answer {
    client.post(&format!("/auth/api-keys/{id}/rotate"), body).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_opens_until_its_overlap_ends_and_the_new_one_from_at_once() {
    let plane = shared().await;
    let spec = TenantSpec { max_agents: 3, ..TenantSpec::default() };
    let client = plane.client(&plane.tenant("rotates", spec).await.unwrap());
    client.opens().await;
    let (id, old) = made(&client, "planner").await;
    // The key itself may ask for its successor.
    let begun = Instant::now();
    let rotated = rotate(&old, &id, &json!({ "overlap_seconds": 3, "expires_in_days": 7 })).await;
    assert_eq!((rotated.status, rotated.header("cache-control")), (201, Some("no-store")), "{}", rotated.text);
    assert_eq!((&rotated.body["agent"], &rotated.body["replaces"]["id"]), (&json!("planner"), &json!(id)));
    assert!(rotated.body["expires_at"].is_string() && rotated.body["replaces"]["expires_at"].is_string());
    let (_, new) = text_of(&rotated).await;
    assert_eq!(status(&new).await, 200, "its maker may use it at once");
    if status(&old).await != 200 {
        assert!(begun.elapsed() > Duration::from_secs(3), "the old one opens for its overlap");
    }
    harness::eventually("the old key ends", || async { (status(&old).await == 401).then_some(()) }).await;
    assert!(begun.elapsed() > Duration::from_millis(2500));
    assert_eq!(status(&new).await, 200);
    let again = rotate(&client, &id, &json!({})).await;
    assert_eq!((again.status, again.problem()), (404, Some("not-found")), "{}", again.text);

    let told = client.get("/audit?limit=1").await.unwrap().body["items"][0].clone();
    assert_eq!(
        (&told["what"], &told["agent"], &told["key_id"]),
        (&json!("api-key-rotated"), &json!("planner"), &json!(id))
    );
    assert_eq!((&told["detail"]["key"], &told["detail"]["new_key"]), (&json!(id), &rotated.body["id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_overlap_the_old_key_ends_at_once() {
    let client = shared().await.client(&tenant("rotates-now").await);
    client.opens().await;
    let (id, old) = made(&client, "default").await;
    let rotated = rotate(&client, &id, &json!({ "overlap_seconds": 0 })).await;
    assert_eq!(rotated.status, 201, "{}", rotated.text);
    assert_eq!(status(&old).await, 401);
    assert_eq!(status(&text_of(&rotated).await.1).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rotation_lengthens_the_life_of_an_old_key() {
    let client = shared().await.client(&tenant("rotates-late").await);
    client.opens().await;
    let made = client.post("/auth/api-keys", &json!({ "agent": "default", "expires_in_days": 1 })).await.unwrap();
    let rotated = rotate(&client, made.body["id"].as_str().unwrap(), &json!({ "overlap_seconds": 604_800 })).await;
    assert_eq!(rotated.status, 201, "{}", rotated.text);
    // Postgres keeps microseconds.
    let first_19 = |time: &Value| time.as_str().unwrap()[..19].to_owned();
    assert_eq!(first_19(&rotated.body["replaces"]["expires_at"]), first_19(&made.body["expires_at"]));
    assert_eq!(rotated.body["expires_at"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_may_take_one_key_more_than_the_tier_has_and_not_two() {
    let plane = shared().await;
    let spec = TenantSpec { max_agents: 3, max_api_keys: 3, ..TenantSpec::default() };
    let client = plane.client(&plane.tenant("rotates-much", spec).await.unwrap());
    client.opens().await;
    let (first, _) = made(&client, "one").await;
    let (second, _) = made(&client, "two").await;
    let rotated = rotate(&client, &first, &json!({})).await;
    assert_eq!(rotated.status, 201, "{}", rotated.text);
    // The next one of the same lineage as well as another key.
    for id in [&second, &first, &text_of(&rotated).await.0] {
        let refused = rotate(&client, id, &json!({ "overlap_seconds": 60 })).await;
        assert_eq!((refused.status, refused.problem()), (403, Some("key-quota-reached")), "{}", refused.text);
        assert_eq!((&refused.body["used"], &refused.body["limit"]), (&json!(4), &json!(3)));
    }
    let made = client.post("/auth/api-keys", &json!({ "agent": "one" })).await.unwrap();
    assert_eq!(made.status, 403, "{}", made.text);
    let leaked = rotate(&client, &second, &json!({ "overlap_seconds": 0 })).await;
    assert_eq!(leaked.status, 201, "a key that leaked can be replaced at any time: {}", leaked.text);
    let usage = client.get("/auth/usage").await.unwrap();
    assert_eq!(usage.body["api_keys"], json!({ "used": 4, "limit": 3 }), "{}", usage.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_at_the_same_time_keep_to_the_quota() {
    let plane = shared().await;
    let spec = TenantSpec { max_agents: 9, max_api_keys: 6, ..TenantSpec::default() };
    let client = plane.client(&plane.tenant("rotates-at-once", spec).await.unwrap());
    client.opens().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(made(&client, &format!("agent-{n}")).await.0);
    }
    let body = json!({});
    let answers = futures::future::join_all(ids.iter().map(|id| rotate(&client, id, &body))).await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(made, 1, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_key_is_replaced_by_its_secret_alone() {
    let client = shared().await.client(&tenant("rotates-managed").await);
    client.opens().await;
    let keys = client.get("/auth/api-keys").await.unwrap();
    let managed = keys.body["items"][0]["id"].as_str().unwrap();
    let refused = rotate(&client, managed, &json!({})).await;
    assert_eq!((refused.status, refused.problem()), (409, Some("conflict")), "{}", refused.text);
    assert!(refused.text.contains("deleting the Secret"), "{}", refused.text);
    assert_eq!(status(&client).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_asked_for_within_bounds_and_answers_alike_for_what_is_not_ones_own() {
    let client = shared().await.client(&tenant("rotates-bounds").await);
    let other = shared().await.client(&tenant("rotates-other").await);
    client.opens().await;
    other.opens().await;
    let (id, _) = made(&client, "default").await;
    for body in [
        json!({ "overlap_seconds": -1 }),
        json!({ "overlap_seconds": 604_801 }),
        json!({ "overlap_seconds": "600" }),
        json!({ "expires_in_days": 0 }),
        json!({ "agent": "other" }),
    ] {
        let refused = rotate(&client, &id, &body).await;
        assert_eq!((refused.status, refused.problem()), (400, Some("invalid-request")), "{body}: {}", refused.text);
    }
    let mut answers = Vec::new();
    for unknown in [&id, "0198a3c4-7b1e-7c11-8f00-2d6c2f1e9a01", "no-id"] {
        let refused = rotate(&other, unknown, &json!({})).await;
        assert_eq!(refused.status, 404);
        answers.push(refused.text);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    let bare = client.request(reqwest::Method::POST, &format!("/auth/api-keys/{id}/rotate")).send().await.unwrap();
    assert_eq!(bare.status(), 201, "all of it has defaults");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_told_with_their_keys_and_the_limit() {
    let plane = shared().await;
    let spec = TenantSpec { max_agents: 4, max_api_keys: 9, ..TenantSpec::default() };
    let client = plane.client(&plane.tenant("agents", spec).await.unwrap());
    client.opens().await;
    made(&client, "planner").await;
    let (id, planner) = made(&client, "planner").await;
    made(&client, "b-writer").await;
    assert_eq!(status(&planner).await, 200);
    let told = harness::eventually("the use of a key is noted", || async {
        let told = client.get("/auth/agents").await.unwrap();
        told.body["items"][2]["last_used_at"].is_string().then_some(told)
    });
    let told = told.await;
    assert_eq!(told.body["agents"], json!({ "used": 3, "limit": 4 }), "{}", told.text);
    let items: Vec<_> =
        told.body["items"].as_array().unwrap().iter().map(|item| (&item["agent"], &item["api_keys"])).collect();
    assert_eq!(
        items,
        [(&json!("b-writer"), &json!(1)), (&json!("default"), &json!(1)), (&json!("planner"), &json!(2))]
    );
    assert_eq!(told.body["items"][0]["last_used_at"], Value::Null);
    assert!(told.body.get("next_cursor").is_none());

    let mut names = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let page = client.get(&format!("/auth/agents{query}")).await.unwrap();
        names.extend(
            page.body["items"].as_array().unwrap().iter().map(|item| item["agent"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = page.body["next_cursor"].as_str() else { break };
        query = format!("?limit=2&cursor={cursor}");
    }
    assert_eq!(names, ["b-writer", "default", "planner"]);
    assert_eq!(client.delete(&format!("/auth/api-keys/{id}")).await.unwrap().status, 200);
    assert_eq!(client.get("/auth/agents").await.unwrap().body["items"][2]["api_keys"], json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_has_ended_makes_replaces_and_revokes_none_at_a_gateway_that_has_not_heard() {
    let plane = shared().await;
    let spec = TenantSpec { max_agents: 3, ..TenantSpec::default() };
    let tenant = plane.tenant("ended", spec).await.unwrap();
    let client = plane.client(&tenant);
    client.opens().await;
    let (thief, _) = made(&client, "default").await;
    let (other, _) = made(&client, "default").await;
    // What a gateway asks for that still believes the thief.
    let mut gateway = plane.login("gateway").await.unwrap();
    let mut ask = async |statement: &str| {
        let statement = statement.replace("$1", &format!("'{}'", tenant.id.uuid()));
        let statement = statement.replace("$2", &format!("'{other}'")).replace("$3", &format!("'{thief}'"));
        let error = sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut gateway).await.err();
        error.and_then(|error| Some(error.as_database_error()?.code()?.into_owned()))
    };
    let create = "SELECT stellar.key_create($1, 'a', sha256('a'), 'x', NULL, $3, 'default')";
    let rotate = "SELECT * FROM stellar.key_rotate($1, $2, sha256('b'), 'x', NULL, '1 hour', $3, 'default')";
    let revoke = "SELECT stellar.key_revoke($1, $2, $3, 'default')";
    for statement in [create, rotate, revoke] {
        let statement = format!("BEGIN; {statement}; ROLLBACK");
        assert_eq!(ask(&statement).await, None, "a live key may: {statement}");
    }
    assert_eq!(client.delete(&format!("/auth/api-keys/{thief}")).await.unwrap().status, 200);
    for statement in [create, rotate, revoke] {
        assert_eq!(ask(statement).await.as_deref(), Some("SM404"), "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_replaced_twice_is_not_one_key_more_for_ever() {
    let plane = shared().await;
    let spec = TenantSpec { max_api_keys: 2, ..TenantSpec::default() };
    let client = plane.client(&plane.tenant("twice", spec).await.unwrap());
    client.opens().await;
    let (id, _) = made(&client, "default").await;
    let first = rotate(&client, &id, &json!({ "overlap_seconds": 3600 })).await;
    assert_eq!((first.status, &first.body["expires_at"]), (201, &Value::Null), "{}", first.text);
    let second = rotate(&client, &id, &json!({ "overlap_seconds": 0 })).await;
    assert_eq!(second.status, 201, "without an overlap it is always possible: {}", second.text);
    assert_eq!(second.body["expires_at"], first.body["replaces"]["expires_at"], "it ends as the one before would have");
}
