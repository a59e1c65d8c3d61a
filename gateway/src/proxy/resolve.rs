//! From an engine's name to its addresses: host:port, or several separated by commas.
//!
//! Known addresses are used at once and looked up again behind the request when they are older than a second; after a
//! refusal they are looked up before the next attempt. Lookups of one name run once at a time. When DNS fails the last
//! addresses stay: a wrong one costs a refusal, none would cost every request.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::error::chain;

const FRESH: Duration = Duration::from_secs(1);
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Names that nobody asked for so long are forgotten.
const FORGET_AFTER: Duration = Duration::from_mins(10);

type Addresses = Arc<[SocketAddr]>;
type Lookup = Shared<BoxFuture<'static, Addresses>>;

/// See the module.
#[derive(Clone, Default)]
pub struct Resolver {
    names: Arc<Mutex<HashMap<Arc<str>, Name>>>,
    lookups: TaskTracker,
}

struct Name {
    addresses: Addresses,
    looked_up: Option<Instant>,
    used: Instant,
    running: Option<Lookup>,
    failing: bool,
}

impl Resolver {
    /// The addresses of an engine, from memory if they are known. Empty: nobody knows any.
    pub async fn addresses(&self, engine: &Arc<str>) -> Addresses {
        let running = {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            let name = entry(&mut names, engine);
            let known = name.addresses.clone();
            let stale = name.looked_up.is_none_or(|then| then.elapsed() > FRESH);
            let running =
                if stale && name.running.is_none() { Some(self.start(name, engine)) } else { name.running.clone() };
            if !known.is_empty() {
                return known;
            }
            running
        };
        match running {
            Some(lookup) => lookup.await,
            // Looked up less than a second ago, and there was none.
            None => Addresses::default(),
        }
    }

    /// The addresses by a lookup that begins now, or that already runs.
    pub async fn addresses_now(&self, engine: &Arc<str>) -> Addresses {
        let lookup = {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            let name = entry(&mut names, engine);
            match name.running.clone() {
                Some(lookup) => lookup,
                None => self.start(name, engine),
            }
        };
        lookup.await
    }

    /// Looks an engine's addresses up every second until cancelled, and forgets names that are not used any more.
    pub async fn keep_fresh(&self, engine: Arc<str>, cancelled: CancellationToken) {
        let mut ticks = tokio::time::interval(FRESH);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while cancelled.run_until_cancelled(ticks.tick()).await.is_some() {
            self.addresses_now(&engine).await;
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            names.retain(|_, name| name.used.elapsed() < FORGET_AFTER);
        }
        self.lookups.close();
    }

    fn start(&self, name: &mut Name, engine: &Arc<str>) -> Lookup {
        let (names, engine) = (self.names.clone(), engine.clone());
        let lookup = async move {
            let found = look_up(&engine).await;
            let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
            let name = entry(&mut names, &engine);
            name.running = None;
            name.looked_up = Some(Instant::now());
            match found {
                Ok(addresses) => {
                    if name.failing {
                        tracing::info!(engine = &*engine, "the engine's name resolves again");
                    }
                    name.failing = false;
                    name.addresses = addresses;
                }
                Err(reason) => {
                    if !name.failing {
                        tracing::warn!(
                            engine = &*engine,
                            reason,
                            "the engine's name does not resolve; the last addresses stay"
                        );
                    }
                    name.failing = true;
                }
            }
            name.addresses.clone()
        };
        let lookup = lookup.boxed().shared();
        name.running = Some(lookup.clone());
        // It goes on when the request that began it does not.
        self.lookups.spawn(lookup.clone());
        lookup
    }
}

fn entry<'a>(names: &'a mut HashMap<Arc<str>, Name>, engine: &Arc<str>) -> &'a mut Name {
    let now = Instant::now();
    let name = names.entry(engine.clone()).or_insert_with(|| Name {
        addresses: Addresses::default(),
        looked_up: None,
        used: now,
        running: None,
        failing: false,
    });
    name.used = now;
    name
}

async fn look_up(engine: &str) -> Result<Addresses, String> {
    let mut found = Vec::new();
    let mut failure = None;
    for part in engine.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        if let Ok(address) = part.parse() {
            found.push(address);
            continue;
        }
        match tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host(part)).await {
            Ok(Ok(addresses)) => found.extend(addresses),
            Ok(Err(error)) => failure = Some(chain(&error)),
            Err(_) => failure = Some("the lookup took too long".to_owned()),
        }
    }
    found.sort_unstable();
    found.dedup();
    if found.is_empty() { Err(failure.unwrap_or_else(|| "it has no address".to_owned())) } else { Ok(found.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_and_names_mix() {
        let resolver = Resolver::default();
        let found = resolver.addresses(&"127.0.0.2:81, localhost:80,127.0.0.2:81".into()).await;
        assert!(found.contains(&"127.0.0.2:81".parse().expect("an address")));
        assert!(found.contains(&"127.0.0.1:80".parse().expect("an address")));
        assert_eq!(found.iter().filter(|a| a.port() == 81).count(), 1);
    }

    #[tokio::test]
    async fn an_unknown_name_has_no_address_and_does_not_hang() {
        let resolver = Resolver::default();
        assert!(resolver.addresses(&"nonsense without a port".into()).await.is_empty());
        assert!(resolver.addresses_now(&"nonsense without a port".into()).await.is_empty());
    }
}
