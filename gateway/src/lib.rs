//! The gateway: the shared entrance. It authenticates every request against a directory in memory, bounds its rate,
//! and passes it on to the tenant's engine. It holds no Kubernetes credential, and no memory passes through it that is
//! not its caller's.
//!
//! The way of a request: [`server`] → [`access`] → [`router`] → [`auth`] → [`limit`] → [`proxy`], [`keys`] or [`rooms`].

pub mod access;
pub mod auth;
pub mod client_address;
pub mod config;
pub mod cors;
pub mod directory;
mod docs;
mod encoding;
pub mod error;
pub mod health;
pub mod key_use;
mod keys;
pub mod limit;
pub mod metrics;
pub mod openapi;
pub mod presence;
pub mod proxy;
pub mod rooms;
pub mod router;
pub mod run;
pub mod server;
