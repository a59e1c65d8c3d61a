//! The `Tenant` resource: one customer.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, EngineOverrides, LimitOverrides, PlacementSpec};

/// What remains of a tenant in the database when its Tenant is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Its memories stay; a new Tenant with the same `userId` takes them over.
    #[default]
    Retain,
    /// Nothing remains.
    Delete,
}

/// Where a Tenant is on its way, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Seen, nothing done yet.
    Pending,
    /// Being made.
    Provisioning,
    /// As the spec says, and served.
    Ready,
    /// Served, while it moves between placements.
    Moving,
    /// As the spec says, and requests are refused.
    Suspended,
    /// Cannot be brought to what the spec says; see the conditions.
    Failed,
    /// Being deleted.
    Deleting,
}

impl Phase {
    /// All phases, for metrics.
    pub const ALL: [Self; 7] =
        [Self::Pending, Self::Provisioning, Self::Ready, Self::Moving, Self::Suspended, Self::Failed, Self::Deleting];

    /// The word in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Provisioning => "Provisioning",
            Self::Ready => "Ready",
            Self::Moving => "Moving",
            Self::Suspended => "Suspended",
            Self::Failed => "Failed",
            Self::Deleting => "Deleting",
        }
    }
}

/// What a tenant is to be.
#[derive(CustomResource, KubeSchema, Clone, PartialEq, Debug, Serialize, Deserialize)]
#[kube(
    group = "stellar-memory.dev",
    version = "v1alpha1",
    kind = "Tenant",
    plural = "tenants",
    singular = "tenant",
    shortname = "tnt",
    category = "stellar",
    status = "TenantStatus",
    derive = "PartialEq",
    doc = "A tenant: one customer of the memory service, with its own memories, API keys and limits.",
    selectable = ".spec.tier",
    selectable = ".status.placement",
    validation = Rule::new("size(self.metadata.name) <= 48 && self.metadata.name.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')")
        .message("a tenant's name has at most 48 characters a-z, 0-9 and -, and starts and ends with a letter or digit: its namespace is stellar-tenant-<name>"),
    printcolumn(name = "Tier", type_ = "string", json_path = ".spec.tier", description = "The tier that is asked for"),
    printcolumn(name = "Placement", type_ = "string", json_path = ".status.placement", description = "Where requests are served now"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether the tenant is as asked for, and served"),
    printcolumn(name = "Memories", type_ = "integer", json_path = ".status.usage.memories", description = "Memories stored"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Where it is on its way", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why it is ready or not", priority = 1),
    printcolumn(name = "User-ID", type_ = "string", json_path = ".status.userId", description = "Its identity in the database", priority = 1)
)]
#[x_kube(validation = Rule::new("has(self.userId) == has(oldSelf.userId) && (!has(self.userId) || self.userId == oldSelf.userId)")
    .message("userId is the tenant's identity: it cannot be added, changed or removed after creation")
    .field_path(".userId"))]
#[serde(rename_all = "camelCase")]
pub struct TenantSpec {
    /// The name of a Tier, such as free, pro or promax.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    #[x_kube(validation = Rule::new("self != 'team'").message("tier team was renamed to promax"))]
    pub tier: String,
    /// The tenant's identity in the database: a UUID in lower case. If absent, the object's UID. Give one to take over
    /// the memories of a deleted Tenant, or to be able to restore this object elsewhere. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 36, max = 36),
        regex(pattern = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
    )]
    #[x_kube(validation = Rule::new("self != '00000000-0000-0000-0000-000000000000'").message("the nil UUID cannot be a userId"))]
    pub user_id: Option<String>,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 120))]
    pub display_name: Option<String>,
    /// Whether requests are refused (403 tenant-suspended). Nothing is deleted or moved.
    #[serde(default)]
    pub suspended: bool,
    /// What remains in the database when this Tenant is deleted: Retain keeps the memories, Delete keeps nothing.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// What of the tier's limits is different for this tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitOverrides>,
    /// What of the tier's engine size is different for this tenant. Refused on a tier that is pooled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineOverrides>,
    /// Counted up, it rotates the tenant's inner credentials without a failed request: the capability that its requests
    /// carry and the database password of its own engine. An API key is rotated by deleting its Secret.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("rotation only counts up"))]
    pub rotation: i32,
}

/// What a tenant uses.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct UsageStatus {
    /// Memories stored; refreshed about twice a minute.
    pub memories: i64,
    /// The most that may be stored; -1 for no limit.
    pub limit: i64,
}

/// What the operator found and did.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantStatus {
    /// The tenant's identity in the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The tier whose limits are in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Where requests are served now: pooled or dedicated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementSpec>,
    /// Where it is on its way: Pending, Provisioning, Ready, Moving, Suspended, Failed or Deleting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The name of the Secret that holds the API key under `api-key`, in the operator's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret: Option<String>,
    /// The namespace of the tenant's own engine, while it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What the tenant uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageStatus>,
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, DatabaseReady, EngineReady, KeyReady; Reconciling and Stalled for kstatus.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
