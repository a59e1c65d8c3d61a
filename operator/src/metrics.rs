//! What is counted. Labels are closed sets or the names of Tiers; never a tenant.

use std::{sync::Arc, time::Duration};

use crds::{Phase, Reason};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::controller::{Error, ErrorKind};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByTier {
    tier: String,
    phase: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BySeverity {
    severity: &'static str,
}

/// The operator's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconciles: Family<Outcome, Counter>,
    errors: Family<ByReason, Counter>,
    duration: Histogram,
    tenants: Family<ByTier, Gauge>,
    drift: Counter,
    pruned: Counter,
    prune_lag: Gauge,
    leader: Gauge,
    database_up: Gauge,
    database_bytes: Gauge,
    findings: Family<BySeverity, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("stellar_operator");
        let buckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        let reconciles = Family::default();
        registry.register(
            "reconciles",
            "Reconciliations by outcome: ok, invalid, blocked, transient",
            reconciles.clone(),
        );
        let errors = Family::default();
        registry.register("reconcile_errors", "Failed reconciliations by the reason of the condition", errors.clone());
        let duration = Histogram::new(buckets);
        registry.register("reconcile_duration_seconds", "Duration of a reconciliation", duration.clone());
        let tenants = Family::default();
        registry.register("tenants", "Tenants by tier and phase", tenants.clone());
        let drift = Counter::default();
        registry.register("drift", "Tenants whose rows, role or key in Postgres were found changed", drift.clone());
        let pruned = Counter::default();
        registry.register("pruned_rows", "Rows removed because they were kept long enough", pruned.clone());
        let prune_lag = Gauge::default();
        registry.register(
            "prune_lag_seconds",
            "For how long the oldest row that was kept long enough has been waiting to be removed; 0: there is none",
            prune_lag.clone(),
        );
        let leader = Gauge::default();
        registry.register("leader", "1 while this replica leads", leader.clone());
        let database_up = Gauge::default();
        registry.register("database_up", "1 while Postgres answers the leader", database_up.clone());
        let database_bytes = Gauge::default();
        registry.register("database_bytes", "Size of the database on disk", database_bytes.clone());
        let findings = Family::default();
        registry.register(
            "database_findings",
            "What weakens the database's isolation (severity error), or is worth mending (warning)",
            findings.clone(),
        );
        Self {
            registry: Arc::new(registry),
            reconciles,
            errors,
            duration,
            tenants,
            drift,
            pruned,
            prune_lag,
            leader,
            database_up,
            database_bytes,
            findings,
        }
    }
}

impl Metrics {
    /// Counts a reconciliation.
    pub fn reconciled(&self, took: Duration, outcome: Result<(), &Error>) {
        self.duration.observe(took.as_secs_f64());
        let word = match outcome.map_err(Error::kind) {
            Ok(()) => "ok",
            Err(ErrorKind::Invalid) => "invalid",
            Err(ErrorKind::Blocked) => "blocked",
            Err(ErrorKind::Transient) => "transient",
        };
        self.reconciles.get_or_create(&Outcome { outcome: word }).inc();
        if let Err(error) = outcome {
            let reason: Reason = error.reason();
            self.errors.get_or_create(&ByReason { reason: reason.as_str() }).inc();
        }
    }

    /// Sets how many Tenants there are of each tier in each phase.
    pub fn set_tenants(&self, tenants: impl Iterator<Item = (String, Option<Phase>)>) {
        self.tenants.clear();
        for (tier, phase) in tenants {
            let phase = phase.unwrap_or(Phase::Pending).as_str();
            self.tenants.get_or_create(&ByTier { tier, phase }).inc();
        }
    }

    /// Counts tenants that somebody changed behind the operator's back.
    pub fn drifted(&self, tenants: usize) {
        self.drift.inc_by(tenants as u64);
    }

    /// Counts rows that were pruned.
    pub fn pruned(&self, rows: i64) {
        self.pruned.inc_by(u64::try_from(rows).unwrap_or(0));
    }

    /// Sets for how long the oldest row that was kept long enough has been waiting to be removed.
    pub fn set_prune_lag(&self, lag: Duration) {
        self.prune_lag.set(i64::try_from(lag.as_secs()).unwrap_or(i64::MAX));
    }

    /// Sets the size of the database.
    pub fn set_database_bytes(&self, bytes: i64) {
        self.database_bytes.set(bytes);
    }

    /// Notes whether this replica leads. One that does not says nothing of the database.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(leads.into());
        if !leads {
            self.findings.clear();
            self.prune_lag.set(0);
            self.database_bytes.set(0);
        }
    }

    /// Sets what the database linter found.
    pub fn set_findings(&self, errors: usize, warnings: usize) {
        for (severity, count) in [("error", errors), ("warning", warnings)] {
            self.findings.get_or_create(&BySeverity { severity }).set(count as i64);
        }
    }

    /// Notes whether Postgres answers.
    pub fn set_database_up(&self, up: bool) {
        self.database_up.set(up.into());
    }

    /// All of it in the text format of OpenMetrics.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail; a metric that cannot be written would be a fault of the library.
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_documented() {
        let metrics = Metrics::default();
        metrics.reconciled(Duration::from_millis(3), Ok(()));
        metrics.reconciled(Duration::from_millis(3), Err(&Error::TimedOut(1)));
        metrics.set_tenants([("free".to_owned(), Some(Phase::Ready))].into_iter());
        metrics.set_findings(2, 0);
        metrics.set_prune_lag(Duration::from_millis(7_200_900));
        metrics.set_database_bytes(5_000_000_000);
        let text = metrics.text();
        for line in [
            "stellar_operator_reconciles_total{outcome=\"ok\"} 1",
            "stellar_operator_reconcile_errors_total{reason=\"KubernetesError\"} 1",
            "stellar_operator_tenants{tier=\"free\",phase=\"Ready\"} 1",
            "stellar_operator_prune_lag_seconds 7200",
            "stellar_operator_leader 0",
            "stellar_operator_database_bytes 5000000000",
            "stellar_operator_database_findings{severity=\"error\"} 2",
            "stellar_operator_database_findings{severity=\"warning\"} 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        let documented = include_str!("../../docs/metrics.md");
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').expect("a name and a kind");
            let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            assert!(documented.contains(&format!("`{name}`")), "docs/metrics.md says nothing of {name}");
        }
        metrics.set_leader(false);
        let text = metrics.text();
        assert!(!text.contains("database_findings{"), "only the leader looks at the database");
        for line in ["stellar_operator_prune_lag_seconds 0", "stellar_operator_database_bytes 0"] {
            assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
        }
    }
}
