//! The registry: every metric by name, its help text, and where it is counted. No label names a tenant.

use std::{fmt, sync::Arc};

use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::{
    activity::ActivityMetrics, http::HttpMetrics, index::IndexMetrics, narrator::NarratorMetrics, store::StoreMetrics,
};

/// All metrics, by who counts them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    pool_open: Gauge,
    pool_idle: Gauge,
    /// Requests.
    pub http: HttpMetrics,
    /// Writes.
    pub store: StoreMetrics,
    /// The index.
    pub index: IndexMetrics,
    /// Recalls and zones.
    pub activity: ActivityMetrics,
    /// Narratives.
    pub narrator: NarratorMetrics,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 15))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("stellar_engine");
        let http = HttpMetrics {
            requests: Family::default(),
            seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
        };
        registry.register("http_requests", "Requests answered, by route and class of status", http.requests.clone());
        registry.register_with_unit("http_request", "Time until the answer began", Unit::Seconds, http.seconds.clone());

        let store = StoreMetrics { batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 11)) };
        registry.register("store_batch_size", "Operations that went into one transaction", store.batch_size.clone());

        let index = IndexMetrics {
            tenants: Gauge::default(),
            bytes: Gauge::default(),
            builds: Counter::default(),
            build_seconds: seconds(),
            changes: Counter::default(),
            evictions: Counter::default(),
            refusals: Counter::default(),
        };
        registry.register("index_tenants", "Tenants whose index is in memory", index.tenants.clone());
        registry.register_with_unit(
            "index_memory",
            "Memory of all indexes, of those that are being built too",
            Unit::Bytes,
            index.bytes.clone(),
        );
        registry.register("index_builds", "Indexes built from all of a tenant's memories", index.builds.clone());
        registry.register_with_unit("index_build", "Time of a build", Unit::Seconds, index.build_seconds.clone());
        registry.register("index_changes", "Entries of change logs applied to indexes", index.changes.clone());
        registry.register("index_evictions", "Indexes let go, for room or for being idle", index.evictions.clone());
        registry.register(
            "index_refusals",
            "Indexes not built, or dropped, because one tenant may not have as much",
            index.refusals.clone(),
        );

        let activity = ActivityMetrics {
            recalls_noted: Counter::default(),
            recalls_dropped: Counter::default(),
            zone_moves: Counter::default(),
        };
        registry.register(
            "recalls_noted",
            "Recalls of single memories counted in Postgres",
            activity.recalls_noted.clone(),
        );
        registry.register("recalls_dropped", "Recalls that could not be counted", activity.recalls_dropped.clone());
        registry.register("zone_moves", "Memories moved between zones", activity.zone_moves.clone());

        let narrator = NarratorMetrics { narratives: Family::default() };
        registry.register(
            "narratives",
            "Narratives told, by whom: a model, the memories themselves, or these because the model failed",
            narrator.narratives.clone(),
        );

        let (pool_open, pool_idle) = (Gauge::default(), Gauge::default());
        registry.register("pool_connections", "Connections to Postgres that are open", pool_open.clone());
        registry.register("pool_connections_idle", "Connections to Postgres that nobody uses now", pool_idle.clone());
        Self { registry: Arc::new(registry), pool_open, pool_idle, http, store, index, activity, narrator }
    }
}

impl Metrics {
    /// The page as OpenMetrics text. `connections`: open ones, and how many of them are idle.
    ///
    /// # Errors
    /// When a value cannot be formatted.
    pub fn page(&self, connections: (u32, usize)) -> Result<String, fmt::Error> {
        self.pool_open.set(connections.0.into());
        self.pool_idle.set(connections.1 as i64);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_lists_what_is_registered() {
        let metrics = Metrics::default();
        metrics.store.batch_size.observe(3.0);
        let page = metrics.page((4, 2)).expect("formats");
        for name in [
            "stellar_engine_store_batch_size_bucket",
            "stellar_engine_pool_connections 4",
            "stellar_engine_index_memory_bytes 0",
        ] {
            assert!(page.contains(name), "{name} in:\n{page}");
        }
    }
}
