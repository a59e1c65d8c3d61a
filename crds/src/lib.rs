//! The custom resources of stellar-memory: `Tenant` and `Tier`, with the rules that the API server enforces and
//! the vocabulary of a tenant's status. Pure types: nothing here talks to a cluster.
//!
//! The generated YAML is committed in `crds/generated`; a test compares it with these types.

mod condition;
mod definitions;
mod engine;
mod limits;
mod quantity;
mod reason;
mod tenant;
mod tier;

pub use condition::{Condition, ConditionStatus, ConditionType, Conditions};
pub use definitions::{Definition, definitions};
pub use engine::{ComputeResources, EngineOverrides, EngineResources, EngineSize};
pub use limits::{LimitOverrides, TierLimitsSpec};
pub use quantity::{Quantity, QuantityError, QuantityKind};
pub use reason::Reason;
pub use tenant::{DeletionPolicy, Phase, Tenant, TenantSpec, TenantStatus, UsageStatus};
pub use tier::{PlacementSpec, Tier, TierSpec, default_tiers};

/// The API group of both kinds.
pub const GROUP: &str = "stellar-memory.dev";
/// On every object made for a tenant: the tenant's name.
pub const TENANT_LABEL: &str = "stellar-memory.dev/tenant";
/// What holds a Tenant's deletion until the operator has cleaned up.
pub const FINALIZER: &str = "stellar-memory.dev/cleanup";
/// Names of namespaces of dedicated tenants start with this.
pub const NAMESPACE_PREFIX: &str = "stellar-tenant-";
/// The longest name of a Tenant, so that `stellar-tenant-<name>` is a valid namespace.
pub const MAX_TENANT_NAME: usize = 48;
