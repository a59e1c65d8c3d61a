//! Real servers for tests: a Postgres of its own, the product's own programs, free ports, nothing left behind.
//!
//! Everything that a test starts belongs to a [`Workdir`]: when the test process ends, however it ends, a small
//! janitor process ends the servers by pid and removes the folder. A test that shares its servers with the others of
//! its file keeps them in a static; tenants are what separates tests, as they separate customers.

mod client;
mod collector;
mod data_plane;
mod postgres;
mod process;
mod program;
pub mod raw;
mod socket;
mod unprivileged;
mod wait;
mod workdir;

pub use client::{Answer, Client};
pub use collector::{Collector, Span};
pub use data_plane::{DataPlane, Tenant, TenantSpec};
pub use postgres::{Postgres, find_postgres};
pub use process::{Memory, resident};
pub use program::{Program, binary};
pub use socket::{Heard, Socket};
pub use unprivileged::is_root;
pub use wait::{eventually, eventually_within};
pub use workdir::{Workdir, free_port, stat};
