//! `operator run`: waits for its secrets, then for the lease, then leads: watches, controller, sweep. When the
//! lease is lost everything stops, in order, and it waits again.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crds::{Tenant, Tier};
use futures::StreamExt;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{LimitRange, Namespace, ResourceQuota, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
    rbac::v1::RoleBinding,
};
use kube::{
    Api, Client,
    runtime::{
        controller::{Config, ReconcileRequest, applier},
        events::{Recorder, Reporter},
        reflector,
    },
};
use tenancy::{MasterKey, MasterKeyError};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    config::RunArgs,
    controller::{Context, FIELD_MANAGER, Settled, reconcile, retry},
    database::Database,
    health::{self, Readiness},
    leader::Candidate,
    metrics::Metrics,
    postgres_url::{PostgresUrl, PostgresUrlError},
    prune,
    settings::Settings,
    sweep, tiers,
    watch::{Queue, SecretWatches, Stale, watch_owned, watch_tenants, watch_tiers},
};

/// A call about the lease that takes longer has failed.
const LEASE_CALL: Duration = Duration::from_secs(3);
const RECONCILES_AT_A_TIME: u16 = 16;
const ADDRESS_EVERY: Duration = Duration::from_secs(5);
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Why the program cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The health address.
    #[error("listen for health and metrics")]
    Health(#[source] std::io::Error),
    /// A mounted file cannot be read.
    #[error("read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database URL cannot be used.
    #[error("the operator's database URL")]
    DatabaseUrl(#[from] PostgresUrlError),
    /// The master key cannot be used.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    /// No cluster.
    #[error("find the cluster")]
    Cluster(#[source] Box<kube::Error>),
    /// No usable account of a cluster.
    #[error("find the cluster")]
    NoCluster(#[source] Box<kube::config::InferConfigError>),
    /// A task ended that should not.
    #[error("a task of the operator ended unexpectedly")]
    TaskEnded,
}

/// Runs until `stop`.
///
/// # Errors
/// [`RunError`].
pub async fn run(args: RunArgs, stop: CancellationToken) -> Result<(), RunError> {
    let (metrics, readiness) = (Metrics::default(), Readiness::default());
    // Health outlives the rest, so that the last moments are seen too.
    let health_stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(health::serve(args.health_listen, metrics.clone(), readiness.clone(), health_stop.clone()));
    let outcome = tokio::select! {
        outcome = elect(args, metrics, readiness, stop) => outcome,
        Some(ended) = tasks.join_next() => match ended {
            Ok(Err(error)) => Err(RunError::Health(error)),
            _ => Err(RunError::TaskEnded),
        },
    };
    health_stop.cancel();
    outcome
}

async fn elect(args: RunArgs, metrics: Metrics, readiness: Readiness, stop: CancellationToken) -> Result<(), RunError> {
    let Some(url) = database_url(&args, &stop).await? else { return Ok(()) };
    let Some(master_key) = wait_for_file(&args.master_key_file, &stop).await? else { return Ok(()) };
    let (url, master_key): (PostgresUrl, _) = (url.parse()?, MasterKey::parse(&master_key)?);
    let database = Database::new(&url, args.database_url_file.as_deref())?;
    let client = Client::try_default().await.map_err(|e| RunError::Cluster(Box::new(e)))?;
    let (sender, mut leads) = watch::channel(false);
    let candidate = Candidate {
        client: impatient_client().await?,
        namespace: args.namespace.clone(),
        identity: args.pod_name.clone(),
    };
    let candidacy_stop = CancellationToken::new();
    let mut candidacy = JoinSet::new();
    candidacy.spawn(candidate.run(sender, candidacy_stop.clone()));
    if let Some(path) = args.database_url_file.clone() {
        candidacy.spawn(watch_address(path, url.clone(), stop.clone()));
    }
    readiness.set(true);
    tracing::info!("waiting for the lease");
    loop {
        let elected = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            elected = leads.wait_for(|leads| *leads) => elected.is_ok(),
        };
        if !elected {
            return Err(RunError::TaskEnded);
        }
        tracing::info!("this replica leads");
        metrics.set_leader(true);
        let term = stop.child_token();
        let settings = Settings::new(&args, url.clone());
        let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: Some(args.pod_name.clone()) };
        let recorder = Recorder::new(client.clone(), reporter);
        let leading = lead(
            client.clone(),
            database.clone(),
            master_key.clone(),
            settings,
            recorder,
            metrics.clone(),
            term.clone(),
        );
        tokio::pin!(leading);
        tokio::select! {
            outcome = &mut leading => { metrics.set_leader(false); outcome?; }
            _ = leads.wait_for(|leads| !*leads) => {
                tracing::warn!("the lease is lost; stopping until it comes back");
                term.cancel();
                metrics.set_leader(false);
                leading.await?;
            }
        }
    }
    readiness.set(false);
    // The lease goes back last, when nothing of this replica works any more.
    candidacy_stop.cancel();
    while candidacy.join_next().await.is_some() {}
    tracing::info!("stopped");
    Ok(())
}

/// A client that gives up soon, which one with watches must not.
async fn impatient_client() -> Result<Client, RunError> {
    let mut config = kube::Config::infer().await.map_err(|e| RunError::NoCluster(Box::new(e)))?;
    config.connect_timeout = Some(LEASE_CALL);
    config.read_timeout = Some(LEASE_CALL);
    config.write_timeout = Some(LEASE_CALL);
    Client::try_from(config).map_err(|e| RunError::Cluster(Box::new(e)))
}

/// One term as leader: ends when `term` is cancelled and every reconciliation that runs has ended.
async fn lead(
    client: Client,
    database: Database,
    master_key: MasterKey,
    settings: Settings,
    recorder: Recorder,
    metrics: Metrics,
    term: CancellationToken,
) -> Result<(), RunError> {
    let (queue, queued) = Queue::new();
    let (tenants, tenant_writer) = reflector::store::<Tenant>();
    let (tiers, tier_writer) = reflector::store::<Tier>();
    let tiers_changed = Arc::new(Notify::new());
    let (notices_missed, stale) = (Arc::new(Notify::new()), Stale::default());
    let namespace = settings.namespace.clone();
    let context = Arc::new(Context {
        secrets: SecretWatches::new(client.clone(), queue.clone(), term.clone()),
        client: client.clone(),
        database: database.clone(),
        master_key,
        settings,
        tiers: tiers.clone(),
        recorder,
        metrics,
        backoff: Backoff::default(),
        settled: Settled::default(),
    });

    let mut tasks = JoinSet::new();
    tasks.spawn(watch_tiers(
        Api::all(client.clone()),
        tier_writer,
        tenants.clone(),
        queue.clone(),
        tiers_changed.clone(),
        stale.clone(),
        term.clone(),
    ));
    // All else waits for the Tiers, or the first look would find none of them. It waits in this one place: a store
    // wakes only the last of those that wait for it.
    let _ = tokio::select! { () = term.cancelled() => return Ok(()), ready = tiers.wait_until_ready() => ready };
    tasks.spawn(tiers::keep(tiers.clone(), database, tiers_changed, term.clone()));
    let every_tenant = Api::all(client.clone());
    tasks.spawn(watch_tenants(every_tenant, tenant_writer, queue.clone(), stale.clone(), term.clone()));
    macro_rules! watch_all {
        ($($kind:ty),*) => { $( tasks.spawn(watch_owned::<$kind>(Api::all(client.clone()), queue.clone(), term.clone())); )* };
    }
    watch_all!(
        Namespace,
        RoleBinding,
        ServiceAccount,
        ResourceQuota,
        LimitRange,
        NetworkPolicy,
        Service,
        Deployment,
        PodDisruptionBudget
    );
    let own_secrets = Api::namespaced(client.clone(), &namespace);
    tasks.spawn(watch_owned::<Secret>(own_secrets, queue.clone(), term.clone()));
    let missed = notices_missed.clone();
    tasks.spawn(sweep::sweep(context.clone(), tenants.clone(), queue.clone(), missed, stale, term.clone()));
    tasks.spawn(sweep::listen(context.clone(), queue, notices_missed, term.clone()));
    tasks.spawn(prune::prune(context.clone(), term.clone()));
    tasks.spawn(sweep::lint(context.clone(), term.clone()));

    let requests = queued.map(|tenant| Ok::<_, Infallible>(ReconcileRequest::from(tenant)));
    let requests = Box::pin(requests.take_until(term.clone().cancelled_owned()));
    let config = Config::default().concurrency(RECONCILES_AT_A_TIME).debounce(DEBOUNCE);
    let start = |tenant, context| Box::pin(reconcile(tenant, context));
    let mut controller = std::pin::pin!(applier(start, retry, context.clone(), tenants, requests, config));
    // Errors are handled by `retry`; what is left is "a Tenant went away in between".
    while controller.next().await.is_some() {}
    let ended_by_itself = !term.is_cancelled();
    term.cancel();
    while tasks.join_next().await.is_some() {}
    context.secrets.ended().await;
    if ended_by_itself { Err(RunError::TaskEnded) } else { Ok(()) }
}

async fn database_url(args: &RunArgs, stop: &CancellationToken) -> Result<Option<String>, RunError> {
    match (&args.database_url_file, &args.database_url) {
        (Some(path), _) => wait_for_file(path, stop).await,
        (None, url) => Ok(url.clone()),
    }
}

/// Stops this program when Postgres is to be found elsewhere, and lets this login in there: the URLs of engines are made
/// from the address with which it began. Whoever starts it again lets it read the new one.
async fn watch_address(path: PathBuf, began: PostgresUrl, stop: CancellationToken) {
    let mut said = false;
    while stop.run_until_cancelled(tokio::time::sleep(ADDRESS_EVERY)).await.is_some() {
        let written = tokio::fs::read_to_string(&path).await.ok().and_then(|text| text.parse::<PostgresUrl>().ok());
        let Some(written) = written.filter(|written| !written.is_same_place(&began)) else { continue };
        // Logins open when the schema is there: until then, and for an address that is wrong, the former one serves on.
        let opens = async { Database::new(&written, None).ok()?.pool().acquire().await.ok() };
        if opens.await.is_some() {
            tracing::warn!("Postgres is somewhere else; stopping, to begin again with its new address");
            stop.cancel();
        } else if !std::mem::replace(&mut said, true) {
            let path = path.display();
            tracing::warn!(%path, "another address of Postgres is written, where this login is not let in yet");
        }
    }
}

/// Reads a mounted file; one that is not there yet is waited for. `None`: stopped meanwhile.
async fn wait_for_file(path: &Path, stop: &CancellationToken) -> Result<Option<String>, RunError> {
    let mut said = false;
    loop {
        match tokio::fs::read_to_string(path).await {
            Ok(text) if !text.trim().is_empty() => return Ok(Some(text)),
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(RunError::File { path: path.to_owned(), source });
            }
            _ if !said => {
                said = true;
                tracing::info!(path = %path.display(), "waiting for a file that the migrate Job makes");
            }
            _ => {}
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}
