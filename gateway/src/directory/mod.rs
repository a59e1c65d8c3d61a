//! The directory: every tenant, and which key is whose, in memory. No request asks Postgres who it is or where it goes.
//!
//! One task writes ([`refresh`]); requests read under a lock that is held for one lookup and never across an await.
//! Two tables under one lock instead of an immutable snapshot, since one tenant's change then costs its own entries
//! and not a copy of ten thousand. While Postgres is away the tables stay as they are, and `age` tells since when.

mod load;
mod refresh;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::HeaderValue;
use tenancy::{ApiKeyHash, MasterKey, TenantId};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

pub use refresh::Refresher;

use crate::limit::{Limiter, Rates};

/// A tenant as requests need it. Holds a capability, so no `Debug`.
pub struct Tenant {
    /// Its identity.
    pub id: TenantId,
    /// The name of its tier, as Postgres has it.
    pub tier: Arc<str>,
    /// Where its requests go.
    pub target: Target,
    /// Whether it is refused for now.
    pub suspended: bool,
    /// Its effective rate over all gateways.
    pub requests_per_minute: u32,
    /// Sync sockets that it may have open at one time over all gateways; `None` for no limit.
    pub max_sockets: Option<u32>,
    /// Operations a second that one of its sync sockets may send; at least 1.
    pub socket_messages_per_second: u32,
    /// What the engine shows to Postgres; marked sensitive.
    pub capability: HeaderValue,
    /// Of which generation the capability is.
    pub capability_generation: i32,
    /// What is left of its rates here. Survives reloads.
    pub rates: Arc<Rates>,
}

/// Where a tenant's requests go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// The engine of all pooled tenants.
    Pooled,
    /// Its own engine: host:port.
    Dedicated(Arc<str>),
}

/// What the directory knows of a key.
#[derive(Clone)]
pub struct KeyHolder {
    /// The tenant.
    pub tenant: TenantId,
    /// The agent.
    pub agent: Arc<str>,
    /// The key's id.
    pub key_id: Uuid,
    /// Until when it counts.
    pub expires_at: Option<OffsetDateTime>,
}

/// A row of `stellar.users` that is served.
pub struct TenantRow {
    /// Its identity.
    pub id: TenantId,
    /// The name of its tier.
    pub tier: String,
    /// Where its requests go.
    pub target: Target,
    /// Whether it is refused for now.
    pub suspended: bool,
    /// Its effective rate.
    pub requests_per_minute: u32,
    /// Open sync sockets; `None` for no limit.
    pub max_sockets: Option<u32>,
    /// Operations a second of one sync socket; at least 1.
    pub socket_messages_per_second: u32,
    /// Which capability counts.
    pub capability_generation: i32,
}

/// Rows as Postgres returned them: whole tenants with all their keys.
#[derive(Default)]
pub struct Rows {
    /// The tenants.
    pub tenants: Vec<TenantRow>,
    /// Their keys.
    pub keys: Vec<(ApiKeyHash, KeyHolder)>,
}

#[derive(Default)]
struct Tables {
    tenants: HashMap<TenantId, Entry>,
    keys: HashMap<ApiKeyHash, KeyHolder>,
}

struct Entry {
    tenant: Arc<Tenant>,
    keys: Vec<ApiKeyHash>,
}

/// When the tables were known to agree with Postgres.
#[derive(Clone, Copy)]
enum Freshness {
    /// Notices arrive.
    Current,
    /// Since then they do not.
    StaleSince(Instant),
}

/// See the module.
pub struct Directory {
    tables: RwLock<Tables>,
    master_key: MasterKey,
    loaded: AtomicBool,
    freshness: RwLock<Freshness>,
    asks: mpsc::Sender<Ask>,
    made: Instant,
    searches: Limiter,
    max_age: Duration,
}

/// A wish to the refresher.
pub(crate) enum Ask {
    /// Postgres tells that this tenant changed.
    Changed(TenantId),
    /// A request wants to be sure about this tenant.
    Verify(TenantId, oneshot::Sender<bool>),
    /// A request has a key that nobody knows here.
    Search(ApiKeyHash, oneshot::Sender<bool>),
    /// Notices arrive (again): anything may have happened before.
    Listening,
    /// Notices stopped.
    Deaf,
}

/// Sizes for the metrics.
pub struct Size {
    /// Tenants that are served.
    pub tenants: usize,
    /// Live keys.
    pub keys: usize,
}

/// Tenants that a reload changes while it holds the lock.
const UPSERTS_PER_LOCK: usize = 256;
const SEARCH_TIMEOUT: Duration = Duration::from_millis(500);
const SEARCHES_PER_MINUTE: u32 = 6000;
const VERIFY_TIMEOUT: Duration = Duration::from_secs(2);

impl Directory {
    /// An empty directory and the wishes that its refresher has to read.
    /// `max_age`: see [`is_too_old`](Self::is_too_old); zero for no bound.
    pub(crate) fn new(master_key: MasterKey, max_age: Duration) -> (Arc<Self>, mpsc::Receiver<Ask>) {
        let (asks, wishes) = mpsc::channel(1024);
        let directory = Self {
            tables: RwLock::default(),
            master_key,
            loaded: AtomicBool::new(false),
            freshness: RwLock::new(Freshness::StaleSince(Instant::now())),
            asks,
            made: Instant::now(),
            searches: Limiter::default(),
            max_age,
        };
        (Arc::new(directory), wishes)
    }

    /// A loaded directory of given rows that nothing refreshes: for tests.
    pub fn fixed(master_key: MasterKey, rows: Rows) -> Arc<Self> {
        let (directory, _) = Self::new(master_key, Duration::ZERO);
        directory.replace_all(rows);
        directory
    }

    /// A loaded directory that learns other rows when it is first asked to verify a tenant, as long as the future is
    /// polled: for tests.
    pub fn corrected(master_key: MasterKey, rows: Rows, later: Rows) -> (Arc<Self>, impl Future<Output = ()> + Send) {
        let (directory, mut wishes) = Self::new(master_key, Duration::ZERO);
        directory.replace_all(rows);
        let (corrected, mut later) = (directory.clone(), Some(later));
        let refresher = async move {
            while let Some(ask) = wishes.recv().await {
                if let Ask::Verify(_, reply) = ask {
                    if let Some(later) = later.take() {
                        corrected.replace_all(later);
                    }
                    let _ = reply.send(true);
                }
            }
        };
        (directory, refresher)
    }

    /// An empty, loaded directory to which notices arrive, and the wishes that nobody reads for it: for tests.
    #[cfg(test)]
    pub(crate) fn listening(master_key: MasterKey) -> (Arc<Self>, mpsc::Receiver<Ask>) {
        let (directory, wishes) = Self::new(master_key, Duration::ZERO);
        directory.replace_all(Rows::default());
        directory.set_freshness(Freshness::Current);
        (directory, wishes)
    }

    /// Whether the tables were loaded once.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// The tenant and holder of a key.
    pub fn find_key(&self, hash: &ApiKeyHash) -> Option<(Arc<Tenant>, KeyHolder)> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let holder = tables.keys.get(hash)?;
        let entry = tables.tenants.get(&holder.tenant)?;
        Some((entry.tenant.clone(), holder.clone()))
    }

    /// A tenant by its identity.
    pub fn find(&self, id: TenantId) -> Option<Arc<Tenant>> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.tenants.get(&id).map(|entry| entry.tenant.clone())
    }

    /// Asks Postgres about one tenant again and waits for it, a bounded time. False: nobody could say.
    pub async fn verify(&self, id: TenantId) -> bool {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.asks.send(Ask::Verify(id, reply)).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(VERIFY_TIMEOUT, asked).await.ok().flatten().unwrap_or(false)
    }

    /// Asks Postgres for a key that is not known here: it may be so new that its notice is still on the way, which
    /// another gateway's client would notice. Bounded in number and time, and not while notices do not arrive. True:
    /// another look into the directory is worth it.
    pub async fn search(&self, hash: ApiKeyHash) -> bool {
        if self.age() > Duration::ZERO || !self.searches.decide(self.made.elapsed(), SEARCHES_PER_MINUTE).allowed {
            return false;
        }
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.asks.send(Ask::Search(hash, reply)).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(SEARCH_TIMEOUT, asked).await.ok().flatten().unwrap_or(false)
    }

    /// How much it holds.
    pub fn size(&self) -> Size {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        Size { tenants: tables.tenants.len(), keys: tables.keys.len() }
    }

    /// For how long it may have missed changes. Zero while notices arrive.
    pub fn age(&self) -> Duration {
        match *self.freshness.read().unwrap_or_else(PoisonError::into_inner) {
            Freshness::Current => Duration::ZERO,
            Freshness::StaleSince(then) => then.elapsed(),
        }
    }

    /// Returns true when changes may have been missed for so long that nobody knows which keys still count.
    pub fn is_too_old(&self) -> bool {
        self.max_age > Duration::ZERO && self.age() > self.max_age
    }

    /// Notices stopped. What was stale already stays so since then.
    fn grow_stale(&self) {
        let mut freshness = self.freshness.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*freshness, Freshness::Current) {
            *freshness = Freshness::StaleSince(Instant::now());
        }
    }

    fn set_freshness(&self, freshness: Freshness) {
        *self.freshness.write().unwrap_or_else(PoisonError::into_inner) = freshness;
    }

    /// Makes the tables what the rows say. What did not change stays as it is: a reload of very many tenants costs the memory of
    /// their rows for a moment, and holds the lock for a few tenants at a time.
    pub fn replace_all(&self, mut rows: Rows) {
        rows.tenants.sort_unstable_by_key(|row| row.id);
        let there: Vec<TenantId> = rows.tenants.iter().map(|row| row.id).collect();
        self.upsert(rows);
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let Tables { tenants, keys } = &mut *tables;
        tenants.retain(|id, entry| {
            let stays = there.binary_search(id).is_ok();
            if !stays {
                entry.keys.iter().for_each(|hash| drop(keys.remove(hash)));
            }
            stays
        });
        drop(tables);
        self.loaded.store(true, Ordering::Release);
    }

    /// Puts the rows of some tenants in the place of what was known of them; who has no row is not served any more.
    pub fn replace_some(&self, ids: &[TenantId], rows: Rows) {
        let there: HashSet<TenantId> = rows.tenants.iter().map(|row| row.id).collect();
        self.upsert(rows);
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        for id in ids.iter().filter(|id| !there.contains(id)) {
            let Some(entry) = tables.tenants.remove(id) else { continue };
            entry.keys.iter().for_each(|hash| drop(tables.keys.remove(hash)));
        }
    }

    fn upsert(&self, rows: Rows) {
        let Rows { tenants, mut keys } = rows;
        keys.sort_unstable_by_key(|(_, holder)| holder.tenant);
        let mut tenants = tenants.into_iter().peekable();
        while tenants.peek().is_some() {
            let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
            for row in tenants.by_ref().take(UPSERTS_PER_LOCK) {
                let id = row.id;
                let first = keys.partition_point(|(_, holder)| holder.tenant < id);
                let own = keys[first..].iter().take_while(|(_, holder)| holder.tenant == id);
                tables.upsert(&self.master_key, row, own);
            }
        }
    }
}

impl Tables {
    fn upsert<'a>(
        &mut self,
        master_key: &MasterKey,
        row: TenantRow,
        keys: impl Iterator<Item = &'a (ApiKeyHash, KeyHolder)> + Clone,
    ) {
        let id = row.id;
        if !self.tenants.get(&id).is_some_and(|entry| entry.tenant.agrees_with(&row)) {
            let (rates, known) = match self.tenants.remove(&id) {
                Some(Entry { tenant, keys }) => (tenant.rates.clone(), keys),
                None => (Arc::default(), Vec::new()),
            };
            let Some(tenant) = Tenant::of(row, master_key, rates) else {
                for hash in &known {
                    self.keys.remove(hash);
                }
                return;
            };
            self.tenants.insert(id, Entry { tenant: Arc::new(tenant), keys: known });
        }
        let Some(entry) = self.tenants.get_mut(&id) else { return };
        for gone in entry.keys.iter().filter(|known| keys.clone().all(|(hash, _)| hash != *known)) {
            if self.keys.get(gone).is_some_and(|holder| holder.tenant == id) {
                self.keys.remove(gone);
            }
        }
        entry.keys.clear();
        for (hash, holder) in keys {
            entry.keys.push(*hash);
            self.keys.insert(*hash, holder.clone());
        }
    }
}

impl Tenant {
    fn of(row: TenantRow, master_key: &MasterKey, rates: Arc<Rates>) -> Option<Self> {
        let TenantRow {
            id,
            tier,
            target,
            suspended,
            requests_per_minute,
            max_sockets,
            socket_messages_per_second,
            capability_generation,
        } = row;
        // Hex digits are always a valid value.
        let mut capability = HeaderValue::try_from(master_key.capability(id, capability_generation).expose()).ok()?;
        capability.set_sensitive(true);
        Some(Self {
            id,
            tier: tier.into(),
            target,
            suspended,
            requests_per_minute,
            max_sockets,
            socket_messages_per_second,
            capability,
            capability_generation,
            rates,
        })
    }

    fn agrees_with(&self, row: &TenantRow) -> bool {
        let TenantRow {
            id,
            tier,
            target,
            suspended,
            requests_per_minute,
            max_sockets,
            socket_messages_per_second,
            capability_generation,
        } = row;
        self.id == *id
            && *self.tier == **tier
            && self.target == *target
            && self.suspended == *suspended
            && self.requests_per_minute == *requests_per_minute
            && self.max_sockets == *max_sockets
            && self.socket_messages_per_second == *socket_messages_per_second
            && self.capability_generation == *capability_generation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenancy::ApiKey;

    fn row(id: TenantId, tier: &str) -> TenantRow {
        TenantRow {
            id,
            tier: tier.to_owned(),
            target: Target::Pooled,
            suspended: false,
            requests_per_minute: 60,
            max_sockets: Some(5),
            socket_messages_per_second: 10,
            capability_generation: 1,
        }
    }

    fn holder(tenant: TenantId) -> KeyHolder {
        KeyHolder { tenant, agent: "main".into(), key_id: Uuid::new_v4(), expires_at: None }
    }

    fn id() -> TenantId {
        TenantId::new(Uuid::new_v4()).expect("not nil")
    }

    #[test]
    fn a_tenants_reload_touches_no_other_and_keeps_its_limiter() {
        let (a, b) = (id(), id());
        let (key_a, new_key_a, key_b) =
            (ApiKey::generate().hash(), ApiKey::generate().hash(), ApiKey::generate().hash());
        let rows =
            Rows { tenants: vec![row(a, "free"), row(b, "free")], keys: vec![(key_a, holder(a)), (key_b, holder(b))] };
        let directory = Directory::fixed(MasterKey::generate(), rows);
        let before = directory.find(a).expect("known");
        before.rates.requests.decide(Duration::ZERO, 60);

        directory.replace_some(&[a], Rows { tenants: vec![row(a, "pro")], keys: vec![(new_key_a, holder(a))] });
        assert!(directory.find_key(&key_a).is_none(), "a revoked key is gone");
        let (after, _) = directory.find_key(&new_key_a).expect("the new key counts");
        assert_eq!(&*after.tier, "pro");
        assert!(Arc::ptr_eq(&before.rates, &after.rates));
        assert!(directory.find_key(&key_b).is_some());

        directory.replace_some(&[a], Rows::default());
        assert!(directory.find(a).is_none() && directory.find_key(&new_key_a).is_none());
        assert_eq!((directory.size().tenants, directory.size().keys), (1, 1));
    }

    #[test]
    fn full_reload_keeps_unchanged_tenants_and_drops_others() {
        let (a, b, c) = (id(), id(), id());
        let keys: Vec<ApiKeyHash> = (0..4).map(|_| ApiKey::generate().hash()).collect();
        let rows = |tenants: &[TenantId], keys: &[(ApiKeyHash, TenantId)]| Rows {
            tenants: tenants.iter().map(|id| row(*id, "free")).collect(),
            keys: keys.iter().map(|(hash, tenant)| (*hash, holder(*tenant))).collect(),
        };
        let first = rows(&[a, b], &[(keys[0], a), (keys[1], a), (keys[2], b)]);
        let directory = Directory::fixed(MasterKey::generate(), first);
        let before = directory.find(a).expect("known");
        directory.replace_all(rows(&[a, c], &[(keys[0], a), (keys[3], c)]));
        assert!(Arc::ptr_eq(&before, &directory.find(a).expect("still known")));
        assert!(directory.find(b).is_none());
        let known: Vec<bool> = keys.iter().map(|hash| directory.find_key(hash).is_some()).collect();
        assert_eq!(known, [true, false, false, true]);
    }

    #[test]
    fn a_key_of_nobody_is_not_kept() {
        let stray = ApiKey::generate().hash();
        let directory =
            Directory::fixed(MasterKey::generate(), Rows { tenants: vec![], keys: vec![(stray, holder(id()))] });
        assert!(directory.find_key(&stray).is_none());
        assert_eq!(directory.size().keys, 0);
    }
}
