//! From what the user wrote to what later steps may trust. Done once; nothing after this sees the raw spec.

use crds::{
    DeletionPolicy, EngineOverrides, EngineResources, EngineSize, MAX_TENANT_NAME, NAMESPACE_PREFIX, Quantity,
    QuantityKind, Tenant, TenantSpec, TierSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use tenancy::{Placement, TenantId, TierName};

use super::{dereference::Found, error::Error};
use crate::database::TenantLimits;

/// A Tenant whose every value has been checked.
#[derive(Clone, Debug)]
pub struct ValidTenant {
    /// Identity in the database.
    pub id: TenantId,
    /// Name of the Tenant.
    pub name: String,
    /// What makes its objects go when it goes.
    pub owner: OwnerReference,
    /// Its tier.
    pub tier: TierName,
    /// Whether requests are refused.
    pub suspended: bool,
    /// Effective limits.
    pub limits: TenantLimits,
    /// How often its inner credentials were rotated.
    pub rotation: i32,
    /// Where and how it is to be served.
    pub engine: EnginePlan,
}

/// Where and how a tenant is to be served.
#[derive(Clone, Debug, PartialEq)]
pub enum EnginePlan {
    /// By the shared engine.
    Pooled,
    /// By its own.
    Dedicated(ValidEngine),
    /// As it is: its tier is gone, so nobody knows how it should be.
    AsItIs {
        /// The tier that is gone.
        missing: String,
        /// The tiers that there are.
        available: Vec<String>,
    },
}

/// The size of a dedicated engine.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidEngine {
    /// 1 to 10.
    pub replicas: i32,
    /// Per replica.
    pub requests: Resources,
    /// Per replica; not below the requests.
    pub limits: Resources,
}

/// An amount of CPU and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// CPU.
    pub cpu: Quantity,
    /// Memory.
    pub memory: Quantity,
}

/// The identity of a Tenant: `spec.userId` if given, else the object's UID.
///
/// # Errors
/// [`Error::InvalidSpec`] when it is no UUID (the API server refuses such an object).
pub fn identity(tenant: &Tenant) -> Result<TenantId, Error> {
    let text = tenant.spec.user_id.clone().or_else(|| tenant.uid()).unwrap_or_default();
    text.parse().map_err(|e: tenancy::TenantIdError| Error::InvalidSpec(format!("userId: {e}")))
}

/// The namespace of a Tenant's own engine.
pub fn namespace_of(name: &str) -> String {
    format!("{NAMESPACE_PREFIX}{name}")
}

/// Checks everything. A tier that is gone is no obstacle for a tenant that the database already knows.
///
/// # Errors
/// [`Error::InvalidSpec`], [`Error::InvalidTier`], [`Error::TierNotFound`].
pub fn run(tenant: &Tenant, found: &Found) -> Result<ValidTenant, Error> {
    let TenantSpec { tier, user_id: _, display_name: _, suspended, deletion_policy, limits, engine, rotation } =
        &tenant.spec;
    let (DeletionPolicy::Retain | DeletionPolicy::Delete) = deletion_policy;
    let id = identity(tenant)?;
    let name = tenant.name_any();
    if name.len() > MAX_TENANT_NAME || name.contains('.') {
        return Err(Error::InvalidSpec(format!(
            "its name must be a DNS label of at most {MAX_TENANT_NAME} characters"
        )));
    }
    let owner = tenant.controller_owner_ref(&()).ok_or_else(|| Error::InvalidSpec("it has no uid".to_owned()))?;
    let tier_name: TierName = tier.parse().map_err(|e: tenancy::TierNameError| Error::InvalidSpec(e.to_string()))?;

    let Some(spec) = &found.tier else {
        let available = found.tiers.clone();
        let known = found.row.as_ref().filter(|row| row.name == name && !row.retired);
        let row =
            known.ok_or(Error::TierNotFound { tier: tier.clone(), available: available.clone(), served: false })?;
        return Ok(ValidTenant {
            id,
            name,
            owner,
            tier: row.tier.clone(),
            suspended: *suspended,
            limits: row.limits,
            rotation: *rotation,
            engine: EnginePlan::AsItIs { missing: tier.clone(), available },
        });
    };
    let TierSpec { placement, limits: tier_limits, engine: tier_engine } = spec;
    let effective = limits.as_ref().map_or_else(|| tier_limits.clone(), |own| tier_limits.with(own));
    if effective.to_limits().is_none() {
        return Err(Error::InvalidTier("a limit is out of range".to_owned()));
    }
    let plan = match Placement::from(*placement) {
        Placement::Pooled => EnginePlan::Pooled,
        Placement::Dedicated => {
            let size = tier_engine.clone().unwrap_or_else(EngineSize::smallest);
            EnginePlan::Dedicated(valid_engine(size, engine.clone().unwrap_or_default())?)
        }
    };
    Ok(ValidTenant {
        id,
        name,
        owner,
        tier: tier_name,
        suspended: *suspended,
        limits: TenantLimits {
            max_memories: effective.max_memories,
            max_agents: effective.max_agents,
            max_api_keys: effective.max_api_keys,
            requests_per_minute: effective.requests_per_minute,
            max_sockets: effective.max_sockets,
            socket_messages_per_second: effective.socket_messages_per_second,
        },
        rotation: *rotation,
        engine: plan,
    })
}

fn valid_engine(size: EngineSize, own: EngineOverrides) -> Result<ValidEngine, Error> {
    let EngineSize { replicas, requests, limits } = size;
    let EngineOverrides { replicas: own_replicas, resources: own_resources } = own;
    let EngineResources { requests, limits } = own_resources.unwrap_or(EngineResources { requests, limits });
    let amount = |resources: &crds::ComputeResources| -> Result<Resources, crds::QuantityError> {
        Ok(Resources {
            cpu: Quantity::parse(&resources.cpu, QuantityKind::Cpu)?,
            memory: Quantity::parse(&resources.memory, QuantityKind::Memory)?,
        })
    };
    let invalid = |e: crds::QuantityError| Error::InvalidTier(e.to_string());
    let (requests, limits) = (amount(&requests).map_err(invalid)?, amount(&limits).map_err(invalid)?);
    let replicas = own_replicas.unwrap_or(replicas);
    if !(1..=10).contains(&replicas) {
        return Err(Error::InvalidTier("an engine has 1 to 10 replicas".to_owned()));
    }
    if requests.cpu > limits.cpu || requests.memory > limits.memory {
        return Err(Error::InvalidTier("an engine's requests are above its limits".to_owned()));
    }
    Ok(ValidEngine { replicas, requests, limits })
}

impl ValidTenant {
    /// The namespace of its own engine.
    pub fn namespace(&self) -> String {
        namespace_of(&self.name)
    }

    /// The generation of its capability: 1 for one that was never rotated.
    pub fn generation(&self) -> i32 {
        self.rotation + 1
    }
}

#[cfg(test)]
mod tests {
    use crds::{ComputeResources, LimitOverrides, default_tiers};

    use super::*;
    use crate::controller::{dereference::NamespaceState, sample::tenant};

    fn found(tier: &str) -> Found {
        let tiers = default_tiers();
        Found {
            tier: tiers.iter().find(|t| t.name_any() == tier).map(|t| t.spec.clone()),
            tiers: tiers.iter().map(ResourceExt::name_any).collect(),
            row: None,
            namespace: NamespaceState::Absent,
        }
    }

    #[test]
    fn identity_is_the_given_one_or_the_uid() {
        let mut tenant = tenant("free");
        assert_eq!(identity(&tenant).map(|id| id.to_string()).ok(), tenant.metadata.uid);
        tenant.spec.user_id = Some("0e0c9d54-8a52-4e0c-9d54-0b6a2f6f9f11".to_owned());
        assert_eq!(identity(&tenant).map(|id| id.to_string()).ok(), tenant.spec.user_id);
        tenant.spec.user_id = Some("acme".to_owned());
        assert!(matches!(identity(&tenant), Err(Error::InvalidSpec(_))));
    }

    #[test]
    fn an_unknown_tier_names_the_known_ones() {
        let error = run(&tenant("gold"), &found("gold")).expect_err("no such tier");
        assert_eq!(error.reason(), crds::Reason::TierNotFound);
        assert!(error.public().contains("free, pro, promax"), "{}", error.public());
    }

    #[test]
    fn the_old_name_is_told_its_new_one() {
        let error = run(&tenant("team"), &found("free")).expect_err("renamed");
        assert!(error.public().contains("renamed to promax"));
    }

    #[test]
    fn a_known_tenant_keeps_its_limits_when_its_tier_goes() {
        let row = crate::database::TenantRow {
            name: "acme".to_owned(),
            tier: "gold".parse().expect("a name"),
            placement: Placement::Pooled,
            endpoint: None,
            limits: TenantLimits {
                max_memories: 7,
                max_agents: 1,
                max_api_keys: 1,
                requests_per_minute: 9,
                max_sockets: 3,
                socket_messages_per_second: 4,
            },
            memories: 3,
            retired: false,
            role_admitted: false,
            role_drain: None,
            login_connections: None,
        };
        let valid = run(&tenant("gold"), &Found { row: Some(row.clone()), ..found("gold") }).expect("is served");
        assert_eq!(valid.limits, row.limits);
        assert!(matches!(valid.engine, EnginePlan::AsItIs { .. }));
    }

    #[test]
    fn overrides_stand_before_the_tier() {
        let mut tenant = tenant("pro");
        tenant.spec.limits =
            Some(LimitOverrides { max_memories: Some(5), max_sockets: Some(-1), ..LimitOverrides::default() });
        let amount = |cpu: &str| ComputeResources { cpu: cpu.to_owned(), memory: "64Mi".to_owned() };
        tenant.spec.engine = Some(EngineOverrides {
            replicas: Some(2),
            resources: Some(EngineResources { requests: amount("100m"), limits: amount("200m") }),
        });
        let valid = run(&tenant, &found("pro")).expect("is valid");
        assert_eq!((valid.limits.max_memories, valid.limits.requests_per_minute), (5, 300));
        assert_eq!((valid.limits.max_sockets, valid.limits.socket_messages_per_second), (-1, 50));
        let EnginePlan::Dedicated(engine) = valid.engine else { panic!("pro is dedicated") };
        assert_eq!((engine.replicas, engine.limits.cpu.canonical(QuantityKind::Cpu).as_str()), (2, "200m"));

        let amounts = EngineResources { requests: amount("2"), limits: amount("1") };
        tenant.spec.engine = Some(EngineOverrides { replicas: None, resources: Some(amounts) });
        assert!(matches!(run(&tenant, &found("pro")), Err(Error::InvalidTier(_))));
    }
}
