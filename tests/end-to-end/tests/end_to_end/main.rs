//! What a platform team and an agent developer do with the installed product, and what they see.

#![allow(missing_docs, clippy::unwrap_used)]

mod admission;
mod delete;
mod drift;
mod isolation;
mod isolation_network;
mod rotation;
mod tenants;
mod tiers;
