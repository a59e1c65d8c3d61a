//! The words that operator, gateway and engine share: who a tenant is, what its tier allows, how a key,
//! a capability and an internal request look. No I/O; every value is checked where it is made, so that a
//! later step can trust the type.

mod capability;
mod headers;
mod id;
mod key;
mod password;
mod placement;
mod problem;
mod role;
mod tier;

pub use capability::{Capability, CapabilityHash, MasterKey, MasterKeyError};
pub use headers::{
    AGENT_HEADER, CAPABILITY_HEADER, INTERNAL_PREFIX, KEY_ID_HEADER, OPERATIONS_HEADER, REQUEST_ID_HEADER,
    TENANT_HEADER,
};
pub use id::{LOCAL_TENANT, TenantId, TenantIdError};
pub use key::{API_KEY_PREFIX, ApiKey, ApiKeyError, ApiKeyHash};
pub use password::Password;
pub use placement::{Placement, PlacementError};
pub use problem::{PROBLEM_JSON, Problem, ProblemType};
pub use role::{RoleName, RoleNameError};
pub use tier::{Limit, TierLimits, TierName, TierNameError};
