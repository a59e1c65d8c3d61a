//! Each bound switched off: the check that holds with it does not hold without it.

use std::convert::Infallible;

use bytes::Bytes;
use harness::TenantSpec;
use http::Response;
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::{
    database, readers,
    stage::{FREE, Setting, Stage},
    tenants, writers,
};
use crate::ground::administer;

/// More memory than the test could make an index take.
const UNBOUNDED: &str = "8Gi";
/// Bytes of an answer, as many as the API's description has.
const ANSWER: usize = 136_000;

/// Asserts that a behaviour finds what says this.
async fn noticed(setting: Setting, says: &str, behaviour: impl AsyncFn(&Stage) -> Vec<String>) {
    let stage = Stage::start(setting).await;
    says_so(&behaviour(&stage).await, says);
}

fn says_so(found: &[String], says: &str) {
    assert!(found.iter().any(|one| one.contains(says)), "what has no bound is noticed: {found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_answers_without_an_end_are_noticed() {
    let setting = Setting::weakened("without a write timeout: ").gateway("--write-timeout", "3600");
    noticed(setting, "are still open", readers::page_files).await;
}

/// The gateway has no flag for this: a server that goes on answering while nobody takes its answers.
#[tokio::test(flavor = "multi_thread")]
async fn answers_made_ahead_are_noticed() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let answer =
            service_fn(async |_| Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(vec![b'a'; ANSWER])))));
        // It ends when the client does.
        let _ = http1::Builder::new().pipeline_flush(true).serve_connection(TokioIo::new(stream), answer).await;
    });
    says_so(&readers::documents_of(port, std::process::id()).await, "the server grew by");
}

#[tokio::test(flavor = "multi_thread")]
async fn event_streams_without_a_limit_are_noticed() {
    let attacker = TenantSpec { max_sockets: -1, ..FREE };
    let setting = Setting { attacker, ..Setting::weakened("without a limit of sockets: ") };
    noticed(setting, "were opened", writers::too_many_streams).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_without_a_rate_are_noticed() {
    let setting = Setting::weakened("without a rate of operations: ").gateway("--operations-per-request", "1000000");
    noticed(setting, "operations were carried out", database::rewrites).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unbounded_index_is_noticed() {
    let setting = Setting::weakened("without a bound of indexes: ")
        .engine("--index-memory", UNBOUNDED)
        .engine("--index-memory-per-tenant", UNBOUNDED);
    noticed(setting, "the pooled engine grew by", tenants::ideographs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_all_connections_is_noticed() {
    let setting = Setting::weakened("without a bound of connections: ").engine("--connections-per-tenant", "1000");
    noticed(setting, "connections at a time", database::slow_questions).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_an_end_is_noticed() {
    let stage = Stage::start(Setting::weakened("without a bound of the log: ")).await;
    administer(
        stage.plane(),
        "CREATE OR REPLACE FUNCTION stellar.entries_kept(memory_limit integer) RETURNS bigint LANGUAGE sql IMMUTABLE
             AS $$ SELECT 1000000000::bigint $$",
    )
    .await;
    let found = database::entries(&stage).await;
    says_so(&found, "rows of changes are kept");
    says_so(&found, "rows of operations are kept");
}
