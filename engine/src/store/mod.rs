//! All SQL of the engine. [`TenantTx`] is the only way to a tenant's rows: it names the tenant and proves the right to
//! it before anything else happens on the connection, and nothing outside this module reaches the pool.
//!
//! Every statement is sent unnamed (Postgres' unnamed statement, replaced by the next one), never prepared under a name:
//! SQL that was injected into one tenant's transaction could otherwise leave a statement of its own under the name that
//! the driver will use for the next tenant. In sqlx 0.9 a query is named unless `persistent(false)` is set on it, *also*
//! when the statement cache has no capacity (it is then never closed either); so [`sql`] sets it, every query of this
//! module starts with `sql`, and the cache is off besides.

mod changes;
mod coalesce;
mod connect;
mod error;
mod memories;
mod operations;
mod orbit;
mod setup;

use sqlx::{
    PgPool, Postgres, Row as _, Transaction,
    postgres::{PgArguments, PgPoolOptions},
    query::Query,
};
use tenancy::{Capability, TenantId};
use uuid::Uuid;

pub use changes::{Change, ChangeOp};
pub use coalesce::{Coalescer, StoreMetrics, Stored};
pub use connect::{Database, follow_url};
pub use error::StoreError;
pub use memories::{IndexRow, ListAfter, MemoryPage, TimeAfter};
pub use operations::Operation;
pub use orbit::Recalled;
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
            Self::Write => "BEGIN ISOLATION LEVEL READ COMMITTED",
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
    pool: PgPool,
    only: Option<TenantId>,
}

/// A transaction of one tenant. Dropped without [`TenantTx::commit`] it is rolled back.
pub struct TenantTx {
    tx: Transaction<'static, Postgres>,
    tenant: Uuid,
    usage: Usage,
}

/// An unnamed statement: see the module.
fn sql(text: &'static str) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(text).persistent(false)
}

impl Store {
    /// A pool that connects when it is first used. `only`: the tenant of a dedicated engine.
    pub fn new(database: &Database, max_connections: u32, only: Option<TenantId>) -> Self {
        let pool = PgPoolOptions::new()
            .min_connections(0)
            .max_connections(max_connections)
            .idle_timeout(connect::IDLE_TIMEOUT)
            .max_lifetime(connect::MAX_LIFETIME)
            .acquire_timeout(connect::ACQUIRE_TIMEOUT)
            // A connection that was used a moment ago is taken as it is; `begin` retries when it proves dead.
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > connect::TRUSTED_FOR {
                        sqlx::Connection::ping(connection).await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(database.options().clone());
        Self { pool, only }
    }

    /// Opens a transaction of the tenant.
    ///
    /// # Errors
    /// [`StoreError::NotServedHere`] when the tenant is not served here or the capability is not its own;
    /// [`StoreError::Unavailable`] when Postgres cannot be reached or is too busy.
    pub async fn begin(&self, caller: &Caller, access: Access) -> Result<TenantTx, StoreError> {
        if self.only.is_some_and(|only| only != caller.tenant) {
            return Err(StoreError::NotServedHere);
        }
        // After a restart of Postgres each pooled connection may be dead: that many attempts, then one on a new one.
        let mut attempts = self.pool.options().get_max_connections();
        loop {
            match self.enter(caller, access).await {
                Err(error) if error.is_dead_connection() && attempts > 0 => attempts -= 1,
                result => return result,
            }
        }
    }

    async fn enter(&self, caller: &Caller, access: Access) -> Result<TenantTx, StoreError> {
        let mut tx = self.pool.begin_with(access.begin()).await.map_err(StoreError::while_("begin a transaction"))?;
        let tenant = caller.tenant.uuid();
        let row = sql("SELECT e.change_seq, e.memory_count, e.memory_limit FROM stellar.enter($1, $2, $3, $4) e")
            .bind(tenant)
            .bind(caller.capability.as_bytes().as_slice())
            .bind(caller.agent.as_deref())
            .bind(access == Access::Write)
            .fetch_optional(&mut *tx)
            .await
            .map_err(StoreError::while_("enter a tenant"))?;
        let Some(row) = row else { return Err(StoreError::NotServedHere) };
        let read = || -> Result<Usage, sqlx::Error> {
            Ok(Usage { change_seq: row.try_get(0)?, memory_count: row.try_get(1)?, memory_limit: row.try_get(2)? })
        };
        let usage = read().map_err(StoreError::while_("enter a tenant"))?;
        Ok(TenantTx { tx, tenant, usage })
    }

    /// Whether Postgres answers, and serves the tenant of a dedicated engine.
    ///
    /// # Errors
    /// Why not.
    pub async fn check(&self) -> Result<(), StoreError> {
        let row = sql("SELECT stellar.current_tenant()")
            .fetch_one(&self.pool)
            .await
            .map_err(StoreError::while_("check the database"))?;
        let current: Option<Uuid> = row.try_get(0).map_err(StoreError::while_("check the database"))?;
        match self.only {
            Some(only) if current != Some(only.uuid()) => Err(StoreError::NotServedHere),
            _ => Ok(()),
        }
    }

    /// Connections: open ones, and how many of them are idle.
    pub fn connections(&self) -> (u32, usize) {
        (self.pool.size(), self.pool.num_idle())
    }

    /// Uses other connection options for connections that are made from now on.
    pub fn set_database(&self, database: &Database) {
        self.pool.set_connect_options(database.options().clone());
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

    /// Makes what was written durable.
    ///
    /// # Errors
    /// [`StoreError`]; whether it was written is then not known.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.tx.commit().await.map_err(StoreError::while_(error::COMMIT))
    }
}
