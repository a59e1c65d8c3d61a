//! What isolation costs, among half a million rows of many tenants: the lists and stores of agents with row-level security
//! and without, and where it is enforced the same statements through the policies as the pool and past them as the
//! superuser, in turn. Statements are unnamed, as the engine's are.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use harness::{Client, DataPlane, Tenant, TenantSpec};
use sqlx::{PgConnection, Row as _};

use crate::table::{figure, median, ratio, timed};

const ROUNDS: usize = 15;
/// Requests of agents at a time, and of each of these in a round. Many short rounds: the machine's drift meets both sides.
const AGENTS: usize = 4;
const REQUESTS_A_ROUND: usize = 25;
const ROUNDS_OF_AGENTS: usize = 100;
const ROWS: i64 = 500_000;

struct Statement {
    what: &'static str,
    /// How often a round runs it.
    count: usize,
    rows: usize,
    sql: &'static str,
}

const STATEMENTS: [Statement; 4] = [
    Statement {
        what: "the smallest read (5 ids)",
        count: 500,
        rows: 5,
        sql: "SELECT id FROM stellar.memories WHERE user_id = $1 ORDER BY total_score DESC, id DESC LIMIT 5",
    },
    Statement {
        what: "a list of 50",
        count: 250,
        rows: 50,
        sql: "SELECT id, content, metadata, session, speaker, occurred_at, source, agent, created_at, last_recalled_at,
                  recall_count, importance, emotion, zone, total_score
              FROM stellar.memories WHERE user_id = $1 ORDER BY total_score DESC, id DESC LIMIT 50",
    },
    Statement {
        what: "a timeline of 100",
        count: 150,
        rows: 100,
        sql: "SELECT id, content, metadata, session, speaker, occurred_at, source, agent, created_at, last_recalled_at,
                  recall_count, importance, emotion, zone, total_score
              FROM stellar.memories WHERE user_id = $1 AND occurred_at <= now() ORDER BY occurred_at, id LIMIT 100",
    },
    Statement {
        what: "a store of 16 together",
        count: 60,
        rows: 16,
        sql: "INSERT INTO stellar.memories (user_id, id, content, zone, total_score)
              SELECT $1, gen_random_uuid(), 'note ' || n, 2, 0.4 FROM generate_series(1, 16) n RETURNING id",
    },
];

/// What `enter` sets beside the tenant. The superuser's statements run with it too: timers cost the same without policies.
const SETTINGS: &str = "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL jit = off;
    SET LOCAL statement_timeout = '10s'; SET LOCAL lock_timeout = '5s';
    SET LOCAL idle_in_transaction_session_timeout = '15s'; SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD'";

pub async fn measure() -> Result<()> {
    let plane = DataPlane::start().await?;
    let tenant = plane.tenant("bench", TenantSpec { max_memories: -1, ..TenantSpec::default() }).await?;
    let mut superuser = plane.postgres.superuser("stellar").await?;
    fill(&mut superuser, &tenant).await?;
    agents(&plane.client(&tenant), &mut superuser).await?;
    let mut pool = plane.login("pool").await?;
    sqlx::raw_sql("BEGIN").execute(&mut superuser).await?;
    sqlx::raw_sql(SETTINGS).execute(&mut superuser).await?;
    sqlx::raw_sql("BEGIN").execute(&mut pool).await?;
    enter(&plane, &mut pool, &tenant).await?;
    figure("one call of current_tenant()", current_tenant(&mut pool).await? * 1e6, "µs");
    for statement in &STATEMENTS {
        let mut speeds = Vec::new();
        for round in 0..=ROUNDS {
            // In turn, and each first as often as the other: who comes second finds what the first left behind.
            let (under, past) = if round % 2 == 0 {
                let under = seconds(&mut pool, &tenant, statement).await?;
                (under, seconds(&mut superuser, &tenant, statement).await?)
            } else {
                let past = seconds(&mut superuser, &tenant, statement).await?;
                (seconds(&mut pool, &tenant, statement).await?, past)
            };
            // The first round fills caches.
            if round > 0 {
                speeds.push(past / under);
            }
        }
        ratio(&format!("speed of {} under row-level security (aim 0.95)", statement.what), median(&speeds));
    }
    for statement in STATEMENTS.iter().filter(|statement| statement.sql.starts_with("SELECT")) {
        println!(
            "{:<82} {:>10}",
            format!("index of {}", statement.what),
            index(&mut pool, &tenant, statement.sql).await?
        );
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut pool).await?;
    sqlx::raw_sql("ROLLBACK").execute(&mut superuser).await?;
    requests(&plane, &tenant, &mut pool, &mut superuser).await
}

/// Half a million memories, a hundredth of them ours. Fifty tenants a statement: triggers look through it for each of them.
async fn fill(superuser: &mut PgConnection, tenant: &Tenant) -> Result<()> {
    sqlx::raw_sql(
        "DO $$ BEGIN
             FOR n IN 1..99 LOOP
                 INSERT INTO stellar.users (id, name, tier)
                 SELECT gen_random_uuid(), 'other-' || n, 'free' FROM generate_series(1, 50);
                 INSERT INTO stellar.usage (user_id, memory_limit)
                 SELECT u.id, -1 FROM stellar.users u WHERE u.name = 'other-' || n;
                 INSERT INTO stellar.memories (user_id, id, content, zone, total_score, occurred_at)
                 SELECT u.id, gen_random_uuid(), 'A memory as long as they often are: number ' || m, m % 5, random(),
                     now() - m * interval '1 minute'
                 FROM stellar.users u, generate_series(1, 100) m WHERE u.name = 'other-' || n;
             END LOOP;
         END $$",
    )
    .execute(&mut *superuser)
    .await
    .context("fill with the memories of others")?;
    sqlx::query(
        "INSERT INTO stellar.memories (user_id, id, content, zone, total_score, occurred_at)
         SELECT $1, gen_random_uuid(), 'A memory as long as they often are: number ' || m, m % 5, random(),
             now() - m * interval '1 minute'
         FROM generate_series(1, 5000) m",
    )
    .bind(tenant.id.uuid())
    .execute(&mut *superuser)
    .await?;
    let (rows,): (i64,) = sqlx::query_as("SELECT count(*) FROM stellar.memories").fetch_one(&mut *superuser).await?;
    ensure!(rows == ROWS, "{rows} memories are there");
    sqlx::raw_sql("VACUUM (ANALYZE) stellar.memories, stellar.users, stellar.usage").execute(superuser).await?;
    Ok(())
}

/// Lists and stores through gateway and engine: requests a second with row-level security to those without.
async fn agents(client: &Client, superuser: &mut PgConnection) -> Result<()> {
    client.opens().await;
    let mut speeds = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS_OF_AGENTS {
        let mut took = [(0.0, 0.0); 2];
        // In turn, and each first as often as the other.
        for secured in [round % 2 == 0, round % 2 != 0] {
            row_security(superuser, secured).await?;
            took[usize::from(secured)] = (lists(client).await?, stores(client).await?);
        }
        row_security(superuser, true).await?;
        // The first round fills caches.
        if round > 0 {
            speeds.0.push(took[0].0 / took[1].0);
            speeds.1.push(took[0].1 / took[1].1);
        }
    }
    ratio("lists of agents (50) with row-level security to without (aim 0.95)", median(&speeds.0));
    ratio("stores of agents with row-level security to without (aim 0.95)", median(&speeds.1));
    Ok(())
}

/// Policies on or off for all tables that tenants reach.
async fn row_security(superuser: &mut PgConnection, on: bool) -> Result<()> {
    let verb = if on { "ENABLE" } else { "DISABLE" };
    let tables = ["usage", "memories", "changes", "operations", "audit"];
    let sql = tables.map(|table| format!("ALTER TABLE stellar.{table} {verb} ROW LEVEL SECURITY;")).concat();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(superuser).await?;
    Ok(())
}

/// Seconds of a round of lists.
async fn lists(client: &Client) -> Result<f64> {
    at_once(|| async {
        let answer = client.get("/memories?limit=50").await?;
        ensure!(answer.status == 200, "{}", answer.text);
        Ok(())
    })
    .await
}

/// Seconds of a round of stores.
async fn stores(client: &Client) -> Result<f64> {
    at_once(|| async {
        let answer = client.store("A memory as long as they often are: one of an agent").await?;
        ensure!(answer.status == 201, "{}", answer.text);
        Ok(())
    })
    .await
}

async fn at_once<F: Future<Output = Result<()>>>(request: impl Fn() -> F) -> Result<f64> {
    let start = Instant::now();
    futures::future::try_join_all((0..AGENTS).map(|_| timed(REQUESTS_A_ROUND, &request))).await?;
    Ok(start.elapsed().as_secs_f64())
}

async fn enter(plane: &DataPlane, pool: &mut PgConnection, tenant: &Tenant) -> Result<()> {
    let entered = sqlx::query("SELECT * FROM stellar.enter($1, $2, 'bench', false)")
        .bind(tenant.id.uuid())
        .bind(plane.master().capability(tenant.id, 1).as_bytes().as_slice())
        .persistent(false)
        .fetch_all(pool)
        .await?;
    ensure!(entered.len() == 1, "the tenant is served");
    Ok(())
}

/// Seconds of one call, by many in one statement.
async fn current_tenant(pool: &mut PgConnection) -> Result<f64> {
    const CALLS: i32 = 20_000;
    let start = Instant::now();
    sqlx::query("SELECT count(stellar.current_tenant()) FROM generate_series(1, $1)").bind(CALLS).execute(pool).await?;
    Ok(start.elapsed().as_secs_f64() / f64::from(CALLS))
}

/// Seconds of a round. What is stored is taken back, and with it the lock on the tenant's counters.
async fn seconds(connection: &mut PgConnection, tenant: &Tenant, statement: &Statement) -> Result<f64> {
    sqlx::raw_sql("SAVEPOINT round").execute(&mut *connection).await?;
    let start = Instant::now();
    for _ in 0..statement.count {
        run(connection, tenant, statement).await?;
    }
    let seconds = start.elapsed().as_secs_f64();
    sqlx::raw_sql("ROLLBACK TO SAVEPOINT round").execute(connection).await?;
    Ok(seconds)
}

async fn run(connection: &mut PgConnection, tenant: &Tenant, statement: &Statement) -> Result<()> {
    let query = sqlx::query(statement.sql).bind(tenant.id.uuid()).persistent(false);
    let found = query.fetch_all(connection).await?;
    ensure!(found.len() == statement.rows, "{} rows are there", statement.rows);
    Ok(())
}

/// The index that the plan reads, which must be one that begins with `user_id`.
async fn index(pool: &mut PgConnection, tenant: &Tenant, sql: &str) -> Result<String> {
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN (COSTS OFF) {sql}"));
    let lines = sqlx::query(explain).bind(tenant.id.uuid()).persistent(false).fetch_all(pool).await?;
    let lines = lines.iter().map(|line| line.try_get(0)).collect::<Result<Vec<String>, _>>()?;
    let plan = lines.join("\n");
    let scan = lines.iter().find_map(|line| line.split("Scan using ").nth(1));
    let by_tenant = ["((user_id = ", "(user_id = "].iter().any(|cond| plan.contains(&format!("Index Cond: {cond}")));
    let name = scan.and_then(|rest| rest.split(' ').next()).filter(|_| by_tenant && !plan.contains("Seq Scan"));
    ensure!(name.is_some(), "the plan reads no index by tenant:\n{plan}");
    Ok(name.unwrap_or_default().to_owned())
}

/// Whole transactions as the engine makes them, with what proves the tenant, beside the same without.
async fn requests(
    plane: &DataPlane,
    tenant: &Tenant,
    pool: &mut PgConnection,
    superuser: &mut PgConnection,
) -> Result<()> {
    for statement in &STATEMENTS {
        let mut speeds = Vec::new();
        for round in 0..=ROUNDS {
            let start = Instant::now();
            for _ in 0..statement.count {
                sqlx::raw_sql("BEGIN").execute(&mut *pool).await?;
                enter(plane, pool, tenant).await?;
                run(pool, tenant, statement).await?;
                sqlx::raw_sql("ROLLBACK").execute(&mut *pool).await?;
            }
            let under = start.elapsed();
            let start = Instant::now();
            for _ in 0..statement.count {
                sqlx::raw_sql("BEGIN").execute(&mut *superuser).await?;
                run(superuser, tenant, statement).await?;
                sqlx::raw_sql("ROLLBACK").execute(&mut *superuser).await?;
            }
            if round > 0 {
                speeds.push(start.elapsed().as_secs_f64() / under.as_secs_f64());
            }
        }
        ratio(&format!("the same with the proof of the tenant, {}", statement.what), median(&speeds));
    }
    Ok(())
}
