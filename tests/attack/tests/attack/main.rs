//! Attacks on what is promised, on real servers: on the isolation between tenants, where every module tries one way in, many
//! times, on what was acknowledged (`history`), and on what all tenants share (`cost`). Where a module says so it tries again on
//! a system that was weakened on purpose, to show that it would notice.
//!
//! `make test` runs them short, `make attack` whole.

#![allow(missing_docs, clippy::unwrap_used)]

mod api;
mod canary;
mod cost;
mod ground;
mod history;
mod injection;
mod leavings;
mod pool_leak;
mod quota_race;
mod smuggling;
mod sweep;
mod wounds;
