//! What every account of an installation may do, asked of the API server's own authoriser for each resource, verb and
//! namespace; and what the operator's account is refused when it tries.

use std::{collections::BTreeSet, time::Instant};

use futures::{StreamExt as _, stream};
use harness::eventually;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::{
    access_table::{EVERYBODY, Grant, MIGRATE, OPERATOR, Question, questions},
    api::{Api, TENANTS, condition},
    program::Operator,
    stage::{SYSTEM, Stage, stage},
};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const POLICY_BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
const AT_ONCE: usize = 48;

/// Open to whoever has authenticated, and what is not.
const OPEN: [&str; 9] = [
    "/healthz",
    "/livez",
    "/readyz",
    "/version",
    "/api",
    "/apis",
    "/openapi/v3",
    "/.well-known/openid-configuration",
    "/openid/v1/jwks",
];
const CLOSED: [&str; 7] = ["/metrics", "/metrics/slis", "/logs", "/debug/pprof/heap", "/configz", "/flagz", "/statusz"];

fn namespace(tenant: &str) -> String {
    format!("stellar-tenant-{tenant}")
}

/// Two tenants with namespaces of their own, as far as an operator without nodes brings them.
async fn two_tenants(stage: &Stage, api: &Api) -> [String; 2] {
    let operator = Operator::start(&stage.start());
    for name in ["access-a", "access-b"] {
        api.tenant(name, &json!({ "tier": "pro", "deletionPolicy": "Delete" })).await;
    }
    let tenants = ["access-a", "access-b"].map(namespace);
    // Told of these Tenants: a namespace that an earlier test left may be there, with everything in it, and on its way out.
    for name in ["access-a", "access-b"] {
        eventually(&format!("{name} has an engine"), || async {
            let tenant = api.get(&format!("{TENANTS}/{name}")).await?;
            let engine = condition(&tenant, "EngineReady", "message")?;
            engine.contains("engine replicas ready").then_some(())
        })
        .await;
    }
    assert!(operator.terminate().await, "SIGTERM ends it with code 0");
    tenants
}

async fn review(api: &Api, (namespace, name): (&str, &str), attributes: Value) -> bool {
    let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}"), "system:authenticated"]
        .map(str::to_owned);
    let mut spec = json!({ "user": format!("system:serviceaccount:{namespace}:{name}"), "groups": groups });
    spec.as_object_mut().unwrap().extend(attributes.as_object().unwrap().clone());
    let review = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec });
    let answer = api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await.unwrap();
    answer["status"]["allowed"].as_bool().unwrap()
}

/// Where the authoriser and the grants differ, each as a line.
async fn difference(
    api: &Api,
    account: (&str, &str),
    asked: &BTreeSet<Question>,
    grants: &[Grant],
    tenants: &[String],
) -> Vec<String> {
    let answers = stream::iter(asked).map(|question| async move {
        (question, review(api, account, json!({ "resourceAttributes": question.attributes() })).await)
    });
    let answers: Vec<_> = answers.buffer_unordered(AT_ONCE).collect().await;
    let all = [EVERYBODY, grants].concat();
    answers
        .into_iter()
        .filter(|(question, allowed)| question.granted(&all, tenants) != *allowed)
        .map(|(question, allowed)| format!("{}: {question:?}", if allowed { "may and must not" } else { "may not" }))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_account_may_do_what_its_table_says_and_nothing_else() {
    let stage = stage().await;
    let api = Api::admin().await;
    let tenants = two_tenants(&stage, &api).await;
    let begun = Instant::now();
    let namespaces = [&tenants[..], &[SYSTEM.to_owned(), "kube-system".to_owned()]].concat();
    let asked = questions(&api, &namespaces).await;
    for grant in [EVERYBODY, OPERATOR, MIGRATE].concat() {
        assert!(asked.iter().any(|question| question.is_of(&grant, &tenants)), "nothing asks for {grant:?}");
    }
    let system = |name| (SYSTEM, name);
    let accounts: [((&str, &str), &[Grant]); 7] = [
        (system("stellar-memory-operator"), OPERATOR),
        (system("stellar-memory-migrate"), MIGRATE),
        (system("stellar-memory-gateway"), &[]),
        (system("stellar-memory-engine"), &[]),
        (system("stellar-memory-postgres"), &[]),
        ((&tenants[0], "engine"), &[]),
        ((&tenants[1], "default"), &[]),
    ];
    for (account, grants) in accounts {
        let (namespace, name) = account;
        let there = api.get(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}")).await;
        let there = there.unwrap_or_else(|| panic!("{account:?} is an account of the installation"));
        let token = there["automountServiceAccountToken"].clone();
        assert!(name == "default" || token == json!(false), "{account:?} has a token put into every pod: {token}");
        // Who may do nothing is asked at home and in the whole cluster; half as many questions.
        let near = |place: &Option<String>| place.as_ref().is_none_or(|place| place == namespace);
        let asked = asked.iter().filter(|question| !grants.is_empty() || near(&question.namespace)).cloned().collect();
        let different = difference(&api, account, &asked, grants, &tenants).await;
        assert_eq!(different, Vec::<String>::new(), "{account:?}");
        for (paths, open) in [(&OPEN[..], true), (&CLOSED[..], false)] {
            for path in paths {
                let attributes = json!({ "nonResourceAttributes": { "path": path, "verb": "get" } });
                assert_eq!(review(&api, account, attributes).await, open, "{account:?} {path}");
            }
        }
    }
    println!("at most {} questions for each of {} accounts in {:?}", asked.len(), accounts.len(), begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_too_many_is_noticed() {
    let stage = stage().await;
    let api = Api::admin().await;
    let tenants = two_tenants(&stage, &api).await;
    let asked = questions(&api, &[]).await;
    let account = (SYSTEM, "stellar-memory-operator");
    let path = format!("{RBAC}/clusterroles/stellar-memory-operator");
    let rules = api.get(&path).await.unwrap()["rules"].clone();
    let with = |rule: Value| {
        let mut rules = rules.clone();
        rules.as_array_mut().unwrap().push(rule);
        json!({ "rules": rules })
    };
    let roles = |verb: &str| {
        with(json!({ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": [verb] }))
    };
    // By the label a role takes in the rules of others, whoever made them.
    let stray = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": { "name": "stray", "labels": { "stray": "true" } },
        "rules": [{ "apiGroups": [""], "resources": ["nodes/proxy"], "verbs": ["create"] }],
    });
    let aggregated = json!({ "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "stray": "true" } }] } });
    let faults = [
        ("a wildcard", with(json!({ "apiGroups": [""], "resources": ["*"], "verbs": ["get"] })), "/secrets"),
        ("bind without a name", roles("bind"), "cluster-admin"),
        ("escalate", roles("escalate"), "escalate"),
        ("an aggregation", aggregated, "nodes/proxy"),
    ];
    let differs = async |asked: &BTreeSet<Question>| difference(&api, account, asked, OPERATOR, &tenants).await;
    assert_eq!(differs(&asked).await, Vec::<String>::new(), "before");
    api.create(&format!("{RBAC}/clusterroles"), &stray).await.unwrap();
    for (fault, patch, word) in faults {
        api.patch(&path, &patch).await.unwrap();
        // Asked again and again until the authoriser has heard of the role, and so only what the fault is about.
        let about = asked.iter().filter(|question| format!("{question:?}").contains(word)).cloned().collect();
        let noticed = eventually(&format!("{fault} is noticed"), || async {
            let surplus = differs(&about).await.into_iter().filter(|line| line.starts_with("may and must not"));
            Some(surplus.count()).filter(|count| *count > 0)
        })
        .await;
        println!("{fault}: {noticed} answers of {} differ", about.len());
        api.patch(&path, &json!({ "rules": rules, "aggregationRule": null })).await.unwrap();
        let what = format!("{fault} is gone");
        eventually(&what, || async { differs(&about).await.is_empty().then_some(()) }).await;
    }
    assert_eq!(differs(&asked).await, Vec::<String>::new(), "afterwards");
    api.delete(&format!("{RBAC}/clusterroles/stray")).await;
}

fn binding(namespace: &str, role: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": "grab", "namespace": namespace },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [{ "kind": "ServiceAccount", "name": "stellar-memory-operator", "namespace": SYSTEM }],
    })
}

fn pods_of(namespace: &str) -> Value {
    let labels = json!({ "app": "grab" });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "grab", "namespace": namespace },
        "spec": { "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels },
            "spec": { "containers": [{ "name": "c", "image": "engine:test" }] } } },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_account_is_refused_what_would_make_it_more() {
    let stage = stage().await;
    let api = Api::admin().await;
    let [own, _] = two_tenants(&stage, &api).await;
    let operator = Api::of(&stage.start().kubeconfig).await;
    // Nothing is kept of what should be refused and is not.
    let tried = async |method: Method, path: &str, body: Option<Value>| {
        let path = format!("{path}{}dryRun=All", if path.contains('?') { '&' } else { '?' });
        match operator.call(method, &path, body.as_ref()).await {
            Ok(_) => "done".to_owned(),
            Err(status) => format!("{} {}", status.code, status.message),
        }
    };
    let bind = async |namespace: &str, role: &str| {
        let path = format!("{RBAC}/namespaces/{namespace}/rolebindings");
        tried(Method::POST, &path, Some(binding(namespace, role))).await
    };
    let run = async |namespace: &str| {
        tried(Method::POST, &format!("/apis/apps/v1/namespaces/{namespace}/deployments"), Some(pods_of(namespace)))
            .await
    };
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "grab" } });
    let cluster_binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "grab" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "stellar-memory-tenant-secrets" },
        "subjects": [{ "kind": "ServiceAccount", "name": "stellar-memory-operator", "namespace": SYSTEM }],
    });

    assert_eq!(bind(&own, "stellar-memory-tenant-secrets").await, "done", "its work");
    assert_eq!(run(&own).await, "done", "its work");
    for role in ["cluster-admin", "admin", "edit", "view", "stellar-memory-migrate", "stellar-memory-tenant-editor"] {
        let refused = bind(&own, role).await;
        assert!(
            refused.starts_with("403") && refused.contains("attempting to grant RBAC permissions not currently held"),
            "{role}: {refused}"
        );
    }
    let token =
        json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "audiences": [] } });
    let patch = json!({ "rules": [{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }] });
    let cases = [
        (Method::POST, format!("{RBAC}/clusterrolebindings"), Some(cluster_binding)),
        (Method::PATCH, format!("{RBAC}/clusterroles/stellar-memory-tenant-secrets"), Some(patch.clone())),
        (Method::PATCH, format!("{RBAC}/clusterroles/stellar-memory-operator"), Some(patch)),
        (Method::POST, "/api/v1/namespaces/kube-system/secrets".to_owned(), Some(secret.clone())),
        (Method::POST, "/api/v1/namespaces/default/secrets".to_owned(), Some(secret)),
        (
            Method::POST,
            format!("/api/v1/namespaces/{SYSTEM}/serviceaccounts/stellar-memory-migrate/token"),
            Some(token),
        ),
        (
            Method::PATCH,
            format!("{POLICY_BINDINGS}/stellar-memory-operator"),
            Some(json!({ "spec": { "validationActions": ["Audit"] } })),
        ),
        (Method::DELETE, format!("{POLICY_BINDINGS}/stellar-memory-operator"), None),
    ];
    for (method, path, body) in cases {
        let refused = tried(method.clone(), &path, body).await;
        assert!(refused.starts_with("403") && refused.contains("cannot"), "{method} {path}: {refused}");
    }
    for namespace in ["default", "kube-system", "kube-public"] {
        let path = format!("/api/v1/namespaces/{namespace}/secrets");
        let refused = tried(Method::GET, &path, None).await;
        assert!(refused.starts_with("403"), "{path}: {refused}");
    }
    assert_eq!(tried(Method::GET, &format!("/api/v1/namespaces/{own}/secrets"), None).await, "done", "its work");
    for (header, value) in [
        ("impersonate-user", "system:admin"),
        ("impersonate-user", "system:serviceaccount:kube-system:default"),
        ("impersonate-user", "system:serviceaccount:stellar-system:stellar-memory-operator"),
    ] {
        let request = Request::get("/api/v1/namespaces/kube-system/secrets?dryRun=All")
            .header(header, value)
            .body(Vec::new())
            .unwrap();
        let Err(kube::Error::Api(refused)) = operator.0.request::<Value>(request).await else {
            panic!("{value} was lent")
        };
        assert!(refused.code == 403 && refused.message.contains("cannot impersonate"), "{value}: {}", refused.message);
    }

    // Its ClusterRole lets it write everywhere; the policy lets it write in the namespaces of tenants alone.
    let elsewhere = async || {
        let mut answers = Vec::new();
        for namespace in ["kube-system", "default", SYSTEM] {
            answers.push(bind(namespace, "stellar-memory-tenant-secrets").await);
            answers.push(run(namespace).await);
        }
        let named = |name: &str| json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        answers.push(tried(Method::POST, "/api/v1/namespaces", Some(named("somebodys"))).await);
        let label = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "privileged" } } });
        answers.push(tried(Method::PATCH, "/api/v1/namespaces/default", Some(label)).await);
        answers.push(tried(Method::DELETE, &format!("/api/v1/namespaces/{SYSTEM}"), None).await);
        answers
    };
    for refused in eventually("the policy is in force", || async {
        Some(elsewhere().await).filter(|all| !all.contains(&"done".to_owned()))
    })
    .await
    {
        assert!(refused.starts_with("403") && refused.contains("in the namespaces of tenants alone"), "{refused}");
    }
    // The seeded fault: without the policy all of it is done.
    let path = format!("{POLICY_BINDINGS}/stellar-memory-operator");
    let policy = api.get(&path).await.unwrap();
    api.delete(&path).await;
    let open = async || elsewhere().await.iter().all(|answer| answer == "done").then_some(());
    eventually("without the policy nothing else refuses these", open).await;
    api.create(
        POLICY_BINDINGS,
        &json!({ "apiVersion": policy["apiVersion"], "kind": policy["kind"], "spec": policy["spec"],
        "metadata": { "name": policy["metadata"]["name"], "labels": policy["metadata"]["labels"] } }),
    )
    .await
    .unwrap();
    let closed = async || elsewhere().await.iter().all(|answer| answer != "done").then_some(());
    eventually("the policy is back", closed).await;
}
