//! What a user sees when a part fails: an honest error, nothing lost, healed without a hand.

use harness::{DataPlane, TenantSpec};

#[tokio::test(flavor = "multi_thread")]
async fn postgres_restarts_and_all_heals_by_itself() {
    let mut plane = DataPlane::start().await.unwrap();
    let tenant = plane.tenant("heals", TenantSpec::default()).await.unwrap();
    let client = plane.client(&tenant);
    harness::eventually("a store works", || async {
        (client.store("before the crash").await.unwrap().status == 201).then_some(())
    })
    .await;
    plane.postgres.stop().unwrap();
    let refused = client.store("while it is down").await.unwrap();
    assert_eq!((refused.status, refused.problem()), (503, Some("unavailable")), "{}", refused.text);
    assert!(refused.header("retry-after").is_some(), "{:?}", refused.headers);
    // The gateway goes on from its snapshot: it still knows its tenants, and still refuses strangers.
    assert_eq!(
        harness::Client::new(&plane.url(), "sk-stellar-00000000000000000000000000000000")
            .get("/stats")
            .await
            .unwrap()
            .status,
        401
    );
    plane.postgres.start_again().await.unwrap();
    let client = plane.client(&tenant);
    harness::eventually("stores work again", || async {
        (client.store("after the crash").await.unwrap().status == 201).then_some(())
    })
    .await;
    let recalled = client.recall("crash").await.unwrap();
    assert!(
        recalled.text.contains("before the crash") && recalled.text.contains("after the crash"),
        "{}",
        recalled.text
    );
    assert!(!recalled.text.contains("while it is down"), "what was refused is not stored");
    // Notices are heard again: a key that is made now opens.
    let late = plane.client(&plane.tenant("late", TenantSpec::default()).await.unwrap());
    harness::eventually("a new tenant is known", || async {
        (late.get("/stats").await.unwrap().status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_is_killed_and_what_was_acknowledged_is_there() {
    let mut plane = DataPlane::start().await.unwrap();
    let tenant = plane.tenant("survives", TenantSpec::default()).await.unwrap();
    let client = plane.client(&tenant);
    harness::eventually("a store works", || async {
        (client.store("acknowledged").await.unwrap().status == 201).then_some(())
    })
    .await;
    plane.engine.kill().unwrap();
    let refused = client.store("nobody is there").await.unwrap();
    assert!([502, 503].contains(&refused.status), "{}", refused.text);
    assert!(refused.problem().is_some());
    plane.engine.restart().unwrap();
    plane.engine.ready().await;
    let recalled = harness::eventually("a recall works", || async {
        let answer = client.recall("acknowledged").await.unwrap();
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(recalled.body[0]["content"], "acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_gateway_knows_all_and_a_terminated_one_finishes_what_it_began() {
    let mut plane = DataPlane::start().await.unwrap();
    let tenant = plane.tenant("drain", TenantSpec::default()).await.unwrap();
    let client = plane.client(&tenant);
    harness::eventually("a store works", || async {
        (client.store("first").await.unwrap().status == 201).then_some(())
    })
    .await;
    let stores: Vec<_> = (0..50)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.store(&format!("in flight {n}")).await.map(|answer| answer.status) })
        })
        .collect();
    plane.gateway.terminate().unwrap();
    for store in stores {
        // Either answered in full or never accepted (connection refused): nothing in between.
        if let Ok(status) = store.await.unwrap() {
            assert_eq!(status, 201);
        }
    }
    let status = harness::eventually("the gateway ends", || {
        let ended = plane.gateway.exited();
        async move { ended }
    })
    .await;
    assert!(status.success(), "it ends well: {status}");
    plane.gateway.restart().unwrap();
    plane.gateway.ready().await;
    assert_eq!(plane.client(&tenant).recall("first").await.unwrap().status, 200);
}
