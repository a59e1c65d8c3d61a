//! The passwords with which gateway, pooled engine and operator log in are rotated, and nobody who asks notices.
//!
//! The programs read their URLs from a folder that follows the secrets late, as a kubelet's does. And Postgres ends every
//! session that is idle for a moment: else the programs would get through the rotation on connections that they have.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use harness::{Client, DataPlane, Program, TenantSpec, eventually};
use login_pool::{LoginPool, UrlFile};
use sqlx::{ConnectOptions as _, postgres::PgPoolOptions};
use tenancy::RoleName;
use tokio::{task::JoinHandle, time::interval};

const LOGINS: [&str; 3] = ["operator", "gateway", "pool"];
/// How late the programs' folder follows.
const LATE: Duration = Duration::from_millis(1_500);
/// What the migrate program waits: longer than that.
const WAIT: &str = "4";
const IDLE: &str = "100ms";
/// Between two rounds of the load, for sessions to end in.
const PAUSE: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn the_passwords_of_all_logins_are_rotated_twice_without_one_failed_request() {
    let plane = DataPlane::start().await.unwrap();
    let projected = Projected::begin(&plane);
    let engine =
        Program::start(&plane.workdir, "engine", &projected.args("pool", &["--mode", "pooled"])).await.unwrap();
    let address = format!("127.0.0.1:{}", engine.port);
    let master = plane.secrets().join("master-key").display().to_string();
    let own = ["--master-key-file", &master, "--pooled-engine", &address];
    let gateway = Program::start(&plane.workdir, "gateway", &projected.args("gateway", &own)).await.unwrap();
    let tenant = plane.tenant("rotated", TenantSpec { max_memories: -1, ..TenantSpec::default() }).await.unwrap();
    let client = Client::new(&format!("http://127.0.0.1:{}", gateway.port), &tenant.key);
    eventually("the key opens", || async { (client.get("/auth/usage").await.unwrap().status == 200).then_some(()) })
        .await;
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    for statement in [
        "ALTER ROLE admin SET idle_session_timeout = 0",
        "SET idle_session_timeout = 0",
        &format!("ALTER SYSTEM SET idle_session_timeout = '{IDLE}'"),
        "SELECT pg_reload_conf()",
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned())).execute(&mut superuser).await.unwrap();
    }
    let mut verifiers = HashSet::new();
    let mut look = async |superuser: &mut sqlx::PgConnection| {
        let of_all = "SELECT rolpassword FROM pg_authid WHERE rolname = ANY ($1)";
        let roles = LOGINS.map(|login| format!("stellar_{login}"));
        let found: Vec<String> = sqlx::query_scalar(of_all).bind(&roles[..]).fetch_all(superuser).await.unwrap();
        verifiers.extend(found);
        verifiers.len()
    };
    assert_eq!(look(&mut superuser).await, 3);

    let load = Load::begin(&client, &projected);
    load.goes_on().await;
    let urls = || LOGINS.map(|login| fs::read_to_string(plane.secrets().join(format!("{login}-url"))).unwrap());
    let before = urls();
    run(plane.migration(&["--login-rotation", "1", "--login-rotation-wait-seconds", WAIT]).unwrap()).await;
    load.goes_on().await;
    assert_eq!(look(&mut superuser).await, 6, "each has another password");
    let between = urls();

    // The second one ends in the middle, and is begun anew with the passwords that it has made known.
    let next = plane.secrets().join("pool-url-next");
    assert!(!next.exists(), "the first rotation is over");
    let mut halted = plane.migration(&["--login-rotation", "2", "--login-rotation-wait-seconds", "600"]).unwrap();
    let mut halted = halted.spawn().unwrap();
    let announced = eventually("the next URL is written", || async { fs::read_to_string(&next).ok() }).await;
    load.goes_on().await;
    halted.kill().unwrap();
    halted.wait().unwrap();
    run(plane.migration(&["--login-rotation", "2", "--login-rotation-wait-seconds", WAIT]).unwrap()).await;
    load.goes_on().await;
    assert_eq!(look(&mut superuser).await, 9, "each has another password again");
    assert_eq!(urls()[2], announced, "what was made known is what came");
    assert!(!next.exists());
    projected.arrives(&urls()).await;
    load.goes_on().await;
    let requests = load.end().await;

    // A number is carried out once.
    let after = urls();
    run(plane.migration(&["--login-rotation", "2", "--login-rotation-wait-seconds", "600"]).unwrap()).await;
    assert!(urls() == after, "the same passwords as before");
    for present in &after {
        login_pool::parse(present).unwrap().connect().await.unwrap();
    }
    for old in before.into_iter().chain(between) {
        let refused = login_pool::parse(&old).unwrap().connect().await.unwrap_err();
        let code = refused.as_database_error().and_then(|error| error.code().map(String::from));
        assert_eq!(code.as_deref(), Some("28P01"), "{refused}");
    }
    for (name, program) in [("engine", &engine), ("gateway", &gateway)] {
        let changes = program.log().matches("a login was refused").count();
        assert!(changes >= 2, "the {name} met each rotation: {changes} times");
    }
    println!("{requests} requests were answered during two rotations, none failed");
}

/// The folder that the programs read: the secrets as they were a while ago.
struct Projected {
    folder: PathBuf,
    follows: JoinHandle<()>,
}

impl Projected {
    fn begin(plane: &DataPlane) -> Self {
        let (secrets, folder) = (plane.secrets(), plane.workdir.path().join("projected"));
        fs::create_dir(&folder).unwrap();
        let files = contents(&secrets);
        show(&folder, &files);
        let follows = tokio::spawn({
            let folder = folder.clone();
            async move {
                let (mut ticks, mut seen) = (interval(Duration::from_millis(50)), Vec::from([(Instant::now(), files)]));
                loop {
                    ticks.tick().await;
                    seen.push((Instant::now(), contents(&secrets)));
                    while seen.first().is_some_and(|(at, _)| at.elapsed() >= LATE) {
                        show(&folder, &seen.remove(0).1);
                    }
                }
            }
        });
        Self { folder, follows }
    }

    fn file(&self, login: &str) -> PathBuf {
        self.folder.join(format!("{login}-url"))
    }

    fn args(&self, login: &str, further: &[&str]) -> Vec<String> {
        let own = ["--database-url-file".to_owned(), self.file(login).display().to_string()];
        own.into_iter().chain(further.iter().map(|arg| (*arg).to_owned())).collect()
    }

    async fn arrives(&self, urls: &[String; 3]) {
        eventually("the programs' folder has the present URLs", || async {
            let shown = LOGINS.map(|login| fs::read_to_string(self.file(login)).unwrap());
            (shown == *urls && !self.folder.join("pool-url-next").exists()).then_some(())
        })
        .await;
    }
}

impl Drop for Projected {
    fn drop(&mut self) {
        self.follows.abort();
    }
}

fn contents(secrets: &Path) -> Vec<(String, Option<String>)> {
    let names = LOGINS.iter().flat_map(|login| [format!("{login}-url-next"), format!("{login}-url")]);
    names.map(|name| (name.clone(), fs::read_to_string(secrets.join(name)).ok())).collect()
}

/// Each file whole or not at all.
fn show(folder: &Path, files: &[(String, Option<String>)]) {
    let shown = |name: &str| fs::read_to_string(folder.join(name)).ok();
    for (name, text) in files.iter().filter(|(name, text)| shown(name) != *text) {
        match text {
            Some(text) => {
                fs::write(folder.join("partial"), text).unwrap();
                fs::rename(folder.join("partial"), folder.join(name)).unwrap();
            }
            None => fs::remove_file(folder.join(name)).unwrap(),
        }
    }
}

/// Any session of a login can leave settings for all of that login's sessions to come. Neither they fail a migration nor what
/// else a tenant can leave, or somebody who has SQL of a tenant's could keep every upgrade from happening.
#[tokio::test(flavor = "multi_thread")]
async fn what_sql_of_a_tenant_leaves_fails_no_migration_and_settings_of_logins_are_gone_after_it() {
    let plane = DataPlane::start().await.unwrap();
    let tenant = plane.tenant("settings", TenantSpec::default()).await.unwrap();
    let client = plane.client(&tenant);
    client.opens().await;
    let kept = async || -> i64 {
        let of_logins = "SELECT count(*) FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole
            WHERE r.rolname LIKE 'stellar\\_%'";
        sqlx::query_scalar(of_logins).fetch_one(&mut plane.postgres.superuser("stellar").await.unwrap()).await.unwrap()
    };
    for login in LOGINS {
        let set = "ALTER ROLE CURRENT_USER SET row_security = off;
            ALTER ROLE CURRENT_USER IN DATABASE stellar SET default_transaction_isolation = 'serializable'";
        sqlx::raw_sql(set).execute(&mut plane.login(login).await.unwrap()).await.unwrap();
    }
    assert_eq!(kept().await, 6, "for the login everywhere, and in this database");
    let role = RoleName::of(tenant.id);
    let of_tenant = format!(
        "SET ROLE {role}; ALTER ROLE CURRENT_USER SET search_path = public; SELECT lo_create(0);
         ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC; RESET ROLE"
    );
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(of_tenant)).execute(&mut superuser).await.unwrap();
    // Sessions that begin with these do their work all the same.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'stellar\\_%'";
    sqlx::query(end).execute(&mut superuser).await.unwrap();
    assert_eq!(client.store("meanwhile").await.unwrap().status, 201);
    run(plane.migration(&[]).unwrap()).await;
    assert_eq!(kept().await, 0);
    assert_eq!(client.store("afterwards").await.unwrap().status, 201);
}

#[tokio::test]
async fn a_server_that_moved_is_found_where_the_file_says() {
    let plane = DataPlane::start().await.unwrap();
    let path = plane.workdir.path().join("moved-url");
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    let before = format!("postgres://stellar_operator:former@{nowhere}/stellar?sslmode=disable");
    fs::write(&path, &before).unwrap();
    let options = PgPoolOptions::new().acquire_timeout(Duration::from_secs(2));
    let file = UrlFile { path: path.clone(), prepare: |login| login };
    let pool = LoginPool::new(options, login_pool::parse(&before).unwrap(), Some(file));
    assert!(pool.acquire().await.is_err(), "nobody answers there");
    fs::copy(plane.secrets().join("operator-url"), &path).unwrap();
    let mut connection = pool.acquire().await.unwrap();
    sqlx::query("SELECT count(*) FROM stellar.users").execute(&mut *connection).await.unwrap();
}

/// Requests through the gateway that need its login and the engine's, and queries by the operator's.
struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    fn begin(client: &Client, projected: &Projected) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let path = projected.file("operator");
        let login = login_pool::parse(&fs::read_to_string(&path).unwrap()).unwrap();
        let operator = LoginPool::new(PgPoolOptions::new(), login, Some(UrlFile { path, prepare: |login| login }));
        let ask = {
            let (client, stop, rounds) = (client.clone(), stop.clone(), rounds.clone());
            async move {
                let mut ticks = interval(PAUSE);
                while !stop.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    let content = format!("round {}", rounds.load(Ordering::Relaxed));
                    let (stored, recalled, usage, asked) = tokio::join!(
                        client.store(&content),
                        client.recall("round"),
                        client.get("/auth/usage"),
                        async {
                            let mut connection = operator.acquire().await?;
                            sqlx::query("SELECT count(*) FROM stellar.users").execute(&mut *connection).await
                        },
                    );
                    for (answer, status) in [(stored, 201), (recalled, 200), (usage, 200)] {
                        let answer = answer.unwrap();
                        assert_eq!(answer.status, status, "{}", answer.text);
                    }
                    asked.unwrap();
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        Self { stop, rounds, workers: vec![tokio::spawn(ask)] }
    }

    async fn goes_on(&self) {
        let from = self.rounds.load(Ordering::Relaxed);
        eventually("the load goes on", || async {
            let failed = self.workers.iter().any(JoinHandle::is_finished);
            (failed || self.rounds.load(Ordering::Relaxed) >= from + 4).then_some(())
        })
        .await;
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.await.unwrap();
        }
        self.rounds.load(Ordering::Relaxed) * 4
    }
}

async fn run(mut command: Command) {
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
