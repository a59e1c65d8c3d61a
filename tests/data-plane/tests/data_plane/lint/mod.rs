//! The database linter: a database as the migrations made it is clean for every login, every way to weaken it is found
//! by the rule that is for it, and whoever asks is told by exit code and output.

mod durability;
mod faults;

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Output},
};

use harness::{DataPlane, Tenant, TenantSpec, binary, eventually};
use serde_json::Value;
use sqlx::PgConnection;
use tenancy::RoleName;

use faults::Sees;

/// Of these rules the test says what they find: they are about the server that it runs on.
const OF_THE_SERVER: [&str; 2] = ["server-version", "server-unsupported"];

/// A data plane with two tenants, one of which may log in.
struct Ground {
    plane: DataPlane,
    tenants: [Tenant; 2],
}

/// What the linter said: rules with severity and object, in its order.
type Findings = Vec<(String, String, String)>;

impl Ground {
    async fn prepare() -> Self {
        let plane = DataPlane::start().await.unwrap();
        let tenants = [
            plane.tenant("one", TenantSpec::default()).await.unwrap(),
            plane.tenant("two", TenantSpec::default()).await.unwrap(),
        ];
        assert_eq!(plane.client(&tenants[0]).store("a memory for the planner to count").await.unwrap().status, 201);
        let ground = Self { plane, tenants };
        ground.administer("ALTER ROLE {ROLE} LOGIN PASSWORD 'a-test'").await;
        // Servers of tests do without.
        ground.administer("ALTER SYSTEM SET fsync = on").await;
        ground
    }

    /// The URL of a login.
    fn url(&self, login: &str) -> String {
        match login {
            "superuser" => self.plane.postgres.superuser_url(),
            "administrator" => self.plane.postgres.admin_url(),
            "tenant" => {
                let role = RoleName::of(self.tenants[0].id);
                format!("postgres://{role}:a-test@127.0.0.1:{}/stellar", self.plane.postgres.port)
            }
            program => fs::read_to_string(self.plane.workdir.path().join(format!("secrets/{program}-url"))).unwrap(),
        }
    }

    /// Runs SQL as the superuser, until it counts for new sessions. `{ROLE}` and `{OTHER}` are roles of tenants, `{ID}` and `{OTHER_ID}` their ids.
    async fn administer(&self, sql: &str) {
        self.run(&mut self.plane.postgres.superuser("stellar").await.unwrap(), sql).await;
    }

    async fn run(&self, superuser: &mut PgConnection, sql: &str) {
        let [one, two] = &self.tenants;
        let sql = sql
            .replace("{ROLE}", RoleName::of(one.id).as_str())
            .replace("{OTHER}", RoleName::of(two.id).as_str())
            .replace("{ID}", &one.id.to_string())
            .replace("{OTHER_ID}", &two.id.to_string());
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone()))
            .execute(&mut *superuser)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        if sql.starts_with("ALTER SYSTEM") {
            self.reload(superuser).await;
        }
    }

    /// Makes the server read its configuration.
    async fn reload(&self, superuser: &mut PgConnection) {
        let before = sqlx::query_scalar("SELECT pg_conf_load_time()::text").fetch_one(&mut *superuser);
        let before: String = before.await.unwrap();
        sqlx::query("SELECT pg_reload_conf()").execute(superuser).await.unwrap();
        eventually("new sessions begin with the changed configuration", || async {
            let mut session = self.plane.postgres.superuser("stellar").await.ok()?;
            let changed = sqlx::query_scalar("SELECT pg_conf_load_time() > $1::timestamptz").bind(&before);
            changed.fetch_one(&mut session).await.ok().filter(|changed: &bool| *changed)
        })
        .await;
    }

    /// What the linter says to a login, with the server's own findings left out.
    fn lint(&self, login: &str) -> Findings {
        let output = lint(&["--output", "json"], Some(&self.url(login)));
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("no report: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(output.status.code(), Some(i32::from(report["errors"] != 0)), "{report}");
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
        report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|finding| (text(finding, "severity"), text(finding, "rule"), text(finding, "object")))
            .filter(|(severity, rule, _)| severity != "warning" || !OF_THE_SERVER.contains(&rule.as_str()))
            .collect()
    }

    /// Runs the migrate program once more.
    fn migrate(&self, further: &[&str]) -> Output {
        let folder = self.plane.workdir.path();
        Command::new(binary("operator").unwrap())
            .args(["migrate", "--no-kubernetes", "--admin-url-file"])
            .arg(folder.join("admin-url"))
            .arg("--secrets-dir")
            .arg(folder.join("secrets"))
            .args(further)
            .output()
            .unwrap()
    }
}

fn lint(args: &[&str], url: Option<&str>) -> Output {
    let mut command = Command::new(binary("operator").unwrap());
    command.arg("lint-database").args(args).env_remove("DATABASE_URL").env_remove("DATABASE_URL_FILE");
    if let Some(url) = url {
        command.env("DATABASE_URL", url);
    }
    command.output().unwrap()
}

fn has(findings: &Findings, severity: &str, rule: &str) -> bool {
    findings.iter().any(|found| found.0 == severity && found.1 == rule)
}

/// The rules of the README's table.
fn documented() -> BTreeSet<&'static str> {
    let readme = include_str!("../../../../../README.md");
    let rows = readme.lines().filter(|line| line.contains("| error |") || line.contains("| warning |"));
    rows.filter_map(|line| line.split('`').nth(1)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_as_the_migrations_made_it_is_clean_for_every_login() {
    let ground = Ground::prepare().await;
    for login in ["superuser", "administrator", "operator", "gateway", "pool", "tenant"] {
        assert_eq!(ground.lint(login), Findings::new(), "{login}");
    }
    // Tenants come and go without leaving anything to find.
    let own_engine = ground.plane.dedicated_engine(&ground.tenants[0]).await.unwrap();
    ground.plane.place(&ground.tenants[0], Some(&own_engine), "1 hour").await.unwrap();
    ground.administer("SELECT stellar.role_nologin('{OTHER_ID}'); SELECT stellar.role_drop('{OTHER_ID}')").await;
    assert_eq!(ground.lint("operator"), Findings::new());
    // Nor does what a platform team may well do beside them.
    ground
        .administer(
            "CREATE VIEW public.mine WITH (security_invoker = true) AS SELECT user_id, content FROM stellar.memories;
             CREATE TABLE public.accounts (id int); CREATE ROLE reporting; GRANT SELECT ON public.accounts TO reporting;
             CREATE FUNCTION public.plain() RETURNS int LANGUAGE sql AS 'SELECT 1';
             ALTER ROLE stellar_pool SET statement_timeout = '1min';
             DO $$ BEGIN IF current_setting('server_version_num')::integer >= 160000 THEN
                 GRANT pg_use_reserved_connections TO stellar_pool, stellar_gateway, stellar_operator, stellar_tenants;
             END IF; END $$",
        )
        .await;
    assert_eq!(ground.lint("operator"), Findings::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_weaken_the_database_is_found_by_its_rule() {
    let ground = Ground::prepare().await;
    let mut superuser = ground.plane.postgres.superuser("stellar").await.unwrap();
    let version: String = sqlx::query_scalar("SHOW server_version_num").fetch_one(&mut superuser).await.unwrap();
    let major = version.parse::<i32>().unwrap() / 10_000;
    let functions = ground.plane.functions().await.unwrap();
    let mut untried: BTreeSet<_> = documented().into_iter().filter(|rule| !OF_THE_SERVER.contains(rule)).collect();
    for fault in faults::all() {
        untried.remove(fault.rule);
        let login = match fault.seen_by {
            Sees::AnyLogin => "operator",
            Sees::Superuser => "superuser",
            Sees::AnyLoginFrom(first) if major >= first => "operator",
            Sees::AnyLoginBefore(first) if major < first => "operator",
            Sees::AnyLoginFrom(_) | Sees::AnyLoginBefore(_) => continue,
        };
        ground.run(&mut superuser, fault.breaks).await;
        let found = ground.lint(login);
        assert!(
            has(&found, fault.severity, fault.rule),
            "{} does not find: {}; but: {found:?}",
            fault.rule,
            fault.name
        );
        ground.run(&mut superuser, if fault.mends.is_empty() { &functions } else { fault.mends }).await;
    }
    // So nothing that a rule found was left from a fault before.
    assert_eq!(ground.lint("superuser"), Findings::new(), "all is mended");
    assert_eq!(untried, BTreeSet::new(), "rules that no fault was seeded for");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_schema_of_another_release_only_what_holds_in_every_release_is_an_error() {
    let ground = Ground::prepare().await;
    ground
        .administer(
            "INSERT INTO public._sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'of a later release', true, '', 0);
             CREATE FUNCTION stellar.later() RETURNS int LANGUAGE sql AS 'SELECT 1';
             REVOKE EXECUTE ON FUNCTION stellar.later() FROM PUBLIC",
        )
        .await;
    let found = ground.lint("operator");
    assert!(has(&found, "warning", "schema-version") && has(&found, "warning", "function-unexpected"), "{found:?}");
    assert!(!found.iter().any(|(severity, ..)| severity == "error"), "{found:?}");
    assert!(ground.migrate(&[]).status.success(), "a release that was rolled back to does not fail on it");
    ground.administer("ALTER TABLE stellar.memories DISABLE ROW LEVEL SECURITY").await;
    assert!(has(&ground.lint("operator"), "error", "rls-disabled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_tells_people_and_programs_and_no_secret() {
    let ground = Ground::prepare().await;
    let url_file = ground.plane.workdir.path().join("secrets/operator-url").display().to_string();
    let clean = lint(&["--database-url-file", &url_file], None);
    assert_eq!(clean.status.code(), Some(0));
    let last = String::from_utf8(clean.stdout).unwrap().lines().last().unwrap().to_owned();
    assert!(last.starts_with("0 errors, "), "{last}");

    ground.administer("GRANT SELECT ON stellar.memories TO stellar_operator").await;
    let weakened = lint(&["--database-url-file", &url_file], None);
    assert_eq!(weakened.status.code(), Some(1));
    let told = String::from_utf8(weakened.stdout).unwrap();
    let line = "error grant-unexpected: stellar.memories: no migration grants SELECT to stellar_operator: REVOKE it";
    assert!(told.lines().any(|told| told == line), "{told}");

    let port = ground.plane.postgres.port;
    let elsewhere = ground.plane.postgres.admin_url().replace("/stellar", "/postgres");
    for (why, url) in [
        ("refused", format!("postgres://stellar_operator:wrong-and-secret@127.0.0.1:{port}/stellar")),
        ("no URL", "wrong-and-secret".to_owned()),
        ("no schema", elsewhere),
    ] {
        let output = lint(&[], Some(&url));
        assert_eq!(output.status.code(), Some(2), "{why}");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(said.starts_with("operator: ") && !said.contains("wrong-and-secret"), "{why}: {said}");
    }
    assert_eq!(lint(&["--database-url-file", "/nowhere"], None).status.code(), Some(2));
    assert_eq!(lint(&[], None).status.code(), Some(2), "without a database there is nothing to look at");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weakened_database_fails_the_migration_and_opens_no_login() {
    let ground = Ground::prepare().await;
    ground
        .administer("ALTER TABLE stellar.usage NO FORCE ROW LEVEL SECURITY; ALTER ROLE stellar_gateway PASSWORD NULL")
        .await;
    let failed = ground.migrate(&[]);
    assert!(!failed.status.success());
    let said = String::from_utf8([failed.stdout, failed.stderr].concat()).unwrap();
    assert!(said.contains("rls-not-forced") && said.contains("weakened in 1 places"), "{said}");
    assert!(ground.plane.login("gateway").await.is_err(), "the login stays closed");

    let told = ground.migrate(&["--allow-findings"]);
    assert!(told.status.success());
    let said = String::from_utf8([told.stdout, told.stderr].concat()).unwrap();
    assert!(said.contains("rls-not-forced"), "it is told all the same: {said}");
    assert!(ground.plane.login("gateway").await.is_ok());

    ground
        .administer(
            "ALTER TABLE stellar.usage FORCE ROW LEVEL SECURITY; ALTER DATABASE stellar SET log_statement = 'all'",
        )
        .await;
    let warned = ground.migrate(&[]);
    assert!(warned.status.success(), "warnings fail nothing");
    let said = String::from_utf8([warned.stdout, warned.stderr].concat()).unwrap();
    assert!(said.contains("logged-parameters"), "{said}");
}
