//! Watches on the Secrets of dedicated tenants: the engine's login, and its model's key. The operator may not see Secrets of the whole cluster, so
//! there is one watch a namespace, as long as the tenant is dedicated.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Queue, Trouble};
use crate::controller::ENGINE_DB_SECRET;

/// The watches that run. Cheap to clone.
#[derive(Clone)]
pub struct SecretWatches {
    client: Client,
    queue: Queue,
    stop: CancellationToken,
    tasks: TaskTracker,
    running: Arc<Mutex<HashMap<String, CancellationToken>>>,
}

impl SecretWatches {
    /// No watch yet. All of them end with `stop`.
    pub fn new(client: Client, queue: Queue, stop: CancellationToken) -> Self {
        Self { client, queue, stop, tasks: TaskTracker::new(), running: Arc::default() }
    }

    /// Watches a tenant's Secrets, if it does not already.
    pub fn watch(&self, tenant: &str, namespace: &str) {
        let mut running = self.lock();
        if running.contains_key(tenant) {
            return;
        }
        let stop = self.stop.child_token();
        running.insert(tenant.to_owned(), stop.clone());
        let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(self.client.clone(), namespace);
        self.tasks.spawn(follow(api, tenant.to_owned(), self.queue.clone(), stop));
    }

    /// Ends a tenant's watch.
    pub fn forget(&self, tenant: &str) {
        if let Some(stop) = self.lock().remove(tenant) {
            stop.cancel();
        }
    }

    /// Waits until all have ended.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn follow(api: Api<PartialObjectMeta<Secret>>, tenant: String, queue: Queue, stop: CancellationToken) {
    let mut trouble = Trouble::new(format!("Secrets of {tenant}"));
    let mut events = pin!(watcher(api, watcher::Config::default()).backoff(super::patience()));
    let (mut lists, mut there) = (0_u32, false);
    while let Some(event) = tokio::select! { () = stop.cancelled() => None, event = events.next() => event } {
        if let Ok(event) = &event {
            trouble.works();
            match event {
                watcher::Event::Init => there = false,
                watcher::Event::InitApply(secret) => {
                    there |= secret.metadata.name.as_deref() == Some(ENGINE_DB_SECRET);
                }
                // A later list follows an interruption, in which anything may have happened.
                watcher::Event::InitDone => {
                    lists += 1;
                    if lists > 1 || !there {
                        queue.push(&tenant);
                    }
                }
                watcher::Event::Apply(_) | watcher::Event::Delete(_) => queue.push(&tenant),
            }
        }
        if let Err(error) = event {
            trouble.failed(&error);
        }
    }
}
