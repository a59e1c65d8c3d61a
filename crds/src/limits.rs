//! What a tenant may use: from the tier, and what a Tenant may change of it. -1 means no limit.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use tenancy::{Limit, TierLimits};

/// What a tenant of a tier may use.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TierLimitsSpec {
    /// Memories stored at one time; -1 for no limit.
    #[schemars(range(min = -1, max = 2_147_483_647))]
    pub max_memories: i32,
    /// Named agents that hold API keys; -1 for no limit.
    #[schemars(range(min = -1, max = 2_147_483_647))]
    #[x_kube(validation = Rule::new("self != 0").message("maxAgents must be at least 1, or -1 for no limit: the tenant's own key needs an agent"))]
    pub max_agents: i32,
    /// API keys that are neither revoked nor expired; -1 for no limit.
    #[schemars(range(min = -1, max = 2_147_483_647))]
    #[x_kube(validation = Rule::new("self != 0").message("maxApiKeys must be at least 1, or -1 for no limit: the tenant's own key counts"))]
    pub max_api_keys: i32,
    /// Requests a minute over all gateways.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub requests_per_minute: i32,
}

/// What of the tier's limits is different for this Tenant.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitOverrides {
    /// Memories stored at one time; -1 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 2_147_483_647))]
    pub max_memories: Option<i32>,
    /// Named agents that hold API keys; -1 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 2_147_483_647))]
    #[x_kube(validation = Rule::new("self != 0").message("maxAgents must be at least 1, or -1 for no limit: the tenant's own key needs an agent"))]
    pub max_agents: Option<i32>,
    /// API keys that are neither revoked nor expired; -1 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 2_147_483_647))]
    #[x_kube(validation = Rule::new("self != 0").message("maxApiKeys must be at least 1, or -1 for no limit: the tenant's own key counts"))]
    pub max_api_keys: Option<i32>,
    /// Requests a minute over all gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub requests_per_minute: Option<i32>,
}

impl TierLimitsSpec {
    /// The limits as the domain has them. `None` if one is out of range (the API server refuses such a Tier).
    pub fn to_limits(&self) -> Option<TierLimits> {
        let Self { max_memories, max_agents, max_api_keys, requests_per_minute } = *self;
        Some(TierLimits {
            max_memories: Limit::from_stored(i64::from(max_memories))?,
            max_agents: Limit::from_stored(i64::from(max_agents))?,
            max_api_keys: Limit::from_stored(i64::from(max_api_keys))?,
            requests_per_minute: u32::try_from(requests_per_minute).ok().filter(|n| *n > 0)?,
        })
    }

    /// These limits with a Tenant's own in their place.
    #[must_use]
    pub fn with(&self, overrides: &LimitOverrides) -> Self {
        let LimitOverrides { max_memories, max_agents, max_api_keys, requests_per_minute } = *overrides;
        Self {
            max_memories: max_memories.unwrap_or(self.max_memories),
            max_agents: max_agents.unwrap_or(self.max_agents),
            max_api_keys: max_api_keys.unwrap_or(self.max_api_keys),
            requests_per_minute: requests_per_minute.unwrap_or(self.requests_per_minute),
        }
    }
}
