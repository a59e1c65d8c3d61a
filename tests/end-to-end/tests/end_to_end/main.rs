//! The installed product on a real node, the way its users work: kubectl and HTTP, nothing else.
//!
//! `make test` boots the node, installs the chart and sets `KUBECONFIG` and `GATEWAY_URL`; with the `.local/env` of
//! `make up` the suite runs against that node: `. .local/env && cargo test -p end-to-end`.

#![allow(missing_docs, clippy::unwrap_used)]

mod admission;
mod cluster;
mod delete;
mod tenants;
mod tiers;
