//! Tests of the operator against a real API server and a real Postgres, without nodes. See `tests/control_plane`.
