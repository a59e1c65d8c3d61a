//! What a security review would look for in the built objects.

use std::collections::BTreeMap;

use crds::{Quantity, QuantityKind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::*;
use crate::{
    controller::validate::{Resources, ValidEngine},
    database::TenantLimits,
    postgres_url::Address,
    settings::Narrate,
};

fn amount(cpu: &str, memory: &str) -> Resources {
    Resources {
        cpu: Quantity::parse(cpu, QuantityKind::Cpu).expect("CPU"),
        memory: Quantity::parse(memory, QuantityKind::Memory).expect("memory"),
    }
}

fn tenant(replicas: i32) -> ValidTenant {
    ValidTenant {
        id: "6f1d4b0e-8a52-4e0c-9d54-0b6a2f6f9f11".parse().expect("a UUID"),
        name: "acme".to_owned(),
        owner: OwnerReference { name: "acme".to_owned(), uid: "uid".to_owned(), ..OwnerReference::default() },
        tier: "pro".parse().expect("a name"),
        suspended: false,
        rotation: 0,
        limits: TenantLimits {
            max_memories: 1,
            max_agents: 1,
            max_api_keys: 1,
            requests_per_minute: 1,
            max_sockets: 1,
            socket_messages_per_second: 1,
        },
        engine: EnginePlan::Dedicated(ValidEngine {
            replicas,
            requests: amount("50m", "96Mi"),
            limits: amount("1", "512Mi"),
        }),
    }
}

fn settings() -> Settings {
    Settings {
        namespace: "stellar-system".to_owned(),
        service_account: "stellar-operator".to_owned(),
        engine_image: "stellar-memory:1".to_owned(),
        engine_image_pull_policy: "IfNotPresent".to_owned(),
        database: "postgres://stellar_operator:x@pg.stellar-system.svc.cluster.local:5432/stellar"
            .parse()
            .expect("a URL"),
        database_address: Address::default(),
        engine_connections: 8,
        engine_environment: vec![("LOG_FORMAT", "json".to_owned())],
        engine_traces: Some(("otel.monitoring.svc.cluster.local".to_owned(), 4318)),
        engine_narrate: None,
        cluster_domain: "cluster.local".to_owned(),
        wait_for_dns: true,
        drain: std::time::Duration::from_secs(30),
        key_overlap: std::time::Duration::ZERO,
        gateway_labels: BTreeMap::from([("app.kubernetes.io/component".to_owned(), "gateway".to_owned())]),
        metrics_namespaces: Vec::new(),
    }
}

fn desired(replicas: i32) -> Desired {
    run(&tenant(replicas), &settings()).expect("a dedicated tenant needs objects")
}

fn json(object: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(object).expect("serialises")
}

#[test]
fn pooled_tenants_need_no_object() {
    assert!(run(&ValidTenant { engine: EnginePlan::Pooled, ..tenant(1) }, &settings()).is_none());
}

#[test]
fn the_pod_passes_the_restricted_standard() {
    let deployment = json(&desired(1).deployment);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["enableServiceLinks"], false);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["runAsUser"], 65_532);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = &pod["containers"][0];
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["securityContext"]["capabilities"]["drop"], serde_json::json!(["ALL"]));
    assert_eq!(container["env"], serde_json::json!([{ "name": "LOG_FORMAT", "value": "json" }]), "and nothing secret");
    let arguments = container["args"].to_string();
    assert!(arguments.contains("\"--index-memory\",\"256Mi\"") && arguments.contains("\"--max-connections\",\"8\""));
    let namespace = json(&desired(1).namespace);
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
}

#[test]
fn an_update_never_takes_the_last_pod_and_fits_the_quota() {
    let desired = desired(1);
    let deployment = json(&desired.deployment);
    let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
    assert_eq!((&rolling["maxUnavailable"], &rolling["maxSurge"]), (&serde_json::json!(0), &serde_json::json!(1)));
    let quota = json(&desired.quota);
    let hard = &quota["spec"]["hard"];
    assert_eq!(
        (&hard["pods"], &hard["limits.cpu"], &hard["limits.memory"]),
        (&"3".into(), &"3".into(), &"1536Mi".into())
    );
}

#[test]
fn nothing_passes_but_what_is_listed() {
    let [deny, engine] = &desired(1).policies[..] else { panic!("two policies") };
    let deny = json(deny);
    assert_eq!(deny["spec"]["podSelector"], serde_json::json!({}));
    assert!(deny["spec"]["ingress"].is_null() && deny["spec"]["egress"].is_null());
    let engine = json(engine);
    let ingress = &engine["spec"]["ingress"];
    assert_eq!(ingress.as_array().map(Vec::len), Some(1));
    assert_eq!(ingress[0]["ports"][0]["port"], 8080);
    assert_eq!(
        ingress[0]["from"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"],
        "stellar-system"
    );
    let postgres = &engine["spec"]["egress"][1];
    assert_eq!(postgres["ports"][0]["port"], 5432);
    assert_eq!(postgres["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], "stellar-system");
    let traces = &engine["spec"]["egress"][2];
    assert_eq!(traces["ports"][0]["port"], 4318);
    assert_eq!(traces["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], "monitoring");
}

#[test]
fn a_model_for_narratives_is_reached_and_its_key_is_a_file() {
    let narrate = Narrate {
        url: "https://llm.example.com/v1".to_owned(),
        model: "small".to_owned(),
        key_file: Some("/etc/key".into()),
        address: ("llm.example.com".to_owned(), 443),
    };
    let with = |narrate| run(&tenant(1), &Settings { engine_narrate: narrate, ..settings() }).expect("dedicated");
    let desired = with(Some(narrate.clone()));
    let pod = json(&desired.deployment)["spec"]["template"]["spec"].clone();
    let arguments = pod["containers"][0]["args"].to_string();
    assert!(
        arguments.contains(r#""--narrate-url","https://llm.example.com/v1","--narrate-model","small""#),
        "{arguments}"
    );
    assert!(arguments.contains(r#""--narrate-api-key-file","/etc/stellar-memory/narrate/api-key""#), "{arguments}");
    assert_eq!(pod["volumes"][1]["secret"]["secretName"], "engine-narrate");
    assert_eq!(pod["containers"][0]["volumeMounts"][1]["mountPath"], "/etc/stellar-memory/narrate");
    let egress = json(&desired.policies[1])["spec"]["egress"].clone();
    assert_eq!((egress.as_array().map(Vec::len), &egress[3]["ports"][0]["port"]), (Some(4), &443.into()));

    let keyless = with(Some(Narrate { key_file: None, ..narrate }));
    let pod = json(&keyless.deployment)["spec"]["template"]["spec"].clone();
    assert_eq!(pod["volumes"].as_array().map(Vec::len), Some(1));
    assert!(!pod["containers"][0]["args"].to_string().contains("api-key"));
    assert_eq!(json(&narrate_secret(&tenant(1), "sk-1\n"))["data"]["api-key"], "c2stMQ==");
}

#[test]
fn everything_goes_with_the_tenant_and_is_found_by_its_label() {
    let Desired {
        namespace,
        role_binding,
        service_account,
        quota,
        limit_range,
        policies,
        service,
        deployment,
        disruption_budget,
        endpoint,
        connections,
    } = desired(2);
    let mut all = vec![
        json(&namespace),
        json(&role_binding),
        json(&service_account),
        json(&quota),
        json(&limit_range),
        json(&service),
        json(&deployment),
        json(&disruption_budget.expect("with two replicas")),
    ];
    all.extend(policies.iter().map(json));
    for object in all {
        assert_eq!(object["metadata"]["labels"][TENANT_LABEL], "acme", "{object}");
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "uid", "{object}");
    }
    assert_eq!(endpoint, "engine.stellar-tenant-acme.svc.cluster.local:8080");
    assert_eq!(connections, 24);
}

#[test]
fn a_new_login_changes_the_pods() {
    let one = json(&with_login(desired(1).deployment, "a"));
    let other = json(&with_login(desired(1).deployment, "b"));
    assert_ne!(one["spec"]["template"], other["spec"]["template"]);
}
