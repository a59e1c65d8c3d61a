//! Tests of gateway, engine and Postgres together, without Kubernetes: see `tests/data_plane`.
