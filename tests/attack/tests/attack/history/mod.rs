//! What happened, checked: agents of several tenants write the same memories at once, by sockets and by requests, while
//! connections break, engines and gateways are killed and tenants move. Then every operation that was acknowledged is in
//! the log in its place, once; every follower heard the log, without a gap; and all of them, every replica and Postgres
//! hold what the acknowledged operations make by the rule of `docs/sync.md`, in the order of the log.
//!
//! `HISTORY_SEED` repeats the choices of a run, `HISTORY_OPERATIONS` makes it longer or shorter.

mod book;
mod check;
mod events;
mod follow;
mod follower;
mod forged;
mod network;
mod record;
mod replay;
mod rest;
mod socket;
mod stage;
mod trouble;

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use attack::tries as how_many;
use check::{History, faults};
use record::Fate;
use stage::Stage;
use trouble::Maker;

use crate::ground::administer;

/// How large a run is.
#[derive(Clone, Copy)]
struct Size {
    tenants: usize,
    operations: usize,
    batch: usize,
    /// One request of so many is sent twice.
    again: usize,
    troubles: usize,
}

fn seed() -> u64 {
    let given = std::env::var("HISTORY_SEED").ok().map(|seed| seed.parse().expect("HISTORY_SEED is a number"));
    let seed = given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u128() as u64);
    println!("HISTORY_SEED={seed}");
    seed
}

/// Writes, makes trouble, and tells what happened to each tenant.
async fn run(stage: &mut Stage, name: &str, size: Size, seed: u64) -> (Vec<History>, Maker) {
    let (start, mut companies) = (Instant::now(), Vec::new());
    for n in 0..size.tenants {
        let name = format!("{name}-{n}");
        companies.push(stage.company(&name, size, seed.wrapping_add(1_000 * n as u64)).await);
    }
    let mut maker = Maker::new(seed);
    maker.run(stage, &companies, size.operations.div_ceil(size.tenants) * size.tenants, size.troubles).await;
    let (took, mut histories) = (start.elapsed(), Vec::new());
    for company in &mut companies {
        let (history, followers) = stage.end(company, Duration::from_mins(2)).await;
        let decided = |fate| history.ops.iter().filter(|op| op.fate == fate).count();
        println!(
            "{}: {} operations, {} changes, {} lost to a newer write, {} to a removal, {} answered once more; \
             {} connections of {} followers, {} changes heard once more, {} times all read anew",
            company.tenant.name,
            history.ops.len(),
            history.log.len(),
            decided(Fate::Newer),
            decided(Fate::Removed) + decided(Fate::Gone),
            company.book.replayed.load(Ordering::Relaxed),
            followers.iter().map(|follower| follower.connections).sum::<usize>(),
            followers.len(),
            followers.iter().map(|follower| follower.repeats).sum::<usize>(),
            history.heard.iter().map(|heard| heard.anew.len()).sum::<usize>(),
        );
        histories.push(history);
    }
    let a_second = size.operations as f64 / took.as_secs_f64();
    println!("{} operations in {took:.1?}, {a_second:.0} a second; {:?}", size.operations, maker.made);
    (histories, maker)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_in_the_log_once_in_order_and_everybody_ends_equal() {
    let given = std::env::var("HISTORY_OPERATIONS").ok();
    let given = given.map(|count| count.parse().expect("HISTORY_OPERATIONS is a number"));
    let operations = given.unwrap_or(how_many(16_000, 1_000_000));
    let size = Size {
        tenants: how_many(2, 3),
        operations,
        batch: how_many(100, 1_000),
        again: 6,
        troubles: how_many(40, 200),
    };
    let (mut stage, seed) = (Stage::prepare().await, seed());
    let (histories, maker) = run(&mut stage, "history", size, seed).await;
    for history in &histories {
        let found = faults(history);
        assert!(found.is_empty(), "{}", found.join("\n"));
        let count = |fate| history.ops.iter().filter(|op| op.fate == fate).count();
        assert!(count(Fate::Newer) > history.ops.len() / 100, "writes met: {} lost", count(Fate::Newer));
    }
    assert!(maker.made.len() >= how_many(5, 10), "there was something to bear: {:?}", maker.made);
}

/// A run without trouble on a system that was weakened; the faults that were found. Every request is sent twice: much of
/// what is carried out twice loses to a later write, and shows only as another answer.
async fn weakened(stage: &mut Stage, name: &str, weaken: &str, restore: &str) -> String {
    administer(&stage.plane, weaken).await;
    let size = Size { tenants: 1, operations: 1_500, batch: 50, again: 1, troubles: 0 };
    let (histories, _) = run(stage, name, size, 1).await;
    administer(&stage.plane, restore).await;
    faults(&histories[0]).join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_loses_repeats_or_confuses_is_noticed() {
    let mut stage = Stage::prepare().await;
    let trigger = |name: &str, what: &str, body: &str| {
        format!(
            "CREATE FUNCTION public.{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
             CREATE TRIGGER {name} BEFORE {what} FOR EACH ROW EXECUTE FUNCTION public.{name}()"
        )
    };
    let drop =
        |name: &str, table: &str| format!("DROP TRIGGER {name} ON stellar.{table}; DROP FUNCTION public.{name}()");

    // Every twentieth update or so is acknowledged and not done.
    let loses =
        "IF (NEW.metadata->>'op')::int % 20 = 0 THEN NEW.content := OLD.content; NEW.metadata := OLD.metadata; END IF;
        RETURN NEW;";
    let weaken = trigger("loses", "UPDATE ON stellar.memories", loses);
    let found = weakened(&mut stage, "loses", &weaken, &drop("loses", "memories")).await;
    assert!(found.contains("never was then or later"), "{found}");

    // What was answered is forgotten, so what is sent once more is done once more.
    let weaken = trigger("repeats", "INSERT ON stellar.operations", "RETURN NULL;");
    let found = weakened(&mut stage, "repeats", &weaken, &drop("repeats", "operations")).await;
    assert!(found.contains("carried out twice") && found.contains("and once more"), "{found}");

    // Some entries of the log are of another memory.
    let confuses = "IF NEW.seq % 100 = 0 THEN NEW.memory_id := gen_random_uuid(); END IF; RETURN NEW;";
    let weaken = trigger("confuses", "INSERT ON stellar.changes", confuses);
    let found = weakened(&mut stage, "confuses", &weaken, &drop("confuses", "changes")).await;
    assert!(found.contains("is lost"), "{found}");
}
