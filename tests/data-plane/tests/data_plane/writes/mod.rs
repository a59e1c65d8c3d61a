//! What holds of every write, whichever way it comes: it is durable before it is answered, its number is that of the log,
//! it happens once, and what is refused takes nothing from the others.

mod batch;
mod last_write;
mod once;
mod single;

use harness::{Answer, Client, Tenant, TenantSpec};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::shared;

/// A tenant with two agents, `default` and `zoe`, and the client of each.
async fn two_agents(name: &str) -> (Tenant, Client, Client) {
    let plane = shared().await;
    let tenant = plane.tenant(name, TenantSpec { max_agents: 2, ..TenantSpec::default() }).await.unwrap();
    let client = plane.client(&tenant);
    let made = client.post("/auth/api-keys", &json!({ "agent": "zoe" })).await.unwrap();
    let zoe = Client::new(&plane.url(), made.body["api_key"].as_str().unwrap());
    harness::eventually("the key works", || async { (zoe.get("/stats").await.unwrap().status == 200).then_some(()) })
        .await;
    (tenant, client, zoe)
}

/// The results of a batch, which is answered as a whole.
async fn batch(client: &Client, operations: Value) -> Vec<Value> {
    let answer = client.post("/batch", &json!({ "operations": operations })).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body["results"].as_array().unwrap().clone()
}

async fn patch(client: &Client, id: &str, body: Value) -> Answer {
    let request = client.request(Method::PATCH, &format!("/memories/{id}")).json(&body);
    Answer::read(request.send().await.unwrap()).await.unwrap()
}

async fn content(client: &Client, id: &str) -> Option<String> {
    let answer = client.get(&format!("/memories/{id}")).await.unwrap();
    (answer.status == 200).then(|| answer.body["content"].as_str().unwrap().to_owned())
}

/// One entry of a tenant's log.
type Entry = (i64, String, Uuid, Option<String>);

/// The tenant's log from its first entry on, which has no gap.
async fn log(tenant: &Tenant) -> Vec<Entry> {
    let entries: Vec<Entry> = sqlx::query_as(
        "SELECT c.seq, c.op, c.memory_id, c.agent FROM stellar.changes c WHERE c.user_id = $1 ORDER BY c.seq",
    )
    .bind(tenant.id.uuid())
    .fetch_all(&mut shared().await.postgres.superuser("stellar").await.unwrap())
    .await
    .unwrap();
    for (n, (seq, ..)) in (1..).zip(&entries) {
        assert_eq!(*seq, n, "{entries:?}");
    }
    entries
}

/// Whether an answer's number is that of an entry which tells of this, by this agent.
fn assert_told(log: &[Entry], seq: &Value, op: &str, id: &Value, agent: &str) {
    let seq = seq.as_i64().unwrap_or_else(|| panic!("no number for {op} {id}"));
    let (_, told, memory, by) = &log[usize::try_from(seq).unwrap() - 1];
    assert_eq!((told.as_str(), memory.to_string().as_str(), by.as_deref()), (op, id.as_str().unwrap(), Some(agent)));
}

fn id_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.body["id"].as_str().unwrap().to_owned()
}
