//! The program `operator`: `run`, `migrate`, `lint-database`, `crds`, `smoke-test`.

use std::{fs, path::Path, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Parser;
use operator::{
    config::{Cli, Command, LintArgs, MigrateArgs, Output, RunArgs},
    lint::{self, Finding},
    migrate::{LoginRotation, Migration, Vault, read_tiers},
    postgres_url::PostgresUrl,
    smoke_test::smoke_test,
};
use sqlx::ConnectOptions;
use telemetry::{LogFormat, Program};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const PROGRAM: Program = Program { service: "stellar-operator", version: env!("CARGO_PKG_VERSION") };
/// Less than the grace period of the pod.
const LONGEST_STOP: Duration = Duration::from_secs(25);
const LONGEST_CONNECT: Duration = Duration::from_secs(15);

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::LintDatabase(args) => return lint_database(args).await,
        Command::Crds => print_definitions(),
        Command::SmokeTest(args) => smoke_test(&args)
            .await
            .map(|()| println!("stored, recalled and forgot a memory through {}", args.gateway_url))
            .map_err(Into::into),
        Command::Migrate(args) => observed(args.log_format, migrate(*args)).await,
        Command::Run(args) => Box::pin(observed(args.log_format, run(*args))).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Log and traces around a program's work.
async fn observed(format: LogFormat, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let telemetry = telemetry::start(PROGRAM, format)?;
    let outcome = work.await;
    telemetry.end().await;
    outcome
}

/// Exit code 0: no errors; 1: errors; 2: it could not be found out.
async fn lint_database(args: LintArgs) -> ExitCode {
    match findings(&args).await {
        Ok(findings) => {
            let report = match args.output {
                Output::Text => lint::text(&findings),
                Output::Json => lint::json(&findings),
            };
            print!("{report}");
            if lint::count(&findings).0 == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("operator: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn findings(args: &LintArgs) -> anyhow::Result<Vec<Finding>> {
    install_tls()?;
    let url = match (&args.database_url_file, &args.database_url) {
        (Some(file), _) => read_secret_file(file)?,
        (None, Some(url)) => url.clone(),
        (None, None) => anyhow::bail!("no database URL: give --database-url-file"),
    };
    let url: PostgresUrl = url.parse().context("the database URL")?;
    let options = url.connect_options("stellar-lint").context("the database URL")?;
    let connect = tokio::time::timeout(LONGEST_CONNECT, options.connect());
    let mut connection = connect.await.context("Postgres does not answer")?.context("connect to Postgres")?;
    Ok(lint::lint(&mut connection).await?)
}

fn print_definitions() -> anyhow::Result<()> {
    for definition in crds::definitions() {
        println!("---\n{}", definition.yaml()?.trim_end());
    }
    Ok(())
}

async fn run(args: RunArgs) -> anyhow::Result<()> {
    install_tls()?;
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let running = operator::run::run(args, stop.clone());
    tokio::pin!(running);
    tokio::select! {
        outcome = &mut running => return Ok(outcome?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        // It may also find a reason itself.
        () = stop.cancelled() => {}
    }
    tracing::info!("stopping");
    stop.cancel();
    tokio::time::timeout(LONGEST_STOP, running).await.context("some work did not end in time")??;
    Ok(())
}

async fn migrate(args: MigrateArgs) -> anyhow::Result<()> {
    install_tls()?;
    let url = match (args.admin_url_file, args.admin_url) {
        (Some(file), _) => read_secret_file(&file)?,
        (None, Some(url)) => url,
        (None, None) => anyhow::bail!("no administrator's URL: give --admin-url-file"),
    };
    let admin: PostgresUrl = url.parse().context("the administrator's database URL")?;
    let vault = match args.secrets_dir {
        Some(folder) if args.no_kubernetes => Vault::Files(folder),
        _ => {
            let client = kube::Client::try_default().await.context("find the cluster")?;
            Vault::Kubernetes { client, namespace: args.namespace }
        }
    };
    let tiers = args.tiers_file.as_deref().map(read_tiers).transpose()?;
    let pool = args.pool_host.unwrap_or_default();
    let (patience, allow_findings) = (Duration::from_secs(args.wait_seconds), args.allow_findings);
    let rotation =
        LoginRotation { number: args.login_rotation, wait: Duration::from_secs(args.login_rotation_wait_seconds) };
    Migration { admin, pool, vault, patience, tiers, allow_findings, rotation }.run().await?;
    Ok(())
}

fn read_secret_file(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

fn install_tls() -> anyhow::Result<()> {
    let installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    installed.map_err(|_| anyhow::anyhow!("a TLS provider is already there"))
}
