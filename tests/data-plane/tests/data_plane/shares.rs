//! What one tenant takes of a pooled engine is bounded, and its neighbours notice nothing: connections, memory, imports.

use std::{future::poll_fn, io, pin::pin, task::Poll, time::Duration};

use engine::store::{Access, Caller, Database, Store};
use futures::{
    channel::mpsc::{UnboundedSender, unbounded},
    future::{join_all, select_all},
};
use harness::{Answer, Client, DataPlane, Program, Tenant, TenantSpec, eventually};
use reqwest::{Body, Method, RequestBuilder};
use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{shared, tenant};

const NDJSON: &str = "application/x-ndjson";

/// A request as the gateway makes it.
fn as_gateway(plane: &DataPlane, engine: &Program, tenant: &Tenant, method: Method, path: &str) -> RequestBuilder {
    reqwest::Client::new()
        .request(method, format!("http://127.0.0.1:{}{path}", engine.port))
        .header(tenancy::TENANT_HEADER, tenant.id.to_string())
        .header(tenancy::CAPABILITY_HEADER, plane.master().capability(tenant.id, 1).expose())
        .header(tenancy::AGENT_HEADER, "default")
}

fn lines(name: &str, count: usize, content: &str) -> String {
    (0..count).map(|n| json!({ "id": format!("{name}-{n}"), "content": content }).to_string() + "\n").collect()
}

fn import(plane: &DataPlane, tenant: &Tenant, body: impl Into<Body>) -> JoinHandle<Answer> {
    let request = as_gateway(plane, &plane.engine, tenant, Method::POST, "/api/v1/import");
    let request = request.header("content-type", NDJSON).body(body);
    tokio::spawn(async move { Answer::read(request.send().await.unwrap()).await.unwrap() })
}

/// An import whose file is written as the test goes on.
fn open_import(plane: &DataPlane, tenant: &Tenant) -> (UnboundedSender<io::Result<String>>, JoinHandle<Answer>) {
    let (file, parts) = unbounded();
    (file, import(plane, tenant, Body::wrap_stream(parts)))
}

async fn memories(client: &Client) -> u64 {
    client.get("/stats").await.unwrap().body["total_memories"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn second_import_waits_and_sixth_is_refused() {
    let plane = shared().await;
    let (ada, eve) = (tenant("import-turns").await, tenant("import-neighbour").await);
    let client = plane.client(&ada);
    let (file, first) = open_import(plane, &ada);
    file.unbounded_send(Ok(lines("first", 500, "a note"))).unwrap();
    eventually("the first import is under way", || async { (memories(&client).await == 500).then_some(()) }).await;

    let next: Vec<_> = (0..5).map(|n| import(plane, &ada, lines(&format!("next-{n}"), 1, "another note"))).collect();
    let (refused, _, waiting) = select_all(next).await;
    let refused = refused.unwrap();
    assert_eq!((refused.status, refused.problem()), (503, Some("unavailable")), "{}", refused.text);
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(
        refused.body["detail"].as_str().unwrap().contains("an import of this tenant is under way"),
        "{}",
        refused.text
    );
    assert_eq!(import(plane, &eve, lines("hers", 3, "her note")).await.unwrap().status, 200, "a neighbour imports");
    assert!(client.store("written meanwhile").await.unwrap().status == 201, "and the tenant writes");
    assert!(waiting.iter().all(|import| !import.is_finished()));
    assert_eq!(memories(&client).await, 501);

    file.close_channel();
    let first = first.await.unwrap();
    assert_eq!((first.status, &first.body["imported"]), (200, &json!(500)), "{}", first.text);
    for waited in join_all(waiting).await {
        let waited = waited.unwrap();
        assert_eq!((waited.status, &waited.body["imported"]), (200, &json!(1)), "{}", waited.text);
    }
    assert_eq!(memories(&client).await, 505);
}

#[tokio::test(flavor = "multi_thread")]
async fn import_that_was_given_up_lets_the_next_one_in() {
    let plane = shared().await;
    let ada = tenant("import-given-up").await;
    let client = plane.client(&ada);
    let (file, first) = open_import(plane, &ada);
    file.unbounded_send(Ok(lines("first", 500, "a note"))).unwrap();
    eventually("the first import is under way", || async { (memories(&client).await == 500).then_some(()) }).await;
    let second = import(plane, &ada, lines("second", 2, "another note"));
    first.abort();
    drop(file);
    let second = second.await.unwrap();
    assert_eq!((second.status, &second.body["imported"]), (200, &json!(2)), "{}", second.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_tell_the_gateway_how_many_operations() {
    let plane = shared().await;
    let ada = tenant("counted").await;
    let told = |answer: &Answer| answer.header(tenancy::OPERATIONS_HEADER).map(str::to_owned);
    let operations = json!({ "operations": [
        { "op": "store", "op_id": "a", "content": "x" }, { "op": "store", "op_id": "a", "content": "x" }, { "op": "erase" },
    ] });
    let request = as_gateway(plane, &plane.engine, &ada, Method::POST, "/api/v1/batch").json(&operations);
    let answer = Answer::read(request.send().await.unwrap()).await.unwrap();
    assert_eq!((answer.status, told(&answer).as_deref()), (200, Some("3")), "{}", answer.text);
    let file = lines("line", 2, "a note") + &lines("line", 1, "again") + "rubbish\n\n";
    let answer = import(plane, &ada, file).await.unwrap();
    assert_eq!((answer.status, told(&answer).as_deref()), (200, Some("4")), "{}", answer.text);
    // What broke off was read all the same.
    let file = lines("more", 3, "a note") + "{\"format\":\"other\"}\n";
    let answer = import(plane, &ada, "x\n".to_owned() + &file).await.unwrap();
    assert_eq!((answer.status, told(&answer).as_deref()), (400, Some("1")), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_waits_without_a_connection_and_others_do_not() {
    const CONNECTIONS: u32 = 3;
    let plane = shared().await;
    let (ada, eve) = (tenant("many-transactions").await, tenant("one-transaction").await);
    let caller = |tenant: &Tenant| Caller {
        tenant: tenant.id,
        capability: plane.master().capability(tenant.id, 1),
        agent: None,
        key: None,
    };
    let (ada, eve) = (caller(&ada), caller(&eve));
    let database = Database::from_file(&plane.secrets().join("pool-url"), &CancellationToken::new()).await.unwrap();
    let store = Store::new(&database, CONNECTIONS, None).shared_fairly(2);
    let first = store.begin(&ada, Access::Read).await.unwrap();
    let second = store.begin(&ada, Access::Write).await.unwrap();
    let mut third = pin!(store.begin(&ada, Access::Read));
    assert!(poll_fn(|context| Poll::Ready(third.as_mut().poll(context).is_pending())).await);
    // As often as one likes: it takes nobody's connection.
    for _ in 0..5 {
        store.begin(&eve, Access::Write).await.unwrap().commit().await.unwrap();
    }
    assert!(poll_fn(|context| Poll::Ready(third.as_mut().poll(context).is_pending())).await, "it still waits");
    first.commit().await.unwrap();
    third.await.unwrap().commit().await.unwrap();
    drop(second);
    store.begin(&ada, Access::Write).await.unwrap().commit().await.unwrap();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_that_wait_for_their_tenant_leave_connections_to_others() {
    let plane = DataPlane::start_with(&["--max-connections", "3"], &[]).await.unwrap();
    let ada = plane.tenant("locked", TenantSpec::default()).await.unwrap();
    let eve = plane.tenant("unlocked", TenantSpec::default()).await.unwrap();
    let client = plane.client(&eve);
    client.opens().await;
    let mut holder = plane.postgres.superuser("stellar").await.unwrap();
    let mut lock = holder.begin().await.unwrap();
    let lock_usage = "SELECT pg_backend_pid() FROM stellar.usage u WHERE u.user_id = $1 FOR UPDATE";
    let pid: i32 = sqlx::query_scalar(lock_usage).bind(ada.id.uuid()).fetch_one(&mut *lock).await.unwrap();
    let imports: Vec<_> = (0..5).map(|n| import(&plane, &ada, lines(&n.to_string(), 1, "a note"))).collect();
    let waiting = async || {
        let waits = "SELECT count(*) FROM pg_stat_activity a WHERE $1 = ANY (pg_blocking_pids(a.pid))";
        let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
        sqlx::query_scalar::<_, i64>(waits).bind(pid).fetch_one(&mut superuser).await.unwrap()
    };
    eventually("an import waits for the lock", || async { (waiting().await > 0).then_some(()) }).await;
    for n in 0..10 {
        assert_eq!(client.store(&format!("note {n}")).await.unwrap().status, 201);
        assert_eq!(client.get("/memories").await.unwrap().status, 200);
        let waiting = waiting().await;
        assert!(waiting <= 1, "{waiting} connections wait for one tenant");
    }
    lock.commit().await.unwrap();
    for import in imports {
        let import = import.await.unwrap();
        assert!(matches!(import.status, 200 | 503), "{}", import.text);
    }
}

/// The most memory that the process ever had, in bytes.
fn peak(engine: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", engine.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Asks for an export and reads its beginning alone.
async fn begun_export(plane: &DataPlane, engine: &Program, tenant: &Tenant) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // What the kernel holds is not the engine's.
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    let mut stream = socket.connect(([127, 0, 0, 1], engine.port).into()).await.unwrap();
    let (tenant, capability) = (tenant.id, plane.master().capability(tenant.id, 1).expose());
    let head = format!(
        "GET /api/v1/export HTTP/1.1\r\nhost: x\r\n{}: {tenant}\r\n{}: {capability}\r\n\r\n",
        tenancy::TENANT_HEADER,
        tenancy::CAPABILITY_HEADER
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut beginning = vec![0; 2000];
    stream.read_exact(&mut beginning).await.unwrap();
    assert!(beginning.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&beginning));
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_exports_cost_the_engine_little() {
    const EXPORTS: u64 = 20;
    let plane = shared().await;
    let ada = tenant("unread-exports").await;
    let stored = import(plane, &ada, lines("large", 600, &"東".repeat(10_000))).await.unwrap();
    assert_eq!((stored.status, &stored.body["imported"]), (200, &json!(600)), "{}", stored.text);
    // Of its own: the others' requests take memory, too.
    let engine = plane.another_engine(&[]).await.unwrap();
    drop(begun_export(plane, &engine, &ada).await);
    let before = peak(&engine);
    let mut exports = Vec::new();
    for _ in 0..EXPORTS {
        exports.push(begun_export(plane, &engine, &ada).await);
    }
    for _ in 0..20 {
        let grown = peak(&engine) - before;
        assert!(grown < EXPORTS * 1536 * 1024, "{grown} bytes for {EXPORTS} exports that nobody reads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A whole one has them all.
    let request = as_gateway(plane, &engine, &ada, Method::GET, "/api/v1/export");
    let export = Answer::read(request.send().await.unwrap()).await.unwrap();
    assert_eq!(export.text.lines().count(), 602);
    assert!(export.text.trim_end().ends_with('}') && export.text.contains("\"end\":true,\"count\":600"));
}

#[tokio::test(flavor = "multi_thread")]
async fn page_of_the_log_is_bounded_in_bytes() {
    let plane = shared().await;
    let ada = tenant("large-log").await;
    let stored = import(plane, &ada, lines("large", 60, &"東".repeat(10_000))).await.unwrap();
    assert_eq!(stored.body["imported"], 60, "{}", stored.text);
    let (mut since, mut pages) = (0, 0);
    while since < 60 {
        let path = format!("/internal/v1/changes?since={since}");
        let page = Answer::read(as_gateway(plane, &plane.engine, &ada, Method::GET, &path).send().await.unwrap()).await;
        let page = page.unwrap();
        assert_eq!((page.status, &page.body["resync"]), (200, &Value::Null));
        let changes: &Vec<Value> = page.body["changes"].as_array().unwrap();
        assert!(!changes.is_empty() && page.text.len() < 700 * 1024, "{} bytes", page.text.len());
        for change in changes {
            since += 1;
            assert_eq!(change["seq"], since);
            assert_eq!(change["memory"]["content"].as_str().map(str::len), Some(30_000));
        }
        pages += 1;
    }
    assert!(pages >= 3, "{pages}");
}
