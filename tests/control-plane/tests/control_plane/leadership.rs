//! Of two operators one leads. The other takes over when it goes, and a Lease that somebody deletes is made again.

use std::{fs, time::Duration};

use harness::eventually_within;
use serde_json::json;

use crate::{
    api::{Api, TENANTS, settled},
    program::{Operator, Start},
    stage::{SYSTEM, stage},
};

/// A Lease that nobody gives back ends after 15 s.
const PATIENCE: Duration = Duration::from_mins(1);

async fn leads(operator: &Operator) -> Option<bool> {
    let page = operator.metrics().await?;
    let line = page.lines().find_map(|line| line.strip_prefix("stellar_operator_leader "))?;
    Some(line == "1")
}

async fn until_it_leads(operator: &Operator, what: &str) {
    eventually_within(PATIENCE, what, || async { leads(operator).await.filter(|leads| *leads).map(drop) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_operator_takes_over_and_a_deleted_lease_is_made_again() {
    let stage = stage().await;
    let api = Api::admin().await;
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/stellar-operator");
    let first = Operator::start(&stage.start());
    until_it_leads(&first, "the first leads").await;
    let second = Operator::start(&Start { pod: "operator-2", ..stage.start() });
    eventually_within(PATIENCE, "the second is up", || leads(&second)).await;
    let path = format!("{TENANTS}/led");
    let is_as_asked = async |suspended: bool| {
        api.patch(&path, &json!({ "spec": { "suspended": suspended } })).await.unwrap();
        eventually_within(PATIENCE, "the Tenant is as asked for", || async {
            let phase = if suspended { "Suspended" } else { "Ready" };
            api.get(&path).await.filter(|tenant| settled(tenant) && tenant["status"]["phase"] == phase).map(drop)
        })
        .await;
    };
    api.tenant("led", &json!({ "tier": "free", "deletionPolicy": "Delete" })).await;
    is_as_asked(true).await;
    assert_eq!((leads(&first).await, leads(&second).await), (Some(true), Some(false)));

    assert!(first.terminate().await, "SIGTERM ends it with code 0");
    let holder = api.get(&lease).await.unwrap()["spec"]["holderIdentity"].clone();
    until_it_leads(&second, "the second takes over").await;
    assert_ne!(api.get(&lease).await.unwrap()["spec"]["holderIdentity"], holder, "the Lease names another");
    is_as_asked(false).await;

    let uid = api.get(&lease).await.unwrap()["metadata"]["uid"].clone();
    api.delete(&lease).await;
    eventually_within(PATIENCE, "the Lease is made again", || async {
        api.get(&lease).await.filter(|lease| lease["metadata"]["uid"] != uid).map(drop)
    })
    .await;
    until_it_leads(&second, "the second leads on").await;
    is_as_asked(true).await;
    api.delete(&path).await;
    api.gone(&path).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_ends_in_order_when_postgres_is_somewhere_else_and_lets_it_in_there() {
    let stage = stage().await;
    let url_file = stage.start().workdir.path().join("moving-url");
    fs::write(&url_file, &stage.url).unwrap();
    let operator = Operator::start(&Start { url_file: url_file.clone(), ..stage.start() });
    until_it_leads(&operator, "it leads").await;
    let elsewhere = stage.url.replace("127.0.0.1", "localhost");
    assert_ne!(elsewhere, stage.url);
    let logged = async |text: &str| {
        eventually_within(PATIENCE, text, || async { operator.log().contains(text).then_some(()) }).await;
    };

    let (login, place) = elsewhere.rsplit_once('@').unwrap();
    let (login, _) = login.rsplit_once(':').unwrap();
    fs::write(&url_file, format!("{login}:wrong-one@{place}")).unwrap();
    logged("is not let in yet").await;
    assert!(!operator.has_ended(), "{}", operator.log_tail());
    fs::write(&url_file, &elsewhere).unwrap();
    assert!(operator.ends().await, "with code 0");
    logged("Postgres is somewhere else").await;
    assert!(!operator.log().contains("wrong-one"), "the URL is a secret");
}
