//! Notices that a tenant sends in the operator's place: Postgres has no rights on channels. The gateways hear them, believe
//! none, and ask Postgres no more often for them.

use std::time::{Duration, Instant};

use attack::tries as how_many;
use harness::{Client, DataPlane, Program, Tenant, TenantSpec};
use sqlx::AssertSqlSafe;

use crate::ground::{self, Dice, Login, administer};

const TENANTS: usize = 40;

/// Reloads that the gateway has made, of some tenants or of all.
async fn reloads(gateway: &Program) -> u64 {
    let metrics = gateway.metrics().await.unwrap();
    let of_reloads = metrics.lines().filter(|line| line.starts_with("stellar_gateway_directory_reloads_total"));
    of_reloads.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Sends `count` notices in transactions of their own, as both kinds of login: ids of tenants, ids of nobody, rubbish, long
/// ones, and now and then thousands of ids at once.
async fn spoof(plane: &DataPlane, tenants: &[Tenant], count: usize) {
    let mut dice = Dice::new(7);
    let mut sessions = Vec::new();
    for login in [Login::Pooled, Login::Own] {
        sessions.push(ground::session(plane, login, &tenants[0]).await);
    }
    for n in 0..count {
        let id = tenants[dice.roll(tenants.len())].id;
        let sql = match dice.roll(20) {
            0 => "SELECT pg_notify('stellar_control', 'rubbish ' || n) FROM generate_series(1, 100) n".to_owned(),
            1 => "SELECT pg_notify('stellar_control', repeat('x', 7999))".to_owned(),
            2 => {
                "SELECT pg_notify('stellar_control', gen_random_uuid()::text) FROM generate_series(1, 2000)".to_owned()
            }
            3 => "NOTIFY stellar_control".to_owned(),
            4..8 => "SELECT pg_notify('stellar_control', gen_random_uuid()::text)".to_owned(),
            _ => format!("NOTIFY stellar_control, '{id}'"),
        };
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut sessions[n % 2]).await.unwrap();
    }
}

/// The tenants whose key does not open their own memories through this gateway, or opens another's.
async fn strangers(gateway: &Program, tenants: &[Tenant]) -> Vec<String> {
    let mut wrong = Vec::new();
    for tenant in tenants {
        let client = Client::new(&format!("http://127.0.0.1:{}", gateway.port), &tenant.key);
        let answer = client.get("/memories").await.unwrap();
        let own = answer.text.matches(&format!("belongs to {}.", tenant.name)).count();
        let all = answer.text.matches("belongs to").count();
        if answer.status != 200 || own == 0 || own != all {
            wrong.push(format!("{}: {} {}", tenant.name, answer.status, answer.text));
        }
    }
    wrong
}

/// Reloads beyond what time allows: one a notice_pause of 100 ms, one whole reload a second, and some for changes that the
/// test made itself. Negative: fewer.
async fn reloads_beyond(plane: &DataPlane, gateway: &Program, tenants: &[Tenant], count: usize) -> i64 {
    let (before, started) = (reloads(gateway).await, Instant::now());
    spoof(plane, tenants, count).await;
    // The gateway is not stuck: what comes after them is learnt.
    let last = ground::tenants(plane, "spoofed-last", 1, TenantSpec::default()).await.remove(0);
    let client = Client::new(&format!("http://127.0.0.1:{}", gateway.port), &last.key);
    harness::eventually("a new tenant is known", || async {
        (client.get("/stats").await.unwrap().status == 200).then_some(())
    })
    .await;
    let allowed = started.elapsed().as_millis() as i64 * 11 / 1000 + 12;
    (reloads(gateway).await - before) as i64 - allowed
}

#[tokio::test(flavor = "multi_thread")]
async fn spoofed_notices_are_not_believed_and_cost_little() {
    let plane = DataPlane::start().await.unwrap();
    let tenants = ground::tenants(&plane, "spoofed", TENANTS, TenantSpec::default()).await;
    ground::admit(&plane, &tenants[0]).await;
    for tenant in &tenants {
        let stored = harness::eventually("a store works", || async {
            let answer = plane.client(tenant).store(&format!("belongs to {}.", tenant.name)).await.unwrap();
            (answer.status == 201).then_some(answer)
        });
        stored.await;
    }
    let beyond = reloads_beyond(&plane, &plane.gateway, &tenants, how_many(2_000, 20_000)).await;
    assert!(beyond <= 0, "{beyond} reloads more than there may be");
    assert_eq!(strangers(&plane.gateway, &tenants).await, Vec::<String>::new());
    let stranger = Client::new(&plane.url(), "sk-stellar-00000000000000000000000000000000");
    assert_eq!(stranger.get("/stats").await.unwrap().status, 401);

    // A change that is true is learnt in the midst of a flood: a revoked key ends.
    let (revoked, spoofing) = (&tenants[1], spoof(&plane, &tenants, how_many(500, 5_000)));
    let revoking = async {
        administer(&plane, &format!("UPDATE stellar.api_keys SET revoked_at = now() WHERE user_id = '{}'", revoked.id))
            .await;
        let client = plane.client(revoked);
        harness::eventually_within(Duration::from_secs(10), "the revoked key is refused", || async {
            (client.get("/stats").await.unwrap().status == 401).then_some(())
        })
        .await;
    };
    tokio::join!(spoofing, revoking);

    // The checks would notice: a gateway that does not pause, and a change that is true.
    let hasty = plane.another_gateway_with(&["--notice-pause", "0"]).await.unwrap();
    let beyond = reloads_beyond(&plane, &hasty, &tenants, how_many(2_000, 5_000)).await;
    assert!(beyond > 0, "a gateway without a pause is noticed; {beyond}");
    administer(
        &plane,
        &format!(
            "UPDATE stellar.api_keys SET user_id = '{}' WHERE user_id = '{}'; NOTIFY stellar_control, '{}'",
            tenants[2].id, tenants[3].id, tenants[3].id
        ),
    )
    .await;
    administer(&plane, &format!("NOTIFY stellar_control, '{}'", tenants[2].id)).await;
    harness::eventually("a key that opens another tenant is noticed", || async {
        (!strangers(&plane.gateway, &tenants[3..4]).await.is_empty()).then_some(())
    })
    .await;
}
