//! The leading operator looks the database over when it begins to lead, and says what it found.

use std::time::Duration;

use harness::eventually_within;

use crate::{program::Operator, stage::stage};

const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn what_weakens_the_database_is_a_metric_and_one_line_of_the_log() {
    let stage = stage().await;
    let mut superuser = stage.postgres.superuser("stellar").await.unwrap();
    let errors = async |operator: &Operator, count: u32| {
        let line = format!("stellar_operator_database_findings{{severity=\"error\"}} {count}");
        eventually_within(PATIENCE, &line, || async {
            operator.metrics().await?.lines().any(|shown| shown == line).then_some(())
        })
        .await;
    };

    sqlx::query("ALTER TABLE stellar.usage NO FORCE ROW LEVEL SECURITY").execute(&mut superuser).await.unwrap();
    let operator = Operator::start(&stage.start());
    errors(&operator, 1).await;
    let log = operator.log_tail();
    assert_eq!(log.matches("rls-not-forced").count(), 1, "{log}");
    assert!(operator.terminate().await);

    sqlx::query("ALTER TABLE stellar.usage FORCE ROW LEVEL SECURITY").execute(&mut superuser).await.unwrap();
    errors(&Operator::start(&stage.start()), 0).await;
}
