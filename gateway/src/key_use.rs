//! When keys were last used: collected in memory and written to Postgres in batches.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use login_pool::LoginPool;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{auth::Caller, error::chain};

const WRITE_EVERY: Duration = Duration::from_secs(10);
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Keys that wait at most: some megabytes.
const WAITING_MOST: usize = 50_000;
const BATCH: usize = 5_000;

type Waiting = HashMap<(Uuid, Uuid), OffsetDateTime>;

/// See the module.
#[derive(Default)]
pub struct KeyUses {
    waiting: Mutex<Waiting>,
}

impl KeyUses {
    /// Notes a use. False: too many keys wait, so it is dropped.
    pub fn note(&self, caller: &Caller, at: OffsetDateTime) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (caller.tenant.id.uuid(), caller.key_id);
        if waiting.len() >= WAITING_MOST && !waiting.contains_key(&key) {
            return false;
        }
        waiting.insert(key, at);
        true
    }

    /// Writes every ten seconds until cancelled, and a last time then.
    pub async fn write_regularly(&self, pool: LoginPool, cancelled: CancellationToken) {
        let mut failing = false;
        while cancelled.run_until_cancelled(tokio::time::sleep(WRITE_EVERY)).await.is_some() {
            let done = self.write(&pool).await;
            if let Err(error) = &done
                && !failing
            {
                tracing::warn!(error = chain(error), "the last use of API keys could not be written; trying on");
            }
            failing = done.is_err();
        }
        if let Err(error) = self.write(&pool).await {
            tracing::warn!(error = chain(&error), "the last uses of API keys before the end are lost");
        }
    }

    async fn write(&self, pool: &LoginPool) -> Result<(), sqlx::Error> {
        loop {
            let batch = self.take();
            if batch.is_empty() {
                return Ok(());
            }
            let (mut tenants, mut keys, mut times) = (Vec::new(), Vec::new(), Vec::new());
            for ((tenant, key), at) in &batch {
                tenants.push(*tenant);
                keys.push(*key);
                times.push(*at);
            }
            let query = sqlx::query("SELECT stellar.keys_used($1, $2, $3)").bind(tenants).bind(keys).bind(times);
            let write = async { query.persistent(false).execute(&mut *pool.acquire().await?).await };
            let written = tokio::time::timeout(WRITE_TIMEOUT, write).await;
            if let Err(error) = written.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
                self.put_back(batch);
                return Err(error);
            }
        }
    }

    fn take(&self) -> Waiting {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() <= BATCH {
            return std::mem::take(&mut *waiting);
        }
        let some: Vec<_> = waiting.keys().take(BATCH).copied().collect();
        some.into_iter().filter_map(|key| waiting.remove_entry(&key)).collect()
    }

    fn put_back(&self, batch: Waiting) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, at) in batch {
            if waiting.len() < WAITING_MOST {
                waiting.entry(key).or_insert(at);
            }
        }
    }
}
