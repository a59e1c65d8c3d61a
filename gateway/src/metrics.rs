//! What the gateway counts. Labels are bounded: route templates, status classes, tier names up to 32 (then `other`),
//! and words of this program. Never a tenant, a key or a path.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use sync::SyncMetrics;

use crate::directory::Directory;

const MAX_TIERS: usize = 32;
/// The tier of a request that was not authenticated.
pub const NO_TIER: &str = "none";
/// Seconds: from a directory lookup to a narrate's timeout.
const BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0];

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    method: &'static str,
    status: &'static str,
    tier: Arc<str>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
    tier: Arc<str>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct TierLabel {
    tier: Arc<str>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ReloadLabels {
    scope: &'static str,
    result: &'static str,
}

/// See the module.
pub struct Metrics {
    registry: Registry,
    tiers: Mutex<HashSet<Arc<str>>>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram, fn() -> Histogram>,
    problems: Family<KindLabel, Counter>,
    retries: Family<ReasonLabel, Counter>,
    rate_limited: Family<TierLabel, Counter>,
    refused_connections: Family<ReasonLabel, Counter>,
    reloads: Family<ReloadLabels, Counter>,
    directory_tenants: Gauge,
    directory_keys: Gauge,
    directory_age: Gauge<f64, std::sync::atomic::AtomicU64>,
    uptime: Gauge<f64, std::sync::atomic::AtomicU64>,
    /// Gateways that share the rates, as Postgres told last.
    pub live_gateways: Gauge,
    /// Open client connections.
    pub connections: Gauge,
    /// Requests being answered.
    pub in_flight: Gauge,
    /// Uses of API keys that were not noted because too many waited.
    pub key_uses_dropped: Counter,
    /// What rooms count.
    pub sync: SyncMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("stellar_gateway");
        let durations = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        let mut metrics = Self {
            registry: Registry::default(),
            tiers: Mutex::default(),
            requests: Family::default(),
            durations,
            problems: Family::default(),
            retries: Family::default(),
            rate_limited: Family::default(),
            refused_connections: Family::default(),
            reloads: Family::default(),
            directory_tenants: Gauge::default(),
            directory_keys: Gauge::default(),
            directory_age: Gauge::default(),
            uptime: Gauge::default(),
            live_gateways: Gauge::default(),
            connections: Gauge::default(),
            in_flight: Gauge::default(),
            key_uses_dropped: Counter::default(),
            sync: SyncMetrics::default(),
        };
        registry.register(
            "requests",
            "Requests answered, by route, method, class of status and tier",
            metrics.requests.clone(),
        );
        registry.register(
            "request_duration_seconds",
            "Time from a request's head to the head of its answer",
            metrics.durations.clone(),
        );
        registry.register("problems", "Errors that the gateway itself answered, by kind", metrics.problems.clone());
        registry.register("retries", "Requests sent to an engine again, by reason", metrics.retries.clone());
        registry.register(
            "rate_limited",
            "Requests refused because a tenant's rate was reached",
            metrics.rate_limited.clone(),
        );
        registry.register("connections", "Open client connections", metrics.connections.clone());
        registry.register(
            "connections_refused",
            "Client connections closed or cut off by the gateway, by reason",
            metrics.refused_connections.clone(),
        );
        registry.register("requests_in_flight", "Requests being answered", metrics.in_flight.clone());
        registry.register("directory_tenants", "Tenants in the directory", metrics.directory_tenants.clone());
        registry.register("directory_keys", "API keys in the directory", metrics.directory_keys.clone());
        registry.register(
            "directory_age_seconds",
            "For how long the directory may have missed changes; 0 while Postgres' notices arrive",
            metrics.directory_age.clone(),
        );
        registry.register(
            "directory_reloads",
            "Reloads of the directory, by scope and result",
            metrics.reloads.clone(),
        );
        registry.register(
            "live",
            "Gateways that share the tenants' rates, as Postgres told last",
            metrics.live_gateways.clone(),
        );
        registry.register(
            "key_uses_dropped",
            "Uses of API keys not noted in last_used_at because too many waited",
            metrics.key_uses_dropped.clone(),
        );
        registry.register("uptime_seconds", "Time since the start", metrics.uptime.clone());
        metrics.sync.register(&mut registry);
        metrics.registry = registry;
        metrics
    }
}

/// One answered request.
pub struct Answered {
    /// The route's template.
    pub route: &'static str,
    /// The method, if it is one that a route takes.
    pub method: &'static str,
    /// The status.
    pub status: u16,
    /// The label from [`Metrics::tier`].
    pub tier: Arc<str>,
    /// From its head to the head of the answer.
    pub duration: Duration,
}

impl Metrics {
    /// The label of a tier's name. Platform teams make tiers, so their number is bounded here.
    pub fn tier(&self, name: &Arc<str>) -> Arc<str> {
        let mut tiers = self.tiers.lock().unwrap_or_else(PoisonError::into_inner);
        if tiers.contains(name) {
            return name.clone();
        }
        if tiers.len() >= MAX_TIERS {
            return "other".into();
        }
        tiers.insert(name.clone());
        name.clone()
    }

    /// Counts an answer.
    pub fn answered(&self, answered: Answered) {
        let Answered { route, method, status, tier, duration } = answered;
        let status = match status {
            ..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            500.. => "5xx",
        };
        self.requests.get_or_create(&RequestLabels { route, method, status, tier: tier.clone() }).inc();
        self.durations.get_or_create(&RouteLabels { route, tier }).observe(duration.as_secs_f64());
    }

    /// Counts an error of the gateway's own.
    pub fn problem(&self, kind: &'static str) {
        self.problems.get_or_create(&KindLabel { kind }).inc();
    }

    /// Counts a repeated attempt.
    pub fn retry(&self, reason: &'static str) {
        self.retries.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts a request over a tenant's rate.
    pub fn rate_limited(&self, tier: Arc<str>) {
        self.rate_limited.get_or_create(&TierLabel { tier }).inc();
    }

    /// Counts a connection that the gateway closed.
    pub fn connection_refused(&self, reason: &'static str) {
        self.refused_connections.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts a reload of the directory.
    pub fn directory_reload(&self, scope: &'static str, done: bool) {
        let result = if done { "success" } else { "failure" };
        self.reloads.get_or_create(&ReloadLabels { scope, result }).inc();
    }

    /// The exposition, in the OpenMetrics text format.
    pub fn expose(&self, directory: Option<&Directory>, uptime: Duration) -> String {
        if let Some(directory) = directory {
            let size = directory.size();
            self.directory_tenants.set(size.tenants as i64);
            self.directory_keys.set(size.keys as i64);
            self.directory_age.set(directory.age().as_secs_f64());
        }
        self.uptime.set(uptime.as_secs_f64());
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thirty_third_tier_is_another() {
        let metrics = Metrics::default();
        for n in 0..MAX_TIERS {
            let name: Arc<str> = format!("tier-{n}").into();
            assert_eq!(metrics.tier(&name), name);
        }
        assert_eq!(&*metrics.tier(&"one-more".into()), "other");
        assert_eq!(&*metrics.tier(&"tier-0".into()), "tier-0");
    }

    #[test]
    fn an_answer_is_counted_by_class() {
        let metrics = Metrics::default();
        let duration = Duration::from_millis(3);
        metrics.answered(Answered {
            route: "/api/v1/recall",
            method: "GET",
            status: 204,
            tier: "pro".into(),
            duration,
        });
        let text = metrics.expose(None, duration);
        let line =
            "stellar_gateway_requests_total{route=\"/api/v1/recall\",method=\"GET\",status=\"2xx\",tier=\"pro\"} 1";
        assert!(text.contains(line), "{text}");
    }
}
