//! The memory engine: stores and recalls memories of tenants.
//!
//! `http` is the API, `memory` the rules, `recall` the ranking, `index` the cache that finds, `store` all SQL, `activity`
//! what follows from being used, `narrator` the way to a language model. Every row is in Postgres before a write is acknowledged; everything else is a cache. An
//! engine holds no key and no master key: it passes the capability of each request on to Postgres, which decides.

pub mod activity;
pub mod config;
pub mod follow;
pub mod http;
pub mod index;
pub mod local;
pub mod memory;
pub mod metrics;
pub mod narrator;
pub mod recall;
pub mod server;
pub mod store;

use std::{error::Error, fmt::Write as _};

/// An error with all of its causes, for the log.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {inner}");
        cause = inner.source();
    }
    text
}
