//! Tests of the installed product on a real node, the way its users work: kubectl, helm and HTTP.
//!
//! `make test` boots the node, installs the chart and sets `KUBECONFIG`, `GATEWAY_URL` and `NODE_DIR`; with the
//! `.local/env` of `make up` a suite runs against that node: `. .local/env && cargo test -p end-to-end --test end_to_end`.
//! `faults` stops parts of the node and of the product, `lifecycle` upgrades and uninstalls it: those two disturb others.

#![allow(missing_docs, clippy::unwrap_used)]

pub mod cluster;
pub mod load;
pub mod network;
