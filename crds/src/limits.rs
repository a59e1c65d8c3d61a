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
    /// Sync sockets open at one time over all gateways; 0 for none, -1 for no limit.
    #[serde(default = "default_max_sockets")]
    #[schemars(range(min = -1, max = 2_147_483_647))]
    pub max_sockets: i32,
    /// Operations a second of one sync socket.
    #[serde(default = "default_socket_messages_per_second")]
    #[schemars(range(min = 1, max = 100_000))]
    pub socket_messages_per_second: i32,
}

/// Of a Tier from before there were sockets, as the smallest tier has it.
fn default_max_sockets() -> i32 {
    5
}

/// Of a Tier from before there were sockets, as the smallest tier has it.
fn default_socket_messages_per_second() -> i32 {
    10
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
    /// Sync sockets open at one time over all gateways; 0 for none, -1 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 2_147_483_647))]
    pub max_sockets: Option<i32>,
    /// Operations a second of one sync socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub socket_messages_per_second: Option<i32>,
}

impl TierLimitsSpec {
    /// The limits as the domain has them. `None` if one is out of range (the API server refuses such a Tier).
    pub fn to_limits(&self) -> Option<TierLimits> {
        let Self {
            max_memories,
            max_agents,
            max_api_keys,
            requests_per_minute,
            max_sockets,
            socket_messages_per_second,
        } = *self;
        let at_least_one = |n: i32| u32::try_from(n).ok().filter(|n| *n > 0);
        Some(TierLimits {
            max_memories: Limit::from_stored(i64::from(max_memories))?,
            max_agents: Limit::from_stored(i64::from(max_agents))?,
            max_api_keys: Limit::from_stored(i64::from(max_api_keys))?,
            requests_per_minute: at_least_one(requests_per_minute)?,
            max_sockets: Limit::from_stored(i64::from(max_sockets))?,
            socket_messages_per_second: at_least_one(socket_messages_per_second)?,
        })
    }

    /// These limits with a Tenant's own in their place.
    #[must_use]
    pub fn with(&self, overrides: &LimitOverrides) -> Self {
        let LimitOverrides {
            max_memories,
            max_agents,
            max_api_keys,
            requests_per_minute,
            max_sockets,
            socket_messages_per_second,
        } = *overrides;
        Self {
            max_memories: max_memories.unwrap_or(self.max_memories),
            max_agents: max_agents.unwrap_or(self.max_agents),
            max_api_keys: max_api_keys.unwrap_or(self.max_api_keys),
            requests_per_minute: requests_per_minute.unwrap_or(self.requests_per_minute),
            max_sockets: max_sockets.unwrap_or(self.max_sockets),
            socket_messages_per_second: socket_messages_per_second.unwrap_or(self.socket_messages_per_second),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_before_sockets() -> TierLimitsSpec {
        let text = r#"{"maxMemories": 10, "maxAgents": 2, "maxApiKeys": 3, "requestsPerMinute": 4}"#;
        serde_json::from_str(text).expect("a tier from before there were sockets is valid")
    }

    #[test]
    fn a_tier_from_before_there_were_sockets_has_those_of_the_smallest() {
        let old = from_before_sockets();
        assert_eq!((old.max_sockets, old.socket_messages_per_second), (5, 10));
        let free = &crate::default_tiers()[0].spec.limits;
        assert_eq!((free.max_sockets, free.socket_messages_per_second), (5, 10));
    }

    #[test]
    fn a_tenants_own_limits_stand_before_the_tiers_one_by_one() {
        let own = LimitOverrides { max_sockets: Some(-1), requests_per_minute: Some(9), ..LimitOverrides::default() };
        let limits = from_before_sockets().with(&own).to_limits().expect("in range");
        assert_eq!((limits.max_sockets, limits.socket_messages_per_second), (Limit::Unlimited, 10));
        assert_eq!((limits.requests_per_minute, limits.max_agents), (9, Limit::AtMost(2)));
        let own = LimitOverrides { socket_messages_per_second: Some(7), ..LimitOverrides::default() };
        assert_eq!(from_before_sockets().with(&own).to_limits().map(|l| l.socket_messages_per_second), Some(7));
    }

    #[test]
    fn a_socket_that_may_send_nothing_is_out_of_range() {
        let with = |max_sockets, socket_messages_per_second| {
            TierLimitsSpec { max_sockets, socket_messages_per_second, ..from_before_sockets() }.to_limits()
        };
        assert!(with(0, 1).is_some(), "no socket at all is a limit like others");
        assert!(with(5, 0).is_none() && with(-2, 10).is_none());
    }
}
