//! Places by tenant: so many of one tenant at a time, the next ones wait in line. One tenant's line concerns no other tenant,
//! and a tenant that has nobody here takes no memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tenancy::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of all tenants. Cheap to clone.
#[derive(Clone)]
pub struct Places(Arc<Shared>);

struct Shared {
    most: usize,
    most_waiting: usize,
    lines: Mutex<HashMap<TenantId, Line>>,
}

/// The places of one tenant.
struct Line {
    places: Arc<Semaphore>,
    /// Those who have a place, and those who wait.
    present: usize,
}

/// A place that is taken. Dropping it lets the next one in.
pub struct Place {
    // Released before the line may go.
    _permit: OwnedSemaphorePermit,
    _presence: Presence,
}

/// Somebody in a line, with a place or without.
struct Presence {
    places: Places,
    tenant: TenantId,
}

/// As many of the tenant wait already as may.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("too many of the tenant wait")]
pub struct LineFull;

impl Places {
    /// Returns `most` places for each tenant, for which at most `most_waiting` wait at one time.
    pub fn new(most: usize, most_waiting: usize) -> Self {
        Self(Arc::new(Shared { most, most_waiting, lines: Mutex::default() }))
    }

    /// Takes a place of the tenant; waits for one, in the order of coming, where all are taken.
    ///
    /// # Errors
    /// [`LineFull`], at once.
    pub async fn take(&self, tenant: TenantId) -> Result<Place, LineFull> {
        let (presence, places) = self.enter(tenant)?;
        // Never closed.
        let permit = places.acquire_owned().await.map_err(|_| LineFull)?;
        Ok(Place { _permit: permit, _presence: presence })
    }

    fn enter(&self, tenant: TenantId) -> Result<(Presence, Arc<Semaphore>), LineFull> {
        let Shared { most, most_waiting, .. } = *self.0;
        let mut lines = self.lines();
        let line = lines.entry(tenant).or_insert_with(|| Line { places: Arc::new(Semaphore::new(most)), present: 0 });
        if line.present >= most.saturating_add(most_waiting) {
            return Err(LineFull);
        }
        line.present += 1;
        Ok((Presence { places: self.clone(), tenant }, line.places.clone()))
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<TenantId, Line>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut lines = self.places.lines();
        if let Some(line) = lines.get_mut(&self.tenant) {
            line.present -= 1;
            if line.present == 0 {
                lines.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Poll};

    use futures::poll;
    use tenancy::LOCAL_TENANT;

    use super::*;

    fn other() -> TenantId {
        "6f1d4b0e-8a52-4e0c-9d54-0b6a2f6f9f11".parse().expect("a UUID")
    }

    #[tokio::test]
    async fn place_taken_next_waits_in_order() {
        let places = Places::new(1, usize::MAX);
        let first = places.take(LOCAL_TENANT).await.expect("a place");
        let (mut second, mut third) = (pin!(places.take(LOCAL_TENANT)), pin!(places.take(LOCAL_TENANT)));
        assert!(poll!(&mut second).is_pending() && poll!(&mut third).is_pending());
        drop(first);
        assert!(poll!(&mut third).is_pending(), "it came later");
        let Poll::Ready(Ok(second)) = poll!(&mut second) else { panic!("the second is let in") };
        drop(second);
        assert!(poll!(&mut third).is_ready());
    }

    #[tokio::test]
    async fn line_full_next_is_refused_at_once() {
        let places = Places::new(1, 1);
        let first = places.take(LOCAL_TENANT).await.expect("a place");
        let mut second = Box::pin(places.take(LOCAL_TENANT));
        assert!(poll!(&mut second).is_pending());
        assert_eq!(places.take(LOCAL_TENANT).await.err(), Some(LineFull));
        assert!(places.take(other()).await.is_ok(), "another tenant has its own");
        drop(second);
        let mut third = pin!(places.take(LOCAL_TENANT));
        assert!(poll!(&mut third).is_pending(), "whoever gave up waits no more");
        drop(first);
        assert!(poll!(&mut third).is_ready());
    }

    #[tokio::test]
    async fn nobody_present_tenant_takes_no_memory() {
        let places = Places::new(1, usize::MAX);
        let first = places.take(LOCAL_TENANT).await.expect("a place");
        let mut second = Box::pin(places.take(LOCAL_TENANT));
        assert!(poll!(&mut second).is_pending());
        drop(places.take(other()).await);
        assert_eq!(places.lines().len(), 1);
        drop((first, second));
        assert!(places.lines().is_empty());
    }
}
