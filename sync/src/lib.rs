//! Rooms of live changes: all that happens between a client's socket and whoever can read a tenant's log and write to it.
//!
//! A *room* is a tenant. It follows the tenant's log once, however many sockets it has ([`room`]); each socket is a task
//! with a place in that log ([`session`]); server-sent events are the same, to read only ([`events`]). Whoever serves
//! rooms says who may enter and how log and writes are reached ([`Service`]): the gateway through the tenant's engine, a
//! local engine by itself. `docs/sync.md` is the contract.
//!
//! Always holds: a socket is sent each change once, in order and without a gap, or told to resynchronise; no socket waits
//! for another; what is held in memory for a room, a socket and for all rooms together is bounded; whoever may not be here any
//! more is sent nothing more.

mod allowance;
mod events;
#[cfg(test)]
mod fake;
mod frames;
mod log;
mod metrics;
mod operations;
mod outgoing;
mod pace;
mod room;
mod rooms;
mod run;
mod service;
mod session;
mod socket;
mod upgrade;
mod wire;

pub use events::{EventsRefused, resumed_from};
pub use log::{Change, Changes};
pub use metrics::SyncMetrics;
pub use operations::BATCH_BYTES;
pub use rooms::{Full, Rooms, Times};
pub use service::{Admission, Failure, Limits, Outcome, Refusal, Service, Standing, Unavailable, failure, outcome};
pub use upgrade::{NoUpgrade, WebSocketUpgrade};
pub use wire::Hello;
