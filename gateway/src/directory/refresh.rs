//! Keeps the directory fresh: listens to Postgres' notices and reloads what they name.
//!
//! Two tasks. The listener turns notices into [`Ask`]s and never does anything else, so that no wait of its own can
//! hide a lost connection. The refresher reloads: everything that was asked for meanwhile in one query (a burst of
//! notices costs few queries), the whole directory after any gap in listening and now and then besides.
//!
//! Whoever reaches Postgres can notify this channel with any payload, for Postgres has no rights on channels. A notice is
//! therefore never believed, it only makes the refresher look; and however many come, it looks no more often than once
//! a `notice_pause`, at all tenants at once where more are named than one query should ask for.

use std::{collections::HashSet, sync::Arc, time::Duration};

use login_pool::LoginPool;
use sqlx::{Executor, postgres::PgListener};
use tenancy::{ApiKeyHash, MasterKey, TenantId};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Ask, Directory, Freshness, load};
use crate::{config::Times, error::chain, metrics::Metrics};

const CHANNEL: &str = "stellar_control";
/// A notice-less connection is asked this often whether it still lives.
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
const FULL_LOAD_TIMEOUT: Duration = Duration::from_mins(1);
const PART_LOAD_TIMEOUT: Duration = Duration::from_secs(5);
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MOST: Duration = Duration::from_secs(5);
/// Tenants reloaded in one query. When notices name more, everything is reloaded instead …
const BATCH: usize = 1000;
/// … this often at most.
const FLOOD_PAUSE: Duration = Duration::from_secs(1);

/// What [`Directory`] is refreshed with.
pub struct Refresher {
    directory: Arc<Directory>,
    wishes: mpsc::Receiver<Ask>,
    pool: LoginPool,
    metrics: Arc<Metrics>,
    full_interval: Duration,
    notice_pause: Duration,
}

impl Refresher {
    /// An empty directory and its refresher, which has to be run.
    pub fn new(master_key: MasterKey, pool: LoginPool, metrics: Arc<Metrics>, times: &Times) -> (Arc<Directory>, Self) {
        let Times { full_reload_interval: full_interval, notice_pause, directory_max_age, .. } = *times;
        let (directory, wishes) = Directory::new(master_key, directory_max_age);
        (directory.clone(), Self { directory, wishes, pool, metrics, full_interval, notice_pause })
    }

    /// Runs until cancelled.
    pub async fn run(self, cancelled: CancellationToken) {
        let listener = listen(self.pool.clone(), self.directory.asks.clone());
        let run = async { tokio::join!(listener, self.refresh()) };
        cancelled.run_until_cancelled(Box::pin(run)).await;
    }

    async fn refresh(mut self) {
        let mut work = Work::new(self.full_interval);
        loop {
            tokio::select! {
                ask = self.wishes.recv() => {
                    let Some(ask) = ask else { return };
                    self.note(ask, &mut work);
                    // What came meanwhile goes into the same queries.
                    while work.changed.len() + work.sought.len() < BATCH
                        && let Ok(ask) = self.wishes.try_recv()
                    {
                        self.note(ask, &mut work);
                    }
                }
                () = sleep_until(work.next()) => {}
            }
            if work.next_whole <= Instant::now() {
                work.flood_until = Instant::now() + FLOOD_PAUSE;
                if !self.whole(&mut work).await {
                    work.next_whole = Instant::now() + work.backoff.next();
                }
            }
            if work.somebody_waits() || work.next_part <= Instant::now() {
                self.parts(&mut work).await;
            }
        }
    }

    fn note(&self, ask: Ask, work: &mut Work) {
        match ask {
            Ask::Changed(id) if work.changed.len() < BATCH => {
                work.changed.insert(id);
            }
            Ask::Changed(_) => work.next_whole = work.next_whole.min(work.flood_until),
            Ask::Verify(id, reply) => {
                work.changed.insert(id);
                work.asking.push(reply);
            }
            Ask::Search(hash, reply) => {
                work.sought.push(hash);
                work.searching.push(reply);
            }
            Ask::Listening => {
                work.listening = true;
                work.next_whole = Instant::now();
            }
            Ask::Deaf => {
                work.listening = false;
                self.directory.grow_stale();
            }
        }
    }

    /// Reloads everything, which settles all wishes. Only while listening, so that nothing falls between.
    async fn whole(&self, work: &mut Work) -> bool {
        if !work.listening || !self.reload_all().await {
            return false;
        }
        self.directory.set_freshness(Freshness::Current);
        work.changed.clear();
        work.sought.clear();
        answer(&mut work.asking, true);
        answer(&mut work.searching, true);
        work.backoff = Backoff::new();
        work.next_whole = Instant::now() + self.full_interval;
        true
    }

    /// Finds the holders of keys, and reloads the tenants that are named.
    async fn parts(&self, work: &mut Work) {
        if !work.sought.is_empty() {
            let found = bounded(PART_LOAD_TIMEOUT, load::holders(&self.pool, &work.sought)).await.unwrap_or_default();
            work.sought.clear();
            if found.is_empty() {
                answer(&mut work.searching, false);
            }
            work.changed.extend(found);
            work.asking.append(&mut work.searching);
        }
        if work.changed.is_empty() {
            return;
        }
        let done = self.reload_some(&work.changed.drain().collect::<Vec<_>>()).await;
        work.next_part = Instant::now() + self.notice_pause;
        answer(&mut work.asking, done);
        if !done {
            // What these tenants are now is not known: the whole reload tells.
            work.next_whole = work.next_whole.min(Instant::now() + work.backoff.next());
        }
    }

    async fn reload_all(&self) -> bool {
        let loaded = bounded(FULL_LOAD_TIMEOUT, load::all(&self.pool)).await;
        self.metrics.directory_reload("full", loaded.is_ok());
        match loaded {
            Ok(rows) => {
                let (tenants, keys) = (rows.tenants.len(), rows.keys.len());
                let first = !self.directory.is_loaded();
                self.directory.replace_all(rows);
                if first {
                    tracing::info!(tenants, keys, "the directory is loaded");
                }
                true
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "the directory could not be reloaded; the last one stays");
                false
            }
        }
    }

    async fn reload_some(&self, ids: &[TenantId]) -> bool {
        let loaded = bounded(PART_LOAD_TIMEOUT, load::these(&self.pool, ids)).await;
        self.metrics.directory_reload("tenant", loaded.is_ok());
        match loaded {
            Ok(rows) => {
                self.directory.replace_some(ids, rows);
                true
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), tenants = ids.len(), "tenants could not be reloaded");
                false
            }
        }
    }
}

/// What the refresher has to do.
struct Work {
    listening: bool,
    /// When everything is reloaded next.
    next_whole: Instant,
    /// Before this, more notices than one query asks for bring no reload of everything.
    flood_until: Instant,
    /// When tenants that notices named are reloaded next.
    next_part: Instant,
    backoff: Backoff,
    changed: HashSet<TenantId>,
    asking: Vec<oneshot::Sender<bool>>,
    sought: Vec<ApiKeyHash>,
    searching: Vec<oneshot::Sender<bool>>,
}

impl Work {
    fn new(full_interval: Duration) -> Self {
        Self {
            listening: false,
            next_whole: Instant::now() + full_interval,
            flood_until: Instant::now(),
            next_part: Instant::now(),
            backoff: Backoff::new(),
            changed: HashSet::new(),
            asking: Vec::new(),
            sought: Vec::new(),
            searching: Vec::new(),
        }
    }

    /// When there is something to do, should nobody ask before.
    fn next(&self) -> Instant {
        if self.changed.is_empty() { self.next_whole } else { self.next_whole.min(self.next_part) }
    }

    /// Whether a request waits for a tenant or a key: notices can wait, requests not.
    fn somebody_waits(&self) -> bool {
        !self.asking.is_empty() || !self.searching.is_empty()
    }
}

fn answer(asked: &mut Vec<oneshot::Sender<bool>>, done: bool) {
    for reply in asked.drain(..) {
        // Whoever asked may have stopped waiting.
        let _ = reply.send(done);
    }
}

async fn bounded<T>(limit: Duration, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(limit, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Never returns: every loss of the connection is followed by a new attempt.
async fn listen(pool: LoginPool, asks: mpsc::Sender<Ask>) {
    let mut backoff = Backoff::new();
    let mut said = false;
    loop {
        match subscribe(&pool).await {
            Ok(listener) => {
                if said {
                    tracing::info!("listening to Postgres again");
                }
                backoff = Backoff::new();
                if asks.send(Ask::Listening).await.is_err() {
                    return;
                }
                let ended = hear(listener, &asks).await;
                if asks.send(Ask::Deaf).await.is_err() {
                    return;
                }
                tracing::warn!(
                    reason = ended,
                    "lost the connection that listens to Postgres; going on from the last directory"
                );
                said = true;
            }
            Err(error) => {
                if !said {
                    tracing::warn!(error = chain(&error), "cannot listen to Postgres; trying on");
                }
                said = true;
                sleep(backoff.next()).await;
            }
        }
    }
}

async fn subscribe(pool: &LoginPool) -> Result<PgListener, sqlx::Error> {
    bounded(PROBE_TIMEOUT, async {
        let mut listener = PgListener::connect_with(pool.connected().await?).await?;
        listener.ignore_pool_close_event(true);
        // A loss then shows at once as None, instead of after a hidden reconnect.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(listener)
    })
    .await
}

/// Passes notices on until the connection is lost; says how that showed.
async fn hear(mut listener: PgListener, asks: &mpsc::Sender<Ask>) -> String {
    loop {
        match timeout(PROBE_EVERY, listener.try_recv()).await {
            Ok(Ok(Some(notice))) => {
                // Other payloads are of a later version.
                if let Ok(id) = notice.payload().parse()
                    && asks.send(Ask::Changed(id)).await.is_err()
                {
                    return "shutting down".to_owned();
                }
            }
            Ok(Ok(None)) => return "the connection was closed".to_owned(),
            Ok(Err(error)) => return chain(&error),
            Err(_) => match timeout(PROBE_TIMEOUT, listener.execute("SELECT 1")).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return chain(&error),
                Err(_) => return "the connection does not answer".to_owned(),
            },
        }
    }
}

/// Doubling waits with jitter.
struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(BACKOFF_FIRST)
    }

    fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(BACKOFF_MOST);
        wait.mul_f64(rand::random_range(0.75..1.25))
    }
}
