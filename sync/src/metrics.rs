//! What rooms measure. The program that serves them registers it under its own prefix.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The code that a socket was closed with; bounded, for the codes are ours.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct CodeLabel {
    pub(crate) code: u16,
}

/// What became of an operation.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ResultLabel {
    pub(crate) result: &'static str,
}

/// What rooms measure.
#[derive(Clone, Default)]
pub struct SyncMetrics {
    pub(crate) sockets: Gauge,
    pub(crate) streams: Gauge,
    pub(crate) rooms: Gauge,
    pub(crate) held_bytes: Gauge,
    pub(crate) changes: Counter,
    pub(crate) resyncs: Counter,
    pub(crate) interruptions: Counter,
    pub(crate) operations: Family<ResultLabel, Counter>,
    pub(crate) closed: Family<CodeLabel, Counter>,
}

impl SyncMetrics {
    /// Makes the metrics known under `sync_…`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("sync_sockets", "Open sockets that were let in", self.sockets.clone());
        registry.register("sync_streams", "Open streams of server-sent events", self.streams.clone());
        registry.register("sync_rooms", "Tenants whose log is followed", self.rooms.clone());
        registry.register("sync_held_bytes", "Changes held in memory for all rooms", self.held_bytes.clone());
        registry.register("sync_changes_sent", "Changes sent to sockets and streams", self.changes.clone());
        registry.register("sync_resyncs", "Clients told to read everything anew", self.resyncs.clone());
        registry.register(
            "sync_interruptions",
            "Times that a room's log could not be read and was asked for again",
            self.interruptions.clone(),
        );
        registry.register("sync_operations", "Operations of sockets, by what became of them", self.operations.clone());
        registry.register("sync_closed", "Sockets closed, by code", self.closed.clone());
    }
}
