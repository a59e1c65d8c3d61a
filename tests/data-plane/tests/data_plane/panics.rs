//! A request that panics or is given up within a tenant's transaction leaves nothing on its connection for the next one.

use std::{
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use engine::store::{Access, Caller, Database, MemoryPage, Store, StoreError, TenantTx};
use futures::{StreamExt as _, stream};
use harness::{DataPlane, TenantSpec, eventually};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

const TENANTS: usize = 20;
const CONNECTIONS: u32 = 4;
const REQUESTS: usize = 2_000;
const AT_ONCE: usize = 16;

fn mark(n: usize) -> String {
    format!("of tenant number {n}")
}

/// Whether the transaction sees what its tenant has, and that alone.
async fn sees(tx: &mut TenantTx, mark: &str) -> Result<bool, StoreError> {
    let page = MemoryPage { zone: None, after: None, offset: 0, limit: 10 };
    let list = tx.list(page, OffsetDateTime::now_utc()).await?;
    Ok(list.len() == 1 && list[0].content == mark)
}

/// How a request ends.
#[derive(Clone, Copy)]
enum End {
    Commit,
    Drop,
    /// After that many microseconds, wherever it is.
    Panic(u64),
}

async fn request(store: Store, caller: Caller, mark: String, access: Access, end: End) -> bool {
    let work = async {
        let mut tx = store.begin(&caller, access).await.unwrap();
        let right = sees(&mut tx, &mark).await.unwrap() && sees(&mut tx, &mark).await.unwrap();
        if let End::Commit = end {
            tx.commit().await.unwrap();
        }
        right
    };
    let End::Panic(after) = end else { return work.await };
    tokio::select! {
        biased;
        // As a panic goes, without its message.
        () = tokio::time::sleep(Duration::from_micros(after)) => resume_unwind(Box::new("on purpose")),
        right = work => right,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_within_a_transaction_is_nothing_to_the_next_tenant_on_its_connection() {
    let plane = DataPlane::start().await.unwrap();
    let mut callers = Vec::new();
    for n in 0..TENANTS {
        let tenant = plane.tenant(&format!("panics-{n}"), TenantSpec::default()).await.unwrap();
        let client = plane.client(&tenant);
        eventually("the key opens", || async { (client.store(&mark(n)).await.unwrap().status == 201).then_some(()) })
            .await;
        let capability = plane.master().capability(tenant.id, 1);
        callers.push(Caller { tenant: tenant.id, capability, agent: Some("default".to_owned()), key: None });
    }
    let url = plane.secrets().join("pool-url");
    let database = Database::from_file(&url, &CancellationToken::new()).await.unwrap();
    let store = Store::new(&database, CONNECTIONS, None);
    let panicked = Arc::new(AtomicUsize::new(0));
    let wrong: Vec<usize> = stream::iter(0..REQUESTS)
        .map(|n| {
            // Each tenant in each of the ways, on whatever connection is free.
            let of = n * 7 % TENANTS;
            let access = if n % 3 == 0 { Access::Write } else { Access::Read };
            let end = match n % 4 {
                0 => End::Commit,
                1 => End::Drop,
                _ => End::Panic((n as u64 * 37) % 4_000),
            };
            let task = tokio::spawn(request(store.clone(), callers[of].clone(), mark(of), access, end));
            let panicked = panicked.clone();
            async move {
                let right = task.await.unwrap_or_else(|error| {
                    assert!(matches!(end, End::Panic(_)), "only on purpose: {error}");
                    panicked.fetch_add(1, Ordering::Relaxed);
                    true
                });
                (!right).then_some(n)
            }
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert_eq!(wrong, Vec::<usize>::new(), "requests that saw something else than their tenant's");
    let panicked = panicked.load(Ordering::Relaxed);
    println!("{panicked} of {REQUESTS} requests panicked");
    assert!(panicked > REQUESTS / 20, "there was something to bear: {panicked}");
    // Nothing stays locked, and the check would notice another tenant's memory.
    let mut tx = store.begin(&callers[0], Access::Write).await.unwrap();
    assert!(sees(&mut tx, &mark(0)).await.unwrap() && !sees(&mut tx, &mark(1)).await.unwrap());
    tx.commit().await.unwrap();
    assert!(store.connections().0 <= CONNECTIONS);
}
