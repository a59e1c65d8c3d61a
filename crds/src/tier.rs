//! The `Tier` resource: limits and placement under a name. The chart makes free, pro and promax; a platform team
//! adds its own.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tenancy::Placement;

use crate::{EngineSize, TierLimitsSpec};

/// Where tenants of a tier are served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PlacementSpec {
    /// By the engine that all pooled tenants share.
    Pooled,
    /// By an engine of their own, in a namespace of their own.
    Dedicated,
}

impl From<PlacementSpec> for Placement {
    fn from(spec: PlacementSpec) -> Self {
        match spec {
            PlacementSpec::Pooled => Self::Pooled,
            PlacementSpec::Dedicated => Self::Dedicated,
        }
    }
}

/// What tenants of this tier may use, and where they are served.
#[derive(CustomResource, KubeSchema, Clone, PartialEq, Debug, Serialize, Deserialize)]
#[kube(
    group = "stellar-memory.dev",
    version = "v1alpha1",
    kind = "Tier",
    plural = "tiers",
    singular = "tier",
    shortname = "stier",
    category = "stellar",
    derive = "PartialEq",
    doc = "A tier: what its tenants may use, and where they are served.",
    selectable = ".spec.placement",
    validation = Rule::new("self.metadata.name != 'team'").message("tier team was renamed to promax"),
    validation = Rule::new("size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')")
        .message("a tier's name has at most 63 characters a-z, 0-9 and -, and starts and ends with a letter or digit"),
    printcolumn(name = "Placement", type_ = "string", json_path = ".spec.placement", description = "Where its tenants are served"),
    printcolumn(name = "Memories", type_ = "integer", json_path = ".spec.limits.maxMemories", description = "Memories stored at one time; -1 for no limit"),
    printcolumn(name = "Agents", type_ = "integer", json_path = ".spec.limits.maxAgents", description = "Named agents; -1 for no limit"),
    printcolumn(name = "Keys", type_ = "integer", json_path = ".spec.limits.maxApiKeys", description = "API keys; -1 for no limit"),
    printcolumn(name = "Requests/min", type_ = "integer", json_path = ".spec.limits.requestsPerMinute", description = "Requests a minute over all gateways"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("self.placement == 'dedicated' || !has(self.engine)").message("only a dedicated tier has an engine size"))]
#[serde(rename_all = "camelCase")]
pub struct TierSpec {
    /// Where tenants of this tier are served: pooled (by a shared engine) or dedicated (by their own).
    pub placement: PlacementSpec,
    /// What a tenant may use. A Tenant may override each.
    pub limits: TierLimitsSpec,
    /// The size of a dedicated engine; a small one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineSize>,
}

/// The tiers that an installation starts with.
pub fn default_tiers() -> Vec<Tier> {
    let limits = |[max_memories, max_agents, max_api_keys]: [i32; 3], requests_per_minute, sockets: [i32; 2]| {
        let [max_sockets, socket_messages_per_second] = sockets;
        TierLimitsSpec {
            max_memories,
            max_agents,
            max_api_keys,
            requests_per_minute,
            max_sockets,
            socket_messages_per_second,
        }
    };
    let free = limits([1_000, 1, 5], 60, [5, 10]);
    vec![
        Tier::new("free", TierSpec { placement: PlacementSpec::Pooled, limits: free, engine: None }),
        Tier::new(
            "pro",
            TierSpec {
                placement: PlacementSpec::Dedicated,
                limits: limits([50_000, 5, 25], 300, [50, 50]),
                engine: Some(EngineSize::smallest()),
            },
        ),
        Tier::new(
            "promax",
            TierSpec {
                placement: PlacementSpec::Dedicated,
                limits: limits([500_000, -1, -1], 1_000, [1_000, 200]),
                engine: Some(EngineSize::new("100m", "256Mi", "2", "2Gi")),
            },
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_tiers_have_valid_names_and_limits() {
        for tier in default_tiers() {
            let name = tier.metadata.name.expect("has a name");
            assert!(name.parse::<tenancy::TierName>().is_ok(), "{name}");
            assert!(tier.spec.limits.to_limits().is_some(), "{name}");
            assert_eq!(tier.spec.engine.is_some(), tier.spec.placement == PlacementSpec::Dedicated, "{name}");
        }
    }
}
