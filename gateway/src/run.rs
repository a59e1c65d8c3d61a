//! The gateway's life: wait for its files, load the directory, serve, and leave without a failed request.
//!
//! Leaving: /readyz says no and answers ask clients to reconnect (`pre_stop_lag`), then nothing more is accepted and what
//! is in flight finishes (`drain_timeout`), then the last notes go to Postgres.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{Request, Response};
use login_pool::{LoginPool, UrlFile};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sync::Rooms;
use tenancy::{MasterKey, MasterKeyError};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    access,
    client_address::FailureLimits,
    config::{ClientLimits, Config},
    cors::Cors,
    directory::Refresher,
    health::Health,
    key_use::KeyUses,
    metrics::Metrics,
    presence::Presence,
    proxy::Proxy,
    rooms::Engines,
    router::Gateway,
    server::{self, Ending, Handler, Rules},
};

const LOOK_AGAIN: Duration = Duration::from_secs(1);
const LAST_NOTES: Duration = Duration::from_secs(6);
const HEALTH_CONNECTIONS: usize = 64;
/// Files beside those of clients: listeners, Postgres, engines.
const OWN_FILES: usize = 256;

/// Why the gateway could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The address is taken or not ours.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// No flag and no variable.
    #[error("give --database-url-file, or DATABASE_URL in the environment")]
    NoDatabaseUrl,
    /// The file or variable holds something else.
    #[error("{0} holds no Postgres URL")]
    DatabaseUrl(String),
    /// The file holds something else.
    #[error("{0}")]
    MasterKey(PathBuf, #[source] MasterKeyError),
    /// The system refuses signal handlers.
    #[error("cannot wait for signals")]
    Signal(#[source] io::Error),
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError::Signal`].
pub async fn signalled() -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signal)?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("got SIGTERM"),
        _ = interrupt.recv() => tracing::info!("got SIGINT"),
    }
    Ok(())
}

impl Handler for Gateway {
    async fn answer(&self, request: Request<Body>, client: IpAddr) -> Response<Body> {
        access::answer(self, request, client).await
    }
}

/// Runs until `stop`, drain included.
///
/// # Errors
/// [`RunError`], only before it serves.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), RunError> {
    let started = Instant::now();
    allow_files(config.clients.max_connections + OWN_FILES);
    let metrics = Arc::new(Metrics::default());
    let ending = Ending::default();
    let health_ending = Ending::default();

    let health_listener = bind(config.health_listen).await?;
    let listener = bind(config.listen).await?;
    let leaving = ending.leaving.clone();
    let health = Arc::new(Health { metrics: metrics.clone(), directory: OnceLock::new(), leaving, started });
    let mut platform = JoinSet::new();
    platform.spawn(server::serve(health_listener, health.clone(), health_rules(&config), health_ending.clone()));

    let Some(Secrets { database, master_key }) = read_secrets(&config, &stop).await? else { return Ok(()) };
    let pool = pool(database, config.database_url_file.as_deref());
    let (directory, refresher) = Refresher::new(master_key, pool.clone(), metrics.clone(), &config.times);
    // The one place that sets it.
    let _ = health.directory.set(directory.clone());
    let presence = Arc::new(Presence::new(metrics.clone()));
    let key_uses = Arc::new(KeyUses::default());
    let pooled = config.pooled_engine.as_str().into();
    let proxy = Arc::new(Proxy::new(pooled, config.times.clone(), directory.clone(), metrics.clone()));
    let failures = Arc::new(FailureLimits::new(config.clients.max_auth_failures_per_minute));
    let engines = Engines {
        directory: directory.clone(),
        proxy: proxy.clone(),
        presence: presence.clone(),
        key_uses: key_uses.clone(),
        failures: failures.clone(),
        started,
    };
    let rooms = Rooms::new(engines, metrics.sync.clone(), sync::Times::default(), ending.stop.clone());
    let gateway = Arc::new(Gateway {
        directory,
        proxy,
        rooms: rooms.clone(),
        pool: pool.clone(),
        metrics: metrics.clone(),
        presence: presence.clone(),
        key_uses: key_uses.clone(),
        cors: Cors::new(config.cors_origins.clone()),
        failures,
        started,
        operations_per_request: config.clients.operations_per_request,
        times: config.times.clone(),
    });

    // These serve requests until the last one is answered.
    let serving = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(refresher.run(serving.clone()));
    let resolving = (gateway.clone(), serving.clone());
    tasks.spawn(async move { resolving.0.proxy.keep_fresh(resolving.1).await });
    let announcing = (presence, pool.clone(), serving.clone());
    tasks.spawn(async move { announcing.0.announce(announcing.1, announcing.2).await });
    let noting = (key_uses, pool.clone(), serving.clone());
    tasks.spawn(async move { noting.0.write_regularly(noting.1, noting.2).await });

    let rules = Rules { limits: config.clients.clone(), times: config.times.clone(), metrics: Some(metrics) };
    let mut public = JoinSet::new();
    public.spawn(server::serve(listener, gateway, rules, ending.clone()));
    tracing::info!(listen = %config.listen, health = %config.health_listen, version = env!("CARGO_PKG_VERSION"), "the gateway serves");

    stop.cancelled().await;
    tracing::info!(lag = ?config.times.pre_stop_lag, "leaving: not ready any more, still serving");
    ending.leaving.cancel();
    sleep(config.times.pre_stop_lag).await;
    ending.stop.cancel();
    // Sockets first answer what they were sent, then tell their clients to go on elsewhere.
    let (cut_off, sockets) = tokio::join!(public.join_next(), rooms.ended(config.times.drain_timeout));
    let cut_off = cut_off.and_then(Result::ok).unwrap_or(0) + sockets;
    tracing::info!(cut_off, "all connections are closed");

    serving.cancel();
    let notes = async { while tasks.join_next().await.is_some() {} };
    if timeout(LAST_NOTES, notes).await.is_err() {
        tracing::warn!("Postgres did not take the last notes in time");
    }
    tasks.shutdown().await;
    health_ending.stop.cancel();
    platform.shutdown().await;
    Ok(())
}

/// Every client is an open file, and many systems start a program with room for 1,024, which it may extend by itself.
fn allow_files(wanted: usize) {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) if files < wanted as u64 => {
            tracing::warn!(files, wanted, "fewer files may be open than clients may connect: raise the limit (nofile)");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|error| RunError::Listen(address, error))
}

fn health_rules(config: &Config) -> Rules {
    let limits = ClientLimits {
        max_connections: HEALTH_CONNECTIONS,
        max_connections_per_client: HEALTH_CONNECTIONS,
        ..config.clients.clone()
    };
    Rules { limits, times: config.times.clone(), metrics: None }
}

struct Secrets {
    database: PgConnectOptions,
    master_key: MasterKey,
}

/// The migrate Job makes the files; until it has, there is nothing to serve. `None`: told to stop meanwhile.
async fn read_secrets(config: &Config, stop: &CancellationToken) -> Result<Option<Secrets>, RunError> {
    let Some(url) = database_url(config, stop).await? else { return Ok(None) };
    let source = config.database_url_file.as_ref().map_or("DATABASE_URL".to_owned(), |file| file.display().to_string());
    let database = prepare(login_pool::parse(&url).map_err(|_| RunError::DatabaseUrl(source))?);
    let Some(text) = wait_for(&config.master_key_file, stop).await else { return Ok(None) };
    let master_key =
        MasterKey::parse(&text).map_err(|error| RunError::MasterKey(config.master_key_file.clone(), error))?;
    Ok(Some(Secrets { database, master_key }))
}

async fn database_url(config: &Config, stop: &CancellationToken) -> Result<Option<String>, RunError> {
    match &config.database_url_file {
        Some(file) => Ok(wait_for(file, stop).await),
        None => std::env::var("DATABASE_URL").map(Some).map_err(|_| RunError::NoDatabaseUrl),
    }
}

/// The content of a file as soon as it is there and not empty.
async fn wait_for(file: &Path, stop: &CancellationToken) -> Option<String> {
    let mut said = false;
    loop {
        match fs::read_to_string(file) {
            Ok(text) if !text.trim().is_empty() => return Some(text),
            Ok(_) | Err(_) if said => {}
            Ok(_) => tracing::info!(file = %file.display(), "waiting for a file that is still empty"),
            Err(error) => tracing::info!(file = %file.display(), %error, "waiting for a file"),
        }
        said = true;
        stop.run_until_cancelled(sleep(LOOK_AGAIN)).await?;
    }
}

/// One connection listens; the others are for reloads, notes and /auth.
fn pool(login: PgConnectOptions, file: Option<&Path>) -> LoginPool {
    let options = PgPoolOptions::new()
        .max_connections(6)
        .acquire_timeout(Duration::from_secs(3))
        .idle_timeout(Duration::from_mins(1));
    LoginPool::new(options, login, file.map(|path| UrlFile { path: path.to_owned(), prepare }))
}

fn prepare(login: PgConnectOptions) -> PgConnectOptions {
    login.application_name("stellar-gateway").statement_cache_capacity(0)
}
