//! The operator as a process, against a real etcd, API server and controller manager and a real Postgres. There is no
//! node: where pods must become ready, the suite says so in the kubelet's place.
//!
//! `make test` boots the control plane; by hand:
//! `tests/cluster/node up DIR --control-plane-only --audit`, `. DIR/env`, `cargo test -p control-plane`.

#![allow(missing_docs, clippy::unwrap_used)]

mod access;
mod access_table;
mod admission;
mod api;
mod api_proxy;
mod crash;
mod deletion;
mod findings;
mod kubelet;
mod leadership;
mod many;
mod outages;
mod postgres_proxy;
mod program;
mod rights;
mod secrets;
mod snapshot;
mod stage;
mod takeover;
mod takeover_fields;
mod traces;
