//! The size of a dedicated engine: from the tier, and what a Tenant may change of it.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

const CPU: &str = r"^([0-9]{1,6}m|[0-9]{1,4}(\.[0-9]{1,3})?)$";
const MEMORY: &str = r"^[0-9]{1,15}(Ki|Mi|Gi|Ti|k|M|G|T)?$";

/// An amount of CPU and memory.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, KubeSchema)]
pub struct ComputeResources {
    /// CPU, such as 500m or 2.
    #[schemars(length(min = 1, max = 16), regex(pattern = CPU))]
    pub cpu: String,
    /// Memory, such as 256Mi or 1Gi.
    #[schemars(length(min = 1, max = 20), regex(pattern = MEMORY))]
    pub memory: String,
}

/// How a dedicated engine of a tier runs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("quantity(self.requests.cpu).compareTo(quantity(self.limits.cpu)) <= 0 && quantity(self.requests.memory).compareTo(quantity(self.limits.memory)) <= 0").message("requests must not be above limits"))]
pub struct EngineSize {
    /// How many replicas serve the tenant.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 10))]
    pub replicas: i32,
    /// What each replica is guaranteed.
    pub requests: ComputeResources,
    /// What each replica may use at most.
    pub limits: ComputeResources,
}

/// What of the tier's engine size is different for this Tenant. Refused on a tier that is pooled.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, KubeSchema)]
pub struct EngineOverrides {
    /// How many replicas serve the tenant, instead of the tier's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub replicas: Option<i32>,
    /// What each replica is guaranteed and may use, instead of the tier's amounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<EngineResources>,
}

/// What each replica of a tenant's engine is guaranteed and may use at most.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("quantity(self.requests.cpu).compareTo(quantity(self.limits.cpu)) <= 0 && quantity(self.requests.memory).compareTo(quantity(self.limits.memory)) <= 0").message("requests must not be above limits"))]
pub struct EngineResources {
    /// What each replica is guaranteed.
    pub requests: ComputeResources,
    /// What each replica may use at most.
    pub limits: ComputeResources,
}

fn one() -> i32 {
    1
}

impl EngineSize {
    /// What a dedicated tier without a size gets.
    pub fn smallest() -> Self {
        Self::new("50m", "96Mi", "1", "512Mi")
    }

    /// One replica of this size.
    pub fn new(cpu_request: &str, memory_request: &str, cpu_limit: &str, memory_limit: &str) -> Self {
        let amount = |cpu: &str, memory: &str| ComputeResources { cpu: cpu.to_owned(), memory: memory.to_owned() };
        Self { replicas: one(), requests: amount(cpu_request, memory_request), limits: amount(cpu_limit, memory_limit) }
    }
}
