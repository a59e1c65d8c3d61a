//! The indexes of all tenants together keep within their bound: those that hold most for longest go, and their tenants
//! notice nothing.

use harness::{DataPlane, Program, TenantSpec};
use serde_json::{Value, json};

/// Room for the indexes of two of the tenants, or three.
const BOUND: u64 = 128 * 1024;
const TENANTS: usize = 6;
const MEMORIES: usize = 200;
const ROUNDS: usize = 3;

async fn metric(engine: &Program, name: &str) -> u64 {
    let page = engine.metrics().await.unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name} is not in\n{page}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_in_turn_find_what_is_theirs_after_their_index_was_let_go() {
    let bound = BOUND.to_string();
    let bounds = ["--index-memory", &bound, "--index-memory-per-tenant", &bound];
    let plane = DataPlane::start_with(&bounds, &[]).await.unwrap();
    let mut clients = Vec::new();
    for n in 0..TENANTS {
        let tenant = plane.tenant(&format!("in-turn-{n}"), TenantSpec::default()).await.unwrap();
        let client = plane.client(&tenant);
        let store = |m| json!({ "op": "store", "content": format!("keeper{m} of tower {n}") });
        let operations: Vec<Value> = (0..MEMORIES).map(store).collect();
        let answer = client.post("/batch", &json!({ "operations": operations })).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
        clients.push(client);
    }
    let mut evictions = 0;
    for round in 0..ROUNDS {
        for (n, client) in clients.iter().enumerate() {
            let new = format!("lamp{round} of tower {n}");
            assert_eq!(client.store(&new).await.unwrap().status, 201);
            let old = format!("keeper7 of tower {n}");
            for (query, content) in [(format!("lamp{round}"), new), ("keeper7".to_owned(), old)] {
                let recalled = client.recall(&query).await.unwrap();
                assert_eq!(recalled.body[0]["content"], content, "{query}: {}", recalled.text);
                assert_eq!(recalled.body.as_array().map(Vec::len), Some(1), "{query}: {}", recalled.text);
            }
            let bytes = metric(&plane.engine, "stellar_engine_index_memory_bytes").await;
            assert!((1..=BOUND).contains(&bytes), "{bytes} bytes");
        }
        let before = evictions;
        evictions = metric(&plane.engine, "stellar_engine_index_evictions_total").await;
        assert!(evictions > before, "{evictions} after round {round}");
    }
    let builds = metric(&plane.engine, "stellar_engine_index_builds_total").await;
    assert!(builds > TENANTS as u64, "{builds}: those that were let go were built anew");
    let kept = metric(&plane.engine, "stellar_engine_index_tenants").await;
    assert_eq!(builds - evictions, kept, "each index was let go or is there");
}
