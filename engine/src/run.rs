//! The program: parts put together, started, and ended in order.

use std::{future::Future, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tenancy::{LOCAL_TENANT, TenantId};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use engine::{
    activity::Activity,
    config::{Config, Mode},
    follow::Logs,
    http::{Api, LocalCaller, Readiness, WHOLE_IMPORTS, health_router, local_router, router},
    index::Indexes,
    local::{EmbeddedPostgres, Local},
    metrics::Metrics,
    narrator::Narrator,
    server::{Bounds, serve},
    store::{Coalescer, Database, Store, follow_url},
};

/// What may still be written when no request comes any more.
const LAST_WRITES: Duration = Duration::from_secs(5);
const HEALTH_CLIENTS: usize = 64;
const HEALTH_DRAIN: Duration = Duration::from_secs(1);

/// Runs the engine until SIGTERM or SIGINT, then ends it gracefully.
///
/// # Errors
/// When a port cannot be listened on or the configuration makes no sense.
pub(crate) async fn run(config: Config) -> Result<()> {
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(stop_on_signal(stop.clone()).context("listen for signals")?);

    // Health first: while the database URL is waited for, the process is alive and not ready.
    let (readiness, metrics) = (Readiness::default(), Metrics::default());
    let health_stop = CancellationToken::new();
    let api_address = config.api_address()?;
    config.narrate_endpoint()?;
    let listener = listen(config.health_address()).await?;
    let health = health_router(readiness.clone(), metrics.clone());
    let bounds = Bounds { max_clients: HEALTH_CLIENTS, drain: HEALTH_DRAIN, ..config.server_bounds() };
    tasks.spawn(serve(listener, health, bounds, health_stop.clone()).map_outcome());

    if let Some(source) = source(&config, &stop).await? {
        let Source { database, only, local, postgres } = source;
        let store = Store::new(&database, config.connections(), only);
        tasks.spawn(follow_url(store.clone(), stop.clone()));
        let served = match listen(api_address).await {
            Ok(listener) => serve_api(&config, store, local, listener, readiness, metrics, &stop).await,
            Err(error) => Err(error),
        };
        if let Some(postgres) = postgres {
            postgres.stop().await.context("stop the embedded Postgres")?;
        }
        served?;
    }
    health_stop.cancel();
    while tasks.join_next().await.is_some() {}
    tracing::info!("the engine has ended");
    Ok(())
}

/// Where the rows are, and whose.
struct Source {
    database: Database,
    only: Option<TenantId>,
    local: Option<LocalCaller>,
    postgres: Option<EmbeddedPostgres>,
}

/// `None`: asked to end meanwhile.
async fn source(config: &Config, stop: &CancellationToken) -> Result<Option<Source>> {
    let given = match (&config.database_url_file, std::env::var("DATABASE_URL")) {
        (Some(path), _) => match Database::from_file(path, stop).await {
            Some(database) => Some(database),
            None => return Ok(None),
        },
        (None, Ok(url)) => Some(url.parse()?),
        (None, Err(_)) => None,
    };
    if config.mode == Mode::Local {
        let Local { database, caller, postgres } = Local::prepare(config, given).await?;
        return Ok(Some(Source { database, only: Some(LOCAL_TENANT), local: Some(caller), postgres }));
    }
    let database = given.context("give --database-url-file, or DATABASE_URL in the environment")?;
    let only = config.tenant.filter(|_| config.mode == Mode::Dedicated);
    Ok(Some(Source { database, only, local: None, postgres: None }))
}

/// Serves until `stop`, then drains: no new request, running ones to their end, what is noted to Postgres.
async fn serve_api(
    config: &Config,
    store: Store,
    local: Option<LocalCaller>,
    listener: TcpListener,
    readiness: Readiness,
    metrics: Metrics,
    stop: &CancellationToken,
) -> Result<()> {
    let tracker = TaskTracker::new();
    let logs = Logs::new(store.clone());
    let pages_store = store.clone();
    let store = store.telling(Arc::new(logs.clone()));
    // The worker of notes has few connections, and waits in no tenant's line.
    let notes_store = store.clone();
    let store = match config.connections_per_tenant() {
        Some(most) => store.shared_fairly(most),
        None => store,
    };
    let (bounds, index_metrics) = (config.index_bounds(), metrics.index.clone());
    let indexes = Indexes::new(store.clone(), pages_store, tracker.clone(), bounds, index_metrics, stop.clone())
        .context("start the threads of the index")?;
    let activity = Activity::new(notes_store, indexes.clone(), metrics.activity.clone());
    let coalescer = Coalescer::new(store.clone(), tracker.clone(), metrics.store.clone());
    let api = Api {
        store: store.clone(),
        coalescer,
        logs: logs.clone(),
        indexes,
        activity: activity.clone(),
        metrics: metrics.http.clone(),
        narrator: Narrator::new(config.narrate_endpoint()?, metrics.narrator.clone())?,
        whole_imports: Arc::new(Semaphore::new(WHOLE_IMPORTS)),
        request_timeout: config.request_timeout,
        import_timeout: config.import_timeout,
        closing: stop.clone(),
    };
    let looking = tokio::spawn({
        let stop = stop.clone();
        async move { logs.look_regularly(stop).await }
    });
    let activity_stop = CancellationToken::new();
    let worker = tokio::spawn({
        let (activity, stop) = (activity.clone(), activity_stop.clone());
        async move { activity.run(stop).await }
    });
    readiness.serving(store.clone());
    tracing::info!(listen = %listener.local_addr()?, mode = ?config.mode, version = env!("CARGO_PKG_VERSION"), "the engine serves");

    let unready = async {
        stop.cancelled().await;
        readiness.stopping();
    };
    let rooms = local.as_ref().map(|caller| caller.rooms(api.clone(), stop.clone()));
    let router = match (local, rooms.clone()) {
        (Some(caller), Some(rooms)) => local_router(router(api), caller, rooms),
        _ => router(api),
    };
    let serving = serve(listener, router, config.server_bounds(), stop.clone());
    let (served, ()) = tokio::join!(serving, unready);
    served.context("serve the API")?;
    if let Some(rooms) = rooms {
        rooms.ended(config.drain).await;
    }
    looking.await.context("the look at where logs end")?;

    activity_stop.cancel();
    worker.await.context("the worker of notes")?;
    tracker.close();
    let last_writes = async {
        tracker.wait().await;
        activity.finish().await;
        store.close().await;
    };
    if tokio::time::timeout(LAST_WRITES, last_writes).await.is_err() {
        tracing::warn!("the last notes of recalls could not be written in time");
    }
    Ok(())
}

async fn listen(address: std::net::SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))
}

fn stop_on_signal(stop: CancellationToken) -> std::io::Result<impl Future<Output = ()> + use<>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to end: requests that run are finished first");
        stop.cancel();
    })
}

/// For a task whose failure is told in the log.
trait MapOutcome {
    fn map_outcome(self) -> impl Future<Output = ()> + Send;
}

impl<F: Future<Output = std::io::Result<()>> + Send> MapOutcome for F {
    async fn map_outcome(self) {
        if let Err(error) = self.await {
            tracing::error!(%error, "health and metrics cannot be served");
        }
    }
}
