//! The data plane without Kubernetes: Postgres, the pooled engine, the gateway. The test plays the operator.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, bail};
use sqlx::{ConnectOptions as _, PgConnection, postgres::PgConnectOptions};
use tenancy::{ApiKey, MasterKey, RoleName, TenantId};

use crate::{Client, Postgres, Program, Workdir};

/// Postgres, one pooled engine and one gateway.
pub struct DataPlane {
    /// The folder that all of it lives in.
    pub workdir: Workdir,
    /// The database server.
    pub postgres: Postgres,
    /// The pooled engine.
    pub engine: Program,
    /// The gateway.
    pub gateway: Program,
    master: MasterKey,
}

/// A tenant as a test wants it.
#[derive(Clone, Copy)]
pub struct TenantSpec {
    /// The tier's name.
    pub tier: &'static str,
    /// How many memories it may store; -1 for no limit.
    pub max_memories: i32,
    /// Its request rate.
    pub requests_per_minute: i32,
    /// How many agents it may have; -1 for no limit.
    pub max_agents: i32,
    /// How many API keys it may have; -1 for no limit.
    pub max_api_keys: i32,
    /// How many sync sockets it may have open; -1 for no limit.
    pub max_sockets: i32,
    /// How many operations a second one of its sockets may send.
    pub socket_messages_per_second: i32,
}

impl Default for TenantSpec {
    /// The free tier, with rates that no test meets by chance.
    fn default() -> Self {
        Self {
            tier: "free",
            max_memories: 1000,
            requests_per_minute: 1_000_000,
            max_agents: 1,
            max_api_keys: 5,
            max_sockets: -1,
            socket_messages_per_second: 100_000,
        }
    }
}

/// A tenant that a test made.
#[derive(Clone)]
pub struct Tenant {
    /// Its identity.
    pub id: TenantId,
    /// The name of its custom resource, were there one.
    pub name: String,
    /// The text of its first API key.
    pub key: String,
}

impl DataPlane {
    /// Starts everything and returns once all of it is ready.
    ///
    /// # Errors
    /// When a program is not built or a step fails.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[], &[]).await
    }

    /// The same, with further arguments for the engine and the gateway.
    ///
    /// # Errors
    /// When a program is not built or a step fails.
    pub async fn start_with(engine_args: &[&str], gateway_args: &[&str]) -> Result<Self> {
        Self::start_in(&[], engine_args, gateway_args).await
    }

    /// The same, with further variables in the environment of engine and gateway.
    ///
    /// # Errors
    /// When a program is not built or a step fails.
    pub async fn start_in(environment: &[(&str, &str)], engine_args: &[&str], gateway_args: &[&str]) -> Result<Self> {
        Self::start_at(Workdir::new()?, environment, engine_args, gateway_args).await
    }

    /// The same as [`Self::start`], of another build: `programs` is the folder of its programs.
    ///
    /// # Errors
    /// When a program is not there or a step fails.
    pub async fn start_build(programs: &Path) -> Result<Self> {
        Self::start_at(Workdir::with_programs(programs)?, &[], &[], &[]).await
    }

    async fn start_at(
        workdir: Workdir,
        environment: &[(&str, &str)],
        engine_args: &[&str],
        gateway_args: &[&str],
    ) -> Result<Self> {
        let postgres = Postgres::start(&workdir).await?;
        let done = migration(&workdir, &postgres, &[])?.output().context("run the migrate program")?;
        succeeded(&done)?;
        let master = MasterKey::parse(&fs::read_to_string(secrets(&workdir).join("master-key"))?)?;
        let file = |name: &str| secrets(&workdir).join(name).display().to_string();
        let engine = Program::start_in(
            &workdir,
            "engine",
            &args(&["--mode", "pooled", "--database-url-file", &file("pool-url")], engine_args),
            environment,
        )
        .await?;
        let gateway = Program::start_in(
            &workdir,
            "gateway",
            &args(
                &[
                    "--database-url-file",
                    &file("gateway-url"),
                    "--master-key-file",
                    &file("master-key"),
                    "--pooled-engine",
                    &format!("127.0.0.1:{}", engine.port),
                ],
                gateway_args,
            ),
            environment,
        )
        .await?;
        Ok(Self { workdir, postgres, engine, gateway, master })
    }

    /// Another gateway over the same database.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn another_gateway(&self) -> Result<Program> {
        self.another_gateway_with(&[]).await
    }

    /// The same, with further arguments.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn another_gateway_with(&self, args: &[&str]) -> Result<Program> {
        self.gateway(&[&self.engine], args).await
    }

    /// A gateway over the same database that sends pooled tenants to these engines.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn gateway_to(&self, engines: &[&Program]) -> Result<Program> {
        self.gateway(engines, &[]).await
    }

    /// The same, with further arguments.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn gateway_to_with(&self, engines: &[&Program], args: &[&str]) -> Result<Program> {
        self.gateway(engines, args).await
    }

    async fn gateway(&self, engines: &[&Program], further: &[&str]) -> Result<Program> {
        let file = |name: &str| secrets(&self.workdir).join(name).display().to_string();
        let engines: Vec<String> = engines.iter().map(|engine| format!("127.0.0.1:{}", engine.port)).collect();
        let own = [
            "--database-url-file",
            &file("gateway-url"),
            "--master-key-file",
            &file("master-key"),
            "--pooled-engine",
            &engines.join(","),
        ];
        Program::start(&self.workdir, "gateway", &args(&own, further)).await
    }

    /// Another pooled engine over the same database.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn another_engine(&self, further: &[&str]) -> Result<Program> {
        let url = secrets(&self.workdir).join("pool-url").display().to_string();
        let own = ["--mode", "pooled", "--database-url-file", &url];
        Program::start(&self.workdir, "engine", &args(&own, further)).await
    }

    /// The migrate program, to be run once more over the same database and the same secrets.
    ///
    /// # Errors
    /// When it is not built.
    pub fn migration(&self, further: &[&str]) -> Result<Command> {
        migration(&self.workdir, &self.postgres, further)
    }

    /// Where the migrate program keeps `pool-url`, `gateway-url`, `operator-url` and `master-key`.
    pub fn secrets(&self) -> PathBuf {
        secrets(&self.workdir)
    }

    /// The gateway's address, as `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.gateway.port)
    }

    /// The key that capabilities derive from.
    pub fn master(&self) -> &MasterKey {
        &self.master
    }

    /// A client with the tenant's key.
    pub fn client(&self, tenant: &Tenant) -> Client {
        Client::new(&self.url(), &tenant.key)
    }

    /// A connection as one of the long-running programs' logins: `operator`, `gateway` or `pool`.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn login(&self, program: &str) -> Result<PgConnection> {
        let url = fs::read_to_string(secrets(&self.workdir).join(format!("{program}-url")))?;
        let options: PgConnectOptions = url.trim().parse()?;
        options.connect().await.with_context(|| format!("connect as {program}"))
    }

    /// The definitions of all functions of the schema, as SQL that puts them back.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn functions(&self) -> Result<String> {
        let all = "SELECT string_agg(pg_get_functiondef(p.oid), ';') FROM pg_proc p
            WHERE p.pronamespace = 'stellar'::regnamespace";
        let mut superuser = self.postgres.superuser("stellar").await?;
        sqlx::query_scalar(all).fetch_one(&mut superuser).await.context("read the functions")
    }

    /// Makes a tenant with one key, as the operator would.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn tenant(&self, name: &str, spec: TenantSpec) -> Result<Tenant> {
        let id = TenantId::new(uuid::Uuid::new_v4())?;
        let key = ApiKey::generate();
        let tenant = Tenant { id, name: name.to_owned(), key: key.expose().to_owned() };
        self.apply(&tenant, spec).await?;
        let mut operator = self.login("operator").await?;
        sqlx::query("SELECT stellar.key_ensure($1, 'default', $2, $3, '5 minutes')")
            .bind(id.uuid())
            .bind(key.hash().as_bytes().as_slice())
            .bind(key.display_prefix())
            .execute(&mut operator)
            .await?;
        sqlx::query("SELECT stellar.role_ensure($1)").bind(id.uuid()).execute(&mut operator).await?;
        Ok(tenant)
    }

    /// Applies a tenant's tier and limits.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn apply(&self, tenant: &Tenant, spec: TenantSpec) -> Result<()> {
        let TenantSpec {
            tier,
            max_memories,
            requests_per_minute,
            max_agents,
            max_api_keys,
            max_sockets,
            socket_messages_per_second,
        } = spec;
        let apply = "SELECT stellar.tenant_apply($1, $2, $3, false, $4, $5, $6, $7, 1, $8,
            p_max_sockets => $9, p_socket_messages_per_second => $10)";
        sqlx::query(apply)
            .bind(tenant.id.uuid())
            .bind(&tenant.name)
            .bind(tier)
            .bind(max_memories)
            .bind(max_agents)
            .bind(max_api_keys)
            .bind(requests_per_minute)
            .bind(self.master.capability(tenant.id, 1).hash().as_bytes().as_slice())
            .bind(max_sockets)
            .bind(socket_messages_per_second)
            .execute(&mut self.login("operator").await?)
            .await?;
        Ok(())
    }

    /// Fills a tenant with memories of these contents, as an import does: many rows a statement, through the same triggers.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn fill(&self, tenant: &Tenant, contents: &[String]) -> Result<()> {
        let mut superuser = self.postgres.superuser("stellar").await?;
        for some in contents.chunks(5_000) {
            sqlx::query(
                "INSERT INTO stellar.memories (user_id, id, content, zone, total_score)
                 SELECT $1, gen_random_uuid(), content, 2, 0.25 FROM unnest($2::text[]) AS content",
            )
            .bind(tenant.id.uuid())
            .bind(some)
            .execute(&mut superuser)
            .await
            .context("fill a tenant")?;
        }
        Ok(())
    }

    /// Starts an engine of the tenant's own, which logs in as its role, and lets that role in. Not yet the flip.
    ///
    /// # Errors
    /// When Postgres refuses or the engine cannot be started.
    pub async fn dedicated_engine(&self, tenant: &Tenant) -> Result<Program> {
        let (role, password) = (RoleName::of(tenant.id), "password-of-a-test-tenant");
        let statement = format!("ALTER ROLE {role} LOGIN PASSWORD '{password}'");
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut self.postgres.superuser("stellar").await?).await?;
        self.admit(tenant).await?;
        let url_file = self.workdir.path().join(format!("{role}-url"));
        fs::write(&url_file, format!("postgres://{role}:{password}@127.0.0.1:{}/stellar", self.postgres.port))?;
        let (id, file) = (tenant.id.to_string(), url_file.display().to_string());
        let own = ["--mode", "dedicated", "--tenant", &id, "--database-url-file", &file];
        Program::start(&self.workdir, "engine", &args(&own, &[])).await
    }

    /// Lets the tenant's role in, as the operator does before a flip to an engine of the tenant's own.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn admit(&self, tenant: &Tenant) -> Result<()> {
        sqlx::query("SELECT stellar.tenant_admit_role($1)")
            .bind(tenant.id.uuid())
            .execute(&mut self.login("operator").await?)
            .await?;
        Ok(())
    }

    /// The flip: to an engine of its own, or back to the pool. The place before stays valid for `drain` (`30 s`).
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn place(&self, tenant: &Tenant, engine: Option<&Program>, drain: &str) -> Result<()> {
        sqlx::query("SELECT stellar.tenant_place($1, $2, $3, $4::interval)")
            .bind(tenant.id.uuid())
            .bind(if engine.is_some() { "dedicated" } else { "pooled" })
            .bind(engine.map(|engine| format!("127.0.0.1:{}", engine.port)))
            .bind(drain)
            .execute(&mut self.login("operator").await?)
            .await?;
        Ok(())
    }
}

fn args(own: &[&str], further: &[&str]) -> Vec<String> {
    own.iter().chain(further).map(|arg| (*arg).to_owned()).collect()
}

fn secrets(workdir: &Workdir) -> PathBuf {
    workdir.path().join("secrets")
}

/// The migrate program, which makes schema, logins and secrets as it does in a cluster.
fn migration(workdir: &Workdir, postgres: &Postgres, further: &[&str]) -> Result<Command> {
    let admin = workdir.path().join("admin-url");
    fs::write(&admin, postgres.admin_url())?;
    fs::create_dir_all(secrets(workdir))?;
    let mut command = Command::new(workdir.binary("operator")?);
    command.args(["migrate", "--no-kubernetes", "--admin-url-file"]).arg(&admin);
    command.arg("--secrets-dir").arg(secrets(workdir)).args(further);
    Ok(command)
}

fn succeeded(output: &Output) -> Result<()> {
    if !output.status.success() {
        bail!(
            "migrate failed:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
