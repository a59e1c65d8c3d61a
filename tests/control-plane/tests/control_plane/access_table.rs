//! What each account of an installation may do, in full: whatever is not here it may not. And the questions by which the API
//! server's own authoriser is asked for all of it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{api::Api, stage::SYSTEM};

/// Where, what (`group/resource`, `=name` if only that one), which verbs, what for.
pub type Grant = (Where, &'static str, &'static str, &'static str);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Where {
    /// In every namespace, and for what is in none.
    Cluster,
    /// In the namespace of the installation.
    Own,
    /// In the namespaces of tenants with an engine of their own.
    Tenants,
}
use Where::{Cluster, Own, Tenants};

pub const VERBS: &str = "get list watch create update patch delete deletecollection";

/// Whoever has authenticated may do this, in every cluster.
pub const EVERYBODY: &[Grant] = &[
    (Cluster, "authentication.k8s.io/selfsubjectreviews", "create", "to ask who one is"),
    (Cluster, "authorization.k8s.io/selfsubjectaccessreviews", "create", "to ask what one may do"),
    (Cluster, "authorization.k8s.io/selfsubjectrulesreviews", "create", "to ask what one may do"),
];

pub const OPERATOR: &[Grant] = &[
    (Cluster, "stellar-memory.dev/tenants", "get list watch patch", "what is asked for; the finalizer"),
    (Cluster, "stellar-memory.dev/tenants/status", "patch", "how it went"),
    (Cluster, "stellar-memory.dev/tiers", "list watch", "the limits of tenants"),
    (Cluster, "/namespaces", "get list watch create patch delete", "one for each engine; goes with it"),
    (Cluster, "/services", "list watch create patch", "how the gateway finds an engine"),
    (Cluster, "/serviceaccounts", "list watch create patch", "the engine's, which may do nothing"),
    (Cluster, "/resourcequotas", "list watch create patch", "bounds of a namespace"),
    (Cluster, "/limitranges", "list watch create patch", "bounds of a container"),
    (Cluster, "apps/deployments", "list watch create patch", "the engine"),
    (Cluster, "discovery.k8s.io/endpointslices", "list", "whether the gateway finds an engine before it is sent there"),
    (Cluster, "networking.k8s.io/networkpolicies", "list watch create patch", "who may talk to an engine"),
    (Cluster, "policy/poddisruptionbudgets", "list watch create patch delete", "goes when one replica is left"),
    (Cluster, "rbac.authorization.k8s.io/rolebindings", "list watch create patch", "its own way to the login's Secret"),
    (Cluster, "rbac.authorization.k8s.io/clusterroles=stellar-memory-tenant-secrets", "bind", "that binding, no other"),
    (Cluster, "events.k8s.io/events", "create patch", "what happened, for people"),
    (Own, "/secrets", "get list watch create patch delete", "the tenants' API keys"),
    (Own, "coordination.k8s.io/leases", "get create patch", "who leads"),
    (Tenants, "/secrets", "get list watch create patch", "the login of the engine"),
];

pub const MIGRATE: &[Grant] = &[
    (Cluster, CRDS, "create", "creation cannot be limited to names"),
    (
        Cluster,
        "apiextensions.k8s.io/customresourcedefinitions=tenants.stellar-memory.dev",
        "get patch",
        "brings it up to date",
    ),
    (
        Cluster,
        "apiextensions.k8s.io/customresourcedefinitions=tiers.stellar-memory.dev",
        "get patch",
        "brings it up to date",
    ),
    (Cluster, "stellar-memory.dev/tiers", "create patch", "the tiers of the values"),
    (Own, "/secrets", "create", "creation cannot be limited to names"),
    (Own, "/secrets=stellar-operator-db", "get patch", "the operator's login"),
    (Own, "/secrets=stellar-gateway-db", "get patch", "the gateway's login"),
    (Own, "/secrets=stellar-pool-db", "get patch", "the shared engine's login"),
    (Own, "/secrets=stellar-master-key", "get patch", "what capabilities derive from"),
];

const CRDS: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// Verbs beyond the usual ones, and what is a resource to the authoriser alone.
const SPECIAL: [(&str, bool, &str); 10] = [
    ("rbac.authorization.k8s.io/clusterroles", false, "bind escalate"),
    ("rbac.authorization.k8s.io/roles", true, "bind escalate"),
    ("/users", false, "impersonate"),
    ("/groups", false, "impersonate"),
    ("/serviceaccounts", true, "impersonate"),
    ("authentication.k8s.io/userextras/scopes", false, "impersonate"),
    ("authentication.k8s.io/uids", false, "impersonate"),
    ("certificates.k8s.io/signers", false, "approve sign attest"),
    ("policy/podsecuritypolicies", true, "use"),
    ("*/*", true, "*"),
];

/// What is asked for by name too: a right to one name is no right to all, and must be none to its neighbours.
const NAMED: [(&str, bool, &str, &[&str]); 3] = [
    (
        "/secrets",
        true,
        "get update patch delete",
        &[
            "stellar-operator-db",
            "stellar-gateway-db",
            "stellar-pool-db",
            "stellar-master-key",
            "stellar-memory-postgres",
            "access-a-api-key",
            "engine-db",
        ],
    ),
    (
        "rbac.authorization.k8s.io/clusterroles",
        false,
        "get update patch delete bind escalate",
        &[
            "stellar-memory-tenant-secrets",
            "stellar-memory-operator",
            "stellar-memory-migrate",
            "cluster-admin",
            "admin",
            "edit",
            "view",
            "system:node",
        ],
    ),
    (
        CRDS,
        false,
        "get update patch delete",
        &["tenants.stellar-memory.dev", "tiers.stellar-memory.dev", "certificates.cert-manager.io"],
    ),
];

/// One question: may this be done here?
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Question {
    /// None: in all namespaces at once, or of what is in none.
    pub namespace: Option<String>,
    /// `group/resource` or `group/resource/subresource`.
    pub resource: String,
    pub name: Option<&'static str>,
    pub verb: &'static str,
}

impl Question {
    pub fn attributes(&self) -> Value {
        let mut parts = self.resource.splitn(3, '/');
        let mut part = || parts.next().unwrap_or_default();
        json!({
            "namespace": self.namespace, "group": part(), "resource": part(), "subresource": part(),
            "name": self.name, "verb": self.verb,
        })
    }

    /// Whether one of these grants says yes.
    pub fn granted(&self, grants: &[Grant], tenants: &[String]) -> bool {
        grants.iter().any(|grant| self.is_of(grant, tenants))
    }

    pub fn is_of(&self, (place, what, verbs, _): &Grant, tenants: &[String]) -> bool {
        let (resource, name) = what.split_once('=').map_or((*what, None), |(resource, name)| (resource, Some(name)));
        let here = match place {
            Cluster => true,
            Own => self.namespace.as_deref() == Some(SYSTEM),
            Tenants => self.namespace.as_ref().is_some_and(|namespace| tenants.contains(namespace)),
        };
        here && self.resource == resource
            && verbs.split(' ').any(|verb| verb == self.verb)
            && (name.is_none() || name == self.name)
    }
}

/// Every resource and subresource that the API server has × every verb × each of the namespaces and all of them at once.
pub async fn questions(api: &Api, namespaces: &[String]) -> BTreeSet<Question> {
    let mut asked = BTreeSet::new();
    let mut ask = |resource: &str, namespaced: bool, verbs: &'static str, names: &[&'static str]| {
        let places = namespaces.iter().cloned().map(Some).filter(|_| namespaced).chain([None]);
        for namespace in places {
            for verb in verbs.split(' ') {
                let resource = resource.to_owned();
                let question = Question { namespace: namespace.clone(), resource, name: None, verb };
                asked.extend(names.iter().map(|name| Question { name: Some(name), ..question.clone() }));
                if names.is_empty() {
                    asked.insert(question);
                }
            }
        }
    };
    for (resource, namespaced) in discovered(api).await {
        ask(&resource, namespaced, VERBS, &[]);
    }
    for (resource, namespaced, verbs) in SPECIAL {
        ask(resource, namespaced, verbs, &[]);
    }
    for (resource, namespaced, verbs, names) in NAMED {
        ask(resource, namespaced, verbs, names);
    }
    asked
}

async fn discovered(api: &Api) -> BTreeSet<(String, bool)> {
    let groups = api.get("/apis").await.unwrap();
    let versions = groups["groups"].as_array().unwrap().iter().flat_map(|group| group["versions"].as_array().unwrap());
    let mut found = BTreeSet::new();
    for path in versions.map(|version| format!("/apis/{}", version["groupVersion"].as_str().unwrap())) {
        collect(&api.get(&path).await.unwrap(), path.split('/').nth(2).unwrap(), &mut found);
    }
    collect(&api.get("/api/v1").await.unwrap(), "", &mut found);
    found
}

fn collect(list: &Value, group: &str, found: &mut BTreeSet<(String, bool)>) {
    for resource in list["resources"].as_array().unwrap() {
        let name = resource["name"].as_str().unwrap();
        found.insert((format!("{group}/{name}"), resource["namespaced"].as_bool().unwrap()));
    }
}
