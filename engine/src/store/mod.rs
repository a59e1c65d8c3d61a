//! All SQL of the engine. [`TenantTx`] is the only way to a tenant's rows: it names the tenant and proves the right to
//! it before anything else happens on the connection, and nothing outside this module reaches the pool.
//!
//! Every statement is sent unnamed (Postgres' unnamed statement, replaced by the next one), never prepared under a name:
//! SQL that was injected into one tenant's transaction could otherwise leave a statement of its own under the name that
//! the driver will use for the next tenant. In sqlx 0.9 a query is named unless `persistent(false)` is set on it, *also*
//! when the statement cache has no capacity (it is then never closed either); so [`sql`] sets it, every query of this
//! module starts with `sql`, and the cache is off besides. For the same reason a connection that is given back is put in
//! order before the next tenant gets it.

mod answers;
mod audit;
mod carry_out;
mod changes;
mod coalesce;
mod committed;
mod connect;
mod ends;
mod error;
mod memories;
mod operation;
mod orbit;
mod places;
mod portability;
mod rows;
mod sessions;
mod setup;

use std::sync::Arc;

use login_pool::LoginPool;
use sqlx::{
    Postgres, Row as _, Transaction,
    postgres::{PgArguments, PgPoolOptions},
    query::Query,
};
use tenancy::{Capability, TenantId};
use uuid::Uuid;

use sessions::Sessions;

pub use audit::{AuditAfter, AuditEntry, AuditPlace};
pub use changes::{Change, ChangeOp};
pub use coalesce::{Coalescer, ImportTurn, MOST_AT_ONCE, MOST_IMPORTS_WAITING, StoreMetrics};
pub use committed::Committed;
pub use connect::{Database, follow_url};
pub use error::StoreError;
pub use memories::{IndexRow, ListAfter, MemoryPage, TimeAfter};
pub use operation::{Once, Reason, What, Write, Written};
pub use orbit::Recalled;
pub use places::{LineFull, Place, Places};
pub use portability::{Arrival, Arrived};
pub use setup::{LocalTenant, SetupError, create_database, set_up};

/// Who asks: the tenant, the proof, the agent. No `Debug`, for the proof is a secret.
#[derive(Clone)]
pub struct Caller {
    /// The tenant that the request acts for.
    pub tenant: TenantId,
    /// The proof of it.
    pub capability: Capability,
    /// The agent, for the change log.
    pub agent: Option<String>,
    /// The API key, by its id, for the audit.
    pub key: Option<Uuid>,
}

/// What a transaction is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Takes no lock.
    Read,
    /// Locks the tenant's usage row first, as every writer does: two that lock in another order deadlock.
    Write,
}

impl Access {
    /// A reader sees one snapshot, in which the tenant is served here or not: were each statement to look anew, a flip
    /// between two of them would make an empty answer of "not served here". A writer holds its placement by a lock.
    fn begin(self) -> &'static str {
        match self {
            Self::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            Self::Write => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
        }
    }
}

/// The tenant's counters, as they were when the transaction entered. Under [`Access::Write`] nobody else moves them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// The number of the last change.
    pub change_seq: i64,
    /// Memories stored.
    pub memory_count: i32,
    /// Memories allowed; -1 for no limit.
    pub memory_limit: i32,
}

/// The pool, and whom it may serve.
#[derive(Clone)]
pub struct Store {
    pool: LoginPool,
    only: Option<TenantId>,
    sessions: Sessions,
    /// Of transactions; none: one tenant may have as many as there are connections.
    places: Option<Places>,
    committed: Option<Arc<dyn Committed>>,
}

/// A transaction of one tenant. Dropped without [`TenantTx::commit`] it is rolled back.
pub struct TenantTx {
    tx: Transaction<'static, Postgres>,
    tenant: Uuid,
    usage: Usage,
    /// The number of the last change, those of this transaction included.
    seq: i64,
    committed: Option<(TenantId, Arc<dyn Committed>)>,
    /// Kept as long as the connection.
    place: Option<Place>,
}

/// An unnamed statement: see the module.
fn sql(text: &'static str) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(text).persistent(false)
}

impl Store {
    /// A pool that connects when it is first used. `only`: the tenant of a dedicated engine.
    pub fn new(database: &Database, max_connections: u32, only: Option<TenantId>) -> Self {
        let sessions = Sessions::default();
        let usable = sessions.clone();
        let options = PgPoolOptions::new()
            .min_connections(0)
            .max_connections(max_connections)
            .idle_timeout(connect::IDLE_TIMEOUT)
            .max_lifetime(connect::MAX_LIFETIME)
            .acquire_timeout(connect::ACQUIRE_TIMEOUT)
            // A connection that was used a moment ago is taken as it is; `begin` retries when it proves dead.
            .test_before_acquire(false)
            .before_acquire(move |connection, meta| {
                let usable = usable.are_usable(meta.age);
                Box::pin(async move {
                    if !usable {
                        return Ok(false);
                    }
                    if meta.idle_for > connect::TRUSTED_FOR {
                        sqlx::Connection::ping(connection).await?;
                    }
                    Ok(true)
                })
            })
            // While nobody waits for it. A connection that cannot be put in order is closed.
            .after_release(|connection, _| {
                Box::pin(async move {
                    sqlx::raw_sql(connect::PUT_IN_ORDER).execute(connection).await?;
                    Ok(true)
                })
            });
        let pool = LoginPool::new(options, database.options().clone(), database.file());
        Self { pool, only, sessions, places: None, committed: None }
    }

    /// Returns the same pool, of which one tenant holds at most `most` connections at one time: its further transactions wait
    /// without one.
    #[must_use]
    pub fn shared_fairly(self, most: u32) -> Self {
        Self { places: Some(Places::new(most as usize, usize::MAX)), ..self }
    }

    /// The same pool; `committed` is told of every write that is committed through it.
    #[must_use]
    pub fn telling(self, committed: Arc<dyn Committed>) -> Self {
        Self { committed: Some(committed), ..self }
    }

    /// Opens a transaction of the tenant. Waits for as long as the tenant has as many as it may ([`Store::shared_fairly`]).
    ///
    /// # Errors
    /// [`StoreError::NotServedHere`] when the tenant is not served here or the capability is not its own;
    /// [`StoreError::Unavailable`] when Postgres cannot be reached or is too busy.
    pub async fn begin(&self, caller: &Caller, access: Access) -> Result<TenantTx, StoreError> {
        if self.only.is_some_and(|only| only != caller.tenant) {
            return Err(StoreError::NotServedHere);
        }
        // After a restart of Postgres each pooled connection may be dead: that many attempts, then one on a new one.
        let mut attempts = self.pool.max_connections();
        loop {
            match self.enter(caller, access).await {
                Err(error) if error.is_dead_connection() && attempts > 0 => attempts -= 1,
                // A role that was dropped and made again is another one: sessions of the old one serve nobody.
                Err(StoreError::NotServedHere) if self.only.is_some() && self.sessions.renew() => {}
                result => return result,
            }
        }
    }

    async fn enter(&self, caller: &Caller, access: Access) -> Result<TenantTx, StoreError> {
        let place = match &self.places {
            Some(places) => Some(places.take(caller.tenant).await.map_err(|LineFull| StoreError::Overloaded)?),
            None => None,
        };
        // In a task of its own: were a client that hangs up to end the wait within BEGIN, sqlx would give the connection
        // back with the transaction open, and the next request would find itself in it.
        let pool = self.pool.clone();
        let begun = tokio::spawn(async move { (pool.begin_with(access.begin()).await, place) });
        let (begun, place) = begun.await.map_err(|_| StoreError::Lost("begin a transaction"))?;
        let mut tx = begun.map_err(StoreError::while_("begin a transaction"))?;
        let tenant = caller.tenant.uuid();
        let row = sql("SELECT e.change_seq, e.memory_count, e.memory_limit FROM stellar.enter($1, $2, $3, $4, $5) e")
            .bind(tenant)
            .bind(caller.capability.as_bytes().as_slice())
            .bind(caller.agent.as_deref())
            .bind(access == Access::Write)
            .bind(caller.key)
            .fetch_optional(&mut *tx)
            .await
            .map_err(StoreError::while_("enter a tenant"))?;
        let Some(row) = row else { return Err(StoreError::NotServedHere) };
        let read = || -> Result<Usage, sqlx::Error> {
            Ok(Usage { change_seq: row.try_get(0)?, memory_count: row.try_get(1)?, memory_limit: row.try_get(2)? })
        };
        let usage = read().map_err(StoreError::while_("enter a tenant"))?;
        let committed = self.committed.clone().map(|committed| (caller.tenant, committed));
        Ok(TenantTx { tx, tenant, usage, seq: usage.change_seq, committed, place })
    }

    /// Whether Postgres answers, and serves the tenant of a dedicated engine.
    ///
    /// # Errors
    /// Why not.
    pub async fn check(&self) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await.map_err(StoreError::while_("check the database"))?;
        let row = sql("SELECT stellar.current_tenant()")
            .fetch_one(&mut *connection)
            .await
            .map_err(StoreError::while_("check the database"))?;
        let current: Option<Uuid> = row.try_get(0).map_err(StoreError::while_("check the database"))?;
        match self.only {
            Some(only) if current != Some(only.uuid()) => {
                self.sessions.renew();
                Err(StoreError::NotServedHere)
            }
            _ => Ok(()),
        }
    }

    /// Connections: open ones, and how many of them are idle.
    pub fn connections(&self) -> (u32, usize) {
        self.pool.connections()
    }

    /// Looks at the file that the database URL is from. New connections use a changed one: true, if it has changed.
    pub async fn look_for_url(&self) -> bool {
        self.pool.look().await
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl TenantTx {
    /// The tenant's counters at the start.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// For the rest of the transaction an index that has the wanted order is preferred to sorting.
    ///
    /// The planner has no statistics here (they would answer questions about other tenants), takes any tenant for a small
    /// one, and would read and sort all of its memories for each page: 22 s instead of 5 to index 300,000.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn prefer_index_order(&mut self) -> Result<(), StoreError> {
        sql("SELECT set_config('enable_sort', 'off', true), set_config('enable_bitmapscan', 'off', true),
                 set_config('jit', 'off', true)")
        .execute(&mut *self.tx)
        .await
        .map_err(StoreError::while_("choose plans"))?;
        Ok(())
    }

    /// Makes what was written durable, and tells who wants to know ([`Store::telling`]).
    ///
    /// # Errors
    /// [`StoreError`]; whether it was written is then not known.
    pub async fn commit(self) -> Result<(), StoreError> {
        let Self { tx, tenant: _, usage, seq, committed, place } = self;
        tx.commit().await.map_err(StoreError::while_(error::COMMIT))?;
        drop(place);
        if let Some((tenant, committed)) = committed
            && seq > usage.change_seq
        {
            committed.committed(tenant, seq);
        }
        Ok(())
    }
}
