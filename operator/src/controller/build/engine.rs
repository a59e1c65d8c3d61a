//! A tenant's own engine: Service, Deployment and, with several replicas, a disruption budget. The pod has no
//! token, no capability, nothing to write to, and its database URL as a file.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Capabilities, Container, ContainerPort, EnvVar, HTTPGetAction, Lifecycle, LifecycleHandler,
            PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
            SecretVolumeSource, SecurityContext, Service, ServicePort, ServiceSpec, SleepAction,
            TopologySpreadConstraint, Volume, VolumeMount,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use kube::api::ObjectMeta;

use super::{
    API_PORT, ENGINE, ENGINE_DB_KEY, ENGINE_DB_SECRET, HEALTH_PORT, metadata, narrate, pod_labels, quota::amounts,
};
use crate::{
    controller::validate::{ValidEngine, ValidTenant},
    settings::Settings,
};

const USER: i64 = 65_532;
const SECRET_DIRECTORY: &str = "/etc/stellar-memory/database";
/// Between "is leaving" and SIGTERM: the gateway resolves the Service again every second.
const LEAVE_SECONDS: i64 = 3;
const GRACE_SECONDS: i64 = 45;

pub(super) fn service(tenant: &ValidTenant) -> Service {
    Service {
        metadata: metadata(tenant, ENGINE),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some(pod_labels(&tenant.name)),
            ports: Some(vec![ServicePort {
                name: Some("http".to_owned()),
                port: API_PORT,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String("http".to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

pub(super) fn deployment(tenant: &ValidTenant, size: &ValidEngine, settings: &Settings) -> Deployment {
    let mut labels = super::labels(&tenant.name);
    labels.extend(pod_labels(&tenant.name));
    Deployment {
        metadata: ObjectMeta { labels: Some(labels.clone()), ..metadata(tenant, ENGINE) },
        spec: Some(DeploymentSpec {
            replicas: Some(size.replicas),
            revision_history_limit: Some(2),
            progress_deadline_seconds: Some(300),
            selector: selector(tenant),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_unavailable: Some(IntOrString::Int(0)),
                    max_surge: Some(IntOrString::Int(1)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(pod(tenant, size, settings)),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

pub(super) fn disruption_budget(tenant: &ValidTenant) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(tenant, ENGINE),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(tenant)),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

fn selector(tenant: &ValidTenant) -> LabelSelector {
    LabelSelector { match_labels: Some(pod_labels(&tenant.name)), ..LabelSelector::default() }
}

fn pod(tenant: &ValidTenant, size: &ValidEngine, settings: &Settings) -> PodSpec {
    PodSpec {
        service_account_name: Some(ENGINE.to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(runtime_default()),
            ..PodSecurityContext::default()
        }),
        topology_spread_constraints: (size.replicas > 1).then(|| {
            vec![TopologySpreadConstraint {
                max_skew: 1,
                topology_key: "kubernetes.io/hostname".to_owned(),
                when_unsatisfiable: "ScheduleAnyway".to_owned(),
                label_selector: Some(selector(tenant)),
                ..TopologySpreadConstraint::default()
            }]
        }),
        containers: vec![container(tenant, size, settings)],
        volumes: Some([database_volume()].into_iter().chain(has_key(settings).then(narrate::volume)).collect()),
        ..PodSpec::default()
    }
}

fn database_volume() -> Volume {
    Volume {
        name: "database".to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(ENGINE_DB_SECRET.to_owned()),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// Whether there is a key for the model that tells narratives.
fn has_key(settings: &Settings) -> bool {
    settings.engine_narrate.as_ref().is_some_and(|narrate| narrate.key_file.is_some())
}

fn container(tenant: &ValidTenant, size: &ValidEngine, settings: &Settings) -> Container {
    let id = tenant.id.to_string();
    let (listen, health) = (format!("0.0.0.0:{API_PORT}"), format!("0.0.0.0:{HEALTH_PORT}"));
    let url_file = format!("{SECRET_DIRECTORY}/{ENGINE_DB_KEY}");
    let (connections, index_memory) = (settings.engine_connections.to_string(), size.limits.memory.half_in_mebibytes());
    let arguments = [
        ["--mode", "dedicated"],
        ["--tenant", &id],
        ["--database-url-file", &url_file],
        ["--listen", &listen],
        ["--health-listen", &health],
        ["--max-connections", &connections],
        // The other half is for requests, and for what the allocator keeps.
        ["--index-memory", &index_memory],
    ];
    Container {
        name: ENGINE.to_owned(),
        image: Some(settings.engine_image.clone()),
        image_pull_policy: Some(settings.engine_image_pull_policy.clone()),
        command: Some(vec!["/usr/local/bin/engine".to_owned()]),
        args: Some(
            arguments
                .into_iter()
                .flatten()
                .map(str::to_owned)
                .chain(settings.engine_narrate.iter().flat_map(narrate::arguments))
                .collect(),
        ),
        env: Some(settings.engine_environment.iter().map(|(name, value)| variable(name, value)).collect()),
        ports: Some(vec![port("http", API_PORT), port("health", HEALTH_PORT)]),
        resources: Some(ResourceRequirements {
            requests: Some(amounts(size.requests)),
            limits: Some(amounts(size.limits)),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            seccomp_profile: Some(runtime_default()),
            ..SecurityContext::default()
        }),
        startup_probe: Some(probe("/healthz", 2, 60)),
        readiness_probe: Some(probe("/readyz", 2, 3)),
        liveness_probe: Some(probe("/healthz", 10, 3)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: LEAVE_SECONDS }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        volume_mounts: Some([database_mount()].into_iter().chain(has_key(settings).then(narrate::mount)).collect()),
        ..Container::default()
    }
}

fn database_mount() -> VolumeMount {
    VolumeMount {
        name: "database".to_owned(),
        mount_path: SECRET_DIRECTORY.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("health".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn runtime_default() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }
}
