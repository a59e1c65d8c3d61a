//! All rooms of a program, and who is in them. A room is made for the first that enters and goes with the last that leaves.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tenancy::TenantId;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Changes, Service, Standing, SyncMetrics, WebSocketUpgrade, room::Room, session, socket::Socket};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a question to a log without news waits, and how long it is before one that failed is asked again.
const LOG_WAIT: Duration = Duration::from_secs(1);
const LOG_PAUSE: Duration = Duration::from_millis(100);

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// From the upgrade to the first frame.
    pub hello: Duration,
    /// Between two pings of the server.
    pub ping: Duration,
    /// Nothing came for so long: the client is gone.
    pub idle: Duration,
    /// A client must take what it is sent within this time.
    pub send: Duration,
    /// Operations are tried for so long while nobody can carry them out.
    pub patience: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(5),
            ping: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            send: Duration::from_secs(20),
            patience: Duration::from_mins(1),
        }
    }
}

/// See the module. Cheap to clone.
pub struct Rooms<S: Service>(pub(crate) Arc<Inner<S>>);

impl<S: Service> Clone for Rooms<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

pub(crate) struct Inner<S: Service> {
    pub(crate) service: S,
    pub(crate) metrics: SyncMetrics,
    pub(crate) times: Times,
    /// Cancelled when sockets have to end.
    pub(crate) leaving: CancellationToken,
    rooms: Mutex<HashMap<TenantId, Open>>,
    clients: Mutex<HashMap<u64, Client<S::Member>>>,
    next_client: AtomicU64,
    held: Arc<AtomicUsize>,
    tasks: TaskTracker,
}

struct Open {
    room: Arc<Room>,
    sockets: u32,
    streams: u32,
    stop: CancellationToken,
}

struct Client<M> {
    member: M,
    ended: CancellationToken,
}

/// How somebody is in a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Socket,
    Stream,
}

/// A place in a room; given back when dropped.
pub(crate) struct Seat<S: Service> {
    pub(crate) room: Arc<Room>,
    /// Cancelled when the client may not be here any more: its standing says why.
    pub(crate) ended: CancellationToken,
    rooms: Arc<Inner<S>>,
    id: u64,
    kind: Kind,
}

/// The tenant has as many sockets and event streams here as it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full {
    limit: u32,
}

impl std::error::Error for Full {}

impl fmt::Display for Full {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limit {
            0 => formatter.write_str("the tenant's tier has no sockets and no event streams: take a larger tier"),
            limit => write!(
                formatter,
                "the tenant has {limit} sockets and event streams open here, as many as it may: close some, or take a larger tier"
            ),
        }
    }
}

impl<S: Service> Rooms<S> {
    /// No room yet. Must be called within a runtime; `leaving` ends every socket and stream.
    pub fn new(service: S, metrics: SyncMetrics, times: Times, leaving: CancellationToken) -> Self {
        let inner = Arc::new(Inner {
            service,
            metrics,
            times,
            leaving,
            rooms: Mutex::default(),
            clients: Mutex::default(),
            next_client: AtomicU64::new(0),
            held: Arc::default(),
            tasks: TaskTracker::new(),
        });
        let looking = inner.clone();
        inner.tasks.spawn(async move { looking.look_after_clients().await });
        Self(inner)
    }

    /// Serves the socket that an upgrade becomes. `held` is dropped with it.
    pub fn serve(&self, upgrade: WebSocketUpgrade, client: IpAddr, held: impl Send + 'static) {
        let rooms = self.0.clone();
        self.0.tasks.spawn(async move {
            let _held = held;
            match upgrade.socket().await {
                Ok(stream) => session::serve(rooms, Socket::new(stream), client).await,
                Err(error) => tracing::debug!(%error, "a client went away before its upgrade"),
            }
        });
    }

    /// Waits until every socket was told to go (by `leaving`) and has gone, for at most so long. Returns how many have not.
    pub async fn ended(&self, within: Duration) -> usize {
        self.0.tasks.close();
        let _ = timeout(within, self.0.tasks.wait()).await;
        self.0.tasks.len()
    }
}

impl<S: Service> Inner<S> {
    /// A page of the log for one that is not within what its room holds. When there is nothing yet it is the room that lags:
    /// then this waits a moment. `None`: it cannot be read just now; also after a moment.
    pub(crate) async fn read_log(self: Arc<Self>, tenant: TenantId, place: i64) -> Option<Changes> {
        match self.service.changes(tenant, Some(place), LOG_WAIT).await {
            Ok(page) => Some(page),
            Err(error) => {
                tracing::debug!(%tenant, %error, "the log cannot be read just now; trying again");
                sleep(LOG_PAUSE).await;
                None
            }
        }
    }

    /// Takes a place in a tenant's room, of which there are `limit`.
    pub(crate) fn enter(
        self: &Arc<Self>,
        tenant: TenantId,
        member: S::Member,
        kind: Kind,
        limit: Option<u32>,
    ) -> Result<Seat<S>, Full> {
        let room = {
            let mut rooms = lock(&self.rooms);
            // Before there is a room: of one that is refused nothing stays.
            let taken = rooms.get(&tenant).map_or(0, |open| open.sockets + open.streams);
            if let Some(limit) = limit.filter(|limit| taken >= *limit) {
                return Err(Full { limit });
            }
            let open = rooms.entry(tenant).or_insert_with(|| self.open(tenant));
            match kind {
                Kind::Socket => {
                    open.sockets += 1;
                    self.metrics.sockets.inc();
                }
                Kind::Stream => {
                    open.streams += 1;
                    self.metrics.streams.inc();
                }
            }
            open.room.clone()
        };
        let (id, ended) = (self.next_client.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        lock(&self.clients).insert(id, Client { member, ended: ended.clone() });
        Ok(Seat { room, ended, rooms: self.clone(), id, kind })
    }

    fn open(self: &Arc<Self>, tenant: TenantId) -> Open {
        let room = Arc::new(Room::new(tenant, self.held.clone(), self.metrics.clone()));
        let stop = CancellationToken::new();
        let (following, inner, until) = (room.clone(), self.clone(), stop.clone());
        self.tasks.spawn(async move { following.follow(&inner.service, until).await });
        self.metrics.rooms.inc();
        Open { room, sockets: 0, streams: 0, stop }
    }

    /// Ends whoever may not be here any more.
    async fn look_after_clients(&self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.leaving.run_until_cancelled(looks.tick()).await.is_some() {
            for client in lock(&self.clients).values() {
                if self.service.standing(&client.member) != Standing::Good {
                    client.ended.cancel();
                }
            }
        }
    }
}

impl<S: Service> Drop for Seat<S> {
    fn drop(&mut self) {
        lock(&self.rooms.clients).remove(&self.id);
        let mut rooms = lock(&self.rooms.rooms);
        let tenant = self.room.tenant();
        let Some(open) = rooms.get_mut(&tenant) else { return };
        match self.kind {
            Kind::Socket => {
                open.sockets -= 1;
                self.rooms.metrics.sockets.dec();
            }
            Kind::Stream => {
                open.streams -= 1;
                self.rooms.metrics.streams.dec();
            }
        }
        if open.sockets + open.streams == 0 {
            open.stop.cancel();
            rooms.remove(&tenant);
            self.rooms.metrics.rooms.dec();
        }
    }
}

impl<S: Service> Seat<S> {
    /// Says whether the client may be sent anything more.
    pub(crate) fn may_stay(&self, member: &S::Member) -> bool {
        !self.ended.is_cancelled() && self.rooms.service.standing(member) == Standing::Good
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
