//! Tests of the installed product on a real Kubernetes node, the way a user works: kubectl and HTTP. See `tests/end_to_end`.
