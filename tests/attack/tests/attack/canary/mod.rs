//! Secrets that we know are used in every way there is, and then looked for wherever something is written: logs at their
//! most talkative, answers, metrics, the lists of processes, Postgres' own log and statistics, traces.

mod collector;
mod configuration;
mod stage;

use std::{fs, process::Command};

use attack::Search;
use harness::{binary, eventually};
use reqwest::Method;
use sqlx::AssertSqlSafe;

use stage::{Stage, words_of};

/// What the documentation asks of a Postgres whose log holds statements: no value of a bind parameter.
const STATEMENTS_LOGGED: [&str; 8] = [
    "log_statement = 'all'",
    "log_min_duration_statement = 0",
    "log_parameter_max_length = 0",
    "log_parameter_max_length_on_error = 0",
    "log_connections = on",
    "log_disconnections = on",
    "log_error_verbosity = verbose",
    "log_min_messages = info",
];

impl Stage {
    async fn configure(&self, settings: &[&str]) {
        let mut superuser = self.superuser().await;
        for setting in settings {
            sqlx::query(AssertSqlSafe(format!("ALTER SYSTEM SET {setting}"))).execute(&mut superuser).await.unwrap();
        }
        sqlx::query("SELECT pg_reload_conf()").execute(&mut superuser).await.unwrap();
    }

    /// Makes Postgres log every statement and, where the extension is at hand, count each. Returns whether it is.
    async fn watch_postgres(&mut self) -> bool {
        let extension = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements')";
        let counted: bool = sqlx::query_scalar(extension).fetch_one(&mut self.superuser().await).await.unwrap();
        self.configure(&STATEMENTS_LOGGED).await;
        if counted {
            self.configure(&["shared_preload_libraries = 'pg_stat_statements'"]).await;
            self.plane.postgres.stop().unwrap();
            self.plane.postgres.start_again().await.unwrap();
            sqlx::query("CREATE EXTENSION pg_stat_statements").execute(&mut self.superuser().await).await.unwrap();
            self.configure(&["pg_stat_statements.track = 'all'"]).await;
        } else {
            println!("this Postgres has no pg_stat_statements: pg_stat_activity alone is looked at");
        }
        for tenant in &self.tenants {
            let client = self.plane.client(tenant);
            eventually("the tenant is served again", || async {
                (client.get("/auth/usage").await.unwrap().status == 200
                    && client.get("/stats").await.unwrap().status == 200)
                    .then_some(())
            })
            .await;
        }
        counted
    }

    /// The migrate program once more, which sets every login's password again. Returns what it says.
    fn migrate(&self, format: &str) -> Vec<u8> {
        let folder = self.plane.workdir.path();
        let output = Command::new(binary("operator").unwrap())
            .args(["migrate", "--no-kubernetes", "--admin-url-file"])
            .arg(folder.join("admin-url"))
            .arg("--secrets-dir")
            .arg(folder.join("secrets"))
            .envs([("RUST_LOG", "trace"), ("LOG_FORMAT", format)])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        [output.stdout, output.stderr].concat()
    }

    fn postgres_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.plane.workdir.path().join("postgres.log")).unwrap()).into_owned()
    }

    fn logs(&self) -> [(&'static str, String); 3] {
        [
            ("the gateway's log", self.plane.gateway.log()),
            ("the pooled engine's log", self.plane.engine.log()),
            ("the dedicated engine's log", self.own_engine.log()),
        ]
    }

    /// A request under an id of its own, and the wait until it is logged: all before it is then logged too.
    async fn mark(&self, id: &str) {
        for tenant in &self.tenants {
            let request = self.plane.client(tenant).request(Method::GET, "/stats").header("x-request-id", id);
            assert_eq!(request.send().await.unwrap().status(), 200);
        }
        eventually("the last request is logged", || async {
            self.logs().iter().all(|(_, log)| log.contains(id)).then_some(())
        })
        .await;
    }

    fn assert_processes_tell_nothing(&self) {
        let processes = self.processes();
        for wanted in ["gateway", "engine", "postgres"] {
            assert!(processes.iter().any(|(_, name)| name == wanted), "{wanted} is among {processes:?}");
        }
        for (pid, name) in processes {
            // A session may end while it is looked at.
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            self.search.assert_none(&format!("the command line of {name}"), read("cmdline"));
            let environment: Vec<u8> = read("environ")
                .split(|byte| *byte == 0)
                .filter(|one| !one.starts_with(b"OTEL_EXPORTER_OTLP_HEADERS="))
                .collect::<Vec<_>>()
                .concat();
            self.search.assert_none(&format!("the environment of {name}"), environment);
        }
    }

    async fn assert_statistics_tell_nothing(&self, counted: bool) {
        let mut superuser = self.superuser().await;
        let activity: String = sqlx::query_scalar("SELECT string_agg(query, E'\n') FROM pg_stat_activity")
            .fetch_one(&mut superuser)
            .await
            .unwrap();
        self.search.assert_none("pg_stat_activity", activity);
        if counted {
            let statements: String = sqlx::query_scalar("SELECT string_agg(query, E'\n') FROM pg_stat_statements")
                .fetch_one(&mut superuser)
                .await
                .unwrap();
            assert!(statements.contains("stellar.enter($1, $2, $3, $4, $5)"), "the engine's statements are counted");
            self.search.assert_none("pg_stat_statements", statements);
        }
    }
}

/// The whole day's work, and a look into every place.
async fn nothing_is_written(format: &str) -> Stage {
    let mut stage = Stage::prepare(format).await;
    let counted = stage.watch_postgres().await;
    let migration = stage.migrate(format);
    let errors = stage.work().await;
    stage.mark("the-last-of-the-work").await;
    eventually("traces have left", || async { (stage.collector.requests() >= 3).then_some(()) }).await;

    let search = &stage.search;
    for answer in &errors {
        search.assert_none("an answer", words_of(answer));
    }
    let mut bytes = 0;
    for (place, log) in stage.logs() {
        assert!(log.contains("TRACE"), "{place} is at its most talkative");
        bytes += log.len();
        search.assert_none(place, log);
    }
    assert!(
        String::from_utf8_lossy(&migration).contains("ALTER ROLE stellar_pool"),
        "the migration tells its statements"
    );
    search.assert_none("the log of the migration", migration);
    for (name, program) in
        [("gateway", &stage.plane.gateway), ("engine", &stage.plane.engine), ("own engine", &stage.own_engine)]
    {
        let metrics = program.metrics().await.unwrap();
        assert!(metrics.contains("stellar"), "{metrics}");
        search.assert_none(&format!("the metrics of {name}"), metrics);
    }
    stage.assert_processes_tell_nothing();
    let log = stage.postgres_log();
    assert!(log.contains("stellar.enter($1, $2, $3, $4, $5)"), "statements are logged");
    assert!(log.contains("ALTER ROLE stellar_pool LOGIN PASSWORD 'SCRAM-SHA-256$"), "passwords are verifiers");
    search.assert_none("Postgres' log", &log);
    stage.assert_statistics_tell_nothing(counted).await;
    let spans = stage.collector.bodies();
    assert!(String::from_utf8_lossy(&spans).contains("stellar.tenant.id"), "spans have left");
    search.assert_none("a trace", spans);
    println!(
        "{format}: {} errors, {bytes} bytes of logs, {} of Postgres' log, {} of traces: no secret",
        errors.len(),
        log.len(),
        stage.collector.bodies().len()
    );
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_written_while_the_log_is_text() {
    nothing_is_written("text").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_written_while_the_log_is_json_and_one_that_is_planted_is_found() {
    let stage = nothing_is_written("json").await;

    // Where the log repeats a client's words on purpose, a secret in them is found: the search would have seen others.
    let key = &stage.tenants[0].key;
    let request = stage.plane.client(&stage.tenants[0]).request(Method::GET, "/stats").header("x-request-id", key);
    assert_eq!(request.send().await.unwrap().status(), 200);
    for program in [&stage.plane.gateway, &stage.plane.engine] {
        eventually("the planted key is found", || async {
            stage.search.find(program.log()).contains("an API key").then_some(())
        })
        .await;
    }

    // The named exception: a Postgres that logs statements with the values of their parameters logs capabilities.
    let before = stage.postgres_log().len();
    stage.configure(&["log_parameter_max_length = -1"]).await;
    let client = stage.plane.client(&stage.tenants[0]);
    let found = eventually("the log holds parameters", || async {
        assert_eq!(client.get("/stats").await.unwrap().status, 200);
        let found = stage.search.find(&stage.postgres_log()[before..]);
        found.contains("a capability").then_some(found)
    })
    .await;
    assert!(
        !found.iter().any(|name| name.contains("key") || name.contains("password")),
        "never a key or password: {found:?}"
    );
}

/// Looks for one secret alone.
fn search_for(secret: &str) -> Search {
    let mut search = Search::default();
    search.add("the secret", secret);
    search
}
