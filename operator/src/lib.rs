//! The operator: the only part that touches both Kubernetes and Postgres. It turns `Tenant` and `Tier` resources
//! into database identities with row-level security, Secrets, quotas, policies and, on dedicated tiers, engines.

pub mod config;
pub mod lint;
pub mod migrate;
pub mod postgres_url;
pub mod run;
pub mod smoke_test;

mod backoff;
mod controller;
mod database;
mod health;
mod leader;
mod metrics;
mod prune;
mod settings;
mod sweep;
mod tiers;
mod watch;

pub use database::{Database, DatabaseError};
pub use sweep::ask_at_rest;
