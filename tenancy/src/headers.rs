//! Headers between gateway and engine. The gateway strips whatever a client sent under [`INTERNAL_PREFIX`].

/// Every internal header starts with this, in lower case.
pub const INTERNAL_PREFIX: &str = "x-stellar-";
/// The tenant's id: a hyphenated UUID.
pub const TENANT_HEADER: &str = "x-stellar-tenant";
/// The tenant's capability: 64 hex digits. Never logged.
pub const CAPABILITY_HEADER: &str = "x-stellar-capability";
/// The name of the agent whose key was used.
pub const AGENT_HEADER: &str = "x-stellar-agent";
/// The id (not the text) of the API key that was used.
pub const KEY_ID_HEADER: &str = "x-stellar-key-id";
/// In an engine's answer to a batch or an import: how many operations it was asked for.
pub const OPERATIONS_HEADER: &str = "x-stellar-operations";
/// One id through client, gateway, engine and logs. A client may send its own (up to 128 visible ASCII characters).
pub const REQUEST_ID_HEADER: &str = "x-request-id";
