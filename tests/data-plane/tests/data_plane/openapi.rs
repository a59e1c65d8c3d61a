//! The API's description: written from the code, complete, and true of the running programs.

use std::collections::BTreeSet;

use gateway::router::ROUTES;
use harness::{Answer, Client};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{documents, shared, tenant};

pub fn described() -> Value {
    gateway::openapi::description(engine::http::description())
}

/// Method, path and operation of everything that is described.
pub fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let of = |(path, item): (&String, &'_ Value)| (path.clone(), item.as_object().unwrap().clone());
    let names: Vec<(String, String)> = paths
        .iter()
        .map(of)
        .flat_map(|(path, item)| {
            item.keys().map(move |method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
        })
        .collect();
    names
        .into_iter()
        .map(|(method, path)| {
            let operation = &document["paths"][&path][method.to_lowercase()];
            (method, path, operation)
        })
        .collect()
}

/// `docs/openapi.json`, which the gateway serves. `UPDATE_GENERATED=1` writes it.
#[test]
fn the_committed_description_is_that_of_the_code() {
    let text = format!("{}\n", serde_json::to_string_pretty(&described()).unwrap());
    documents::is_committed("openapi.json", &text, "openapi");
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let document = described();
    let described: BTreeSet<_> = operations(&document).into_iter().map(|(method, path, _)| (method, path)).collect();
    let routes: BTreeSet<_> =
        ROUTES.iter().map(|route| (route.method.to_string(), route.template.to_owned())).collect();
    assert_eq!(described, routes);
}

#[test]
fn every_operation_is_described_in_full() {
    let document = described();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let what = format!("{method} {path}");
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{what}");
        assert!(operation["summary"].as_str().is_some_and(|text| text.len() > 8), "{what}");
        assert!(operation.get("x-problems").is_none(), "{what}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["description"].is_string(), "{what}: {parameter}");
            if parameter["in"] == "path" {
                assert!(path.contains(&format!("{{{}}}", parameter["name"].as_str().unwrap())), "{what}");
            }
        }
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with(['1', '2'])), "{what}");
        let open = operation["security"] == json!([{}]);
        for status in ["401", "429", "500", "503"] {
            assert_eq!(responses.contains_key(status), !open, "{what}: {status}");
        }
        // Also of a socket, which has no key yet: it may be a page of a foreign origin.
        assert!(open || responses.contains_key("403"), "{what}: 403");
        if operation.get("requestBody").is_some() {
            assert!(["408", "413", "415"].iter().all(|status| responses.contains_key(*status)), "{what}");
        }
        for (status, response) in responses.iter().filter(|(status, _)| status.starts_with(['4', '5'])) {
            let problem = resolved(&document, response);
            let content = &problem["content"]["application/problem+json"];
            assert!(content["schema"]["allOf"][0]["$ref"] == "#/components/schemas/Problem", "{what}: {status}");
            for example in content["examples"].as_object().unwrap().values() {
                assert_eq!(example["value"]["status"].to_string(), *status, "{what}");
            }
        }
    }
    assert!(ids.len() > 18, "{ids:?}");
}

#[test]
fn every_reference_leads_somewhere() {
    let document = described();
    let mut seen = 0;
    let mut left = vec![&document];
    while let Some(value) = left.pop() {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(_)) = members.get("$ref") {
                    assert!(resolved(&document, value).is_object(), "{value}");
                    seen += 1;
                }
                left.extend(members.values());
            }
            Value::Array(items) => left.extend(items),
            _ => {}
        }
    }
    assert!(seen > 100, "{seen}");
}

fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null),
        None => value,
    }
}

/// A request for an operation: what it requires, with examples of values.
fn request(
    client: &Client,
    method: &str,
    path: &str,
    operation: &Value,
    query: &[(&str, String)],
) -> reqwest::RequestBuilder {
    let path = path.trim_start_matches("/api/v1").replace("{id}", "0198a3c4-7b1e-7c11-8f00-2d6c2f1e9a01");
    let mut pairs: Vec<(&str, String)> = query.to_vec();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let name = parameter["name"].as_str().unwrap();
        if parameter["in"] == "query" && parameter["required"] == true && !pairs.iter().any(|(given, _)| *given == name)
        {
            pairs.push((name, "x".to_owned()));
        }
    }
    client.request(Method::from_bytes(method.as_bytes()).unwrap(), &path).query(&pairs)
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_of_parameters_are_those_that_hold() {
    let client = shared().await.client(&tenant("described").await);
    let document = described();
    let mut tried = 0;
    for (method, path, operation) in operations(&document) {
        for parameter in operation["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] == "query") {
            let (name, schema) = (parameter["name"].as_str().unwrap(), &parameter["schema"]);
            let number = |bound: &str, more: i64| schema[bound].as_i64().map(|bound| (bound, bound + more));
            let length = |bound: &str, more: i64| {
                schema[bound].as_i64().map(|length| ("x".repeat(length as usize), "x".repeat((length + more) as usize)))
            };
            let numbers = [number("minimum", -1), number("maximum", 1)].into_iter().flatten();
            let numbers = numbers.map(|(good, bad)| (good.to_string(), bad.to_string()));
            for (good, bad) in numbers.chain([length("minLength", -1), length("maxLength", 1)].into_iter().flatten()) {
                let what = format!("{method} {path} {name}");
                if operation["operationId"] != "events" {
                    let taken = request(&client, &method, &path, operation, &[(name, good)]).send().await.unwrap();
                    assert_eq!(taken.status(), 200, "{what}");
                }
                let refused = request(&client, &method, &path, operation, &[(name, bad)]).send().await.unwrap();
                let refused = Answer::read(refused).await.unwrap();
                assert_eq!(
                    (refused.status, refused.problem()),
                    (400, Some("invalid-request")),
                    "{what}: {}",
                    refused.text
                );
                assert!(refused.text.contains(name), "{what}: {}", refused.text);
                tried += 1;
            }
        }
    }
    assert!(tried > 15, "{tried}");
}

/// Whether the members of a real answer are those that are described, and all that must be there are.
fn check(document: &Value, schema: &Value, value: &Value, at: &str) {
    let schema = resolved(document, schema);
    if let Some(items) = schema.get("items") {
        let values = value.as_array().unwrap_or_else(|| panic!("{at} is no array: {value}"));
        for one in values {
            check(document, items, one, at);
        }
    }
    let Some(properties) = schema["properties"].as_object() else { return };
    let members = value.as_object().unwrap_or_else(|| panic!("{at} is no object: {value}"));
    for name in schema["required"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap()) {
        assert!(members.contains_key(name), "{at}: {name} is missing in {value}");
    }
    for (name, member) in members {
        let described = properties.get(name).unwrap_or_else(|| panic!("{at}: {name} is not described"));
        check(document, described, member, &format!("{at}.{name}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_members_that_are_described() {
    let client = shared().await.client(&tenant("answers").await);
    let document = described();
    let stored = client.post("/store", &json!({ "content": "described and stored", "session": "s" })).await.unwrap();
    let made = client.post("/auth/api-keys", &json!({ "agent": "default" })).await.unwrap();
    let id = |answer: &Answer| answer.body["id"].as_str().unwrap().to_owned();
    let (memory, key) = (id(&stored), id(&made));
    let rotated = client.post(&format!("/auth/api-keys/{key}/rotate"), &json!({})).await.unwrap();
    let revoke = format!("/auth/api-keys/{}", id(&rotated));
    let patched = client.request(Method::PATCH, &format!("/memories/{memory}")).json(&json!({ "importance": 0.9 }));
    let patched = Answer::read(patched.send().await.unwrap()).await.unwrap();
    let operations = json!([{ "op": "store", "content": "of a batch" }, { "op": "remove", "id": "no id" }]);
    let batch = client.post("/batch", &json!({ "operations": operations })).await.unwrap();
    let exported = client.get("/export").await.unwrap();
    let imported = client.request(Method::POST, "/import").header("content-type", "application/x-ndjson");
    let imported =
        Answer::read(imported.body(format!("{}rubbish\n", exported.text)).send().await.unwrap()).await.unwrap();
    let answers = [
        ("post", "/api/v1/store", stored),
        ("post", "/api/v1/auth/api-keys", made),
        ("post", "/api/v1/auth/api-keys/{id}/rotate", rotated),
        ("get", "/api/v1/memories/{id}", client.get(&format!("/memories/{memory}")).await.unwrap()),
        ("patch", "/api/v1/memories/{id}", patched),
        ("post", "/api/v1/batch", batch),
        ("get", "/api/v1/export", exported),
        ("post", "/api/v1/import", imported),
        ("get", "/api/v1/recall", client.recall("described").await.unwrap()),
        ("get", "/api/v1/memories", client.get("/memories").await.unwrap()),
        ("get", "/api/v1/timeline", client.get("/timeline").await.unwrap()),
        ("post", "/api/v1/narrate", client.post("/narrate", &json!({ "topic": "described" })).await.unwrap()),
        ("get", "/api/v1/stats", client.get("/stats").await.unwrap()),
        ("get", "/api/v1/audit", client.get("/audit").await.unwrap()),
        ("get", "/api/v1/auth/usage", client.get("/auth/usage").await.unwrap()),
        ("get", "/api/v1/auth/agents", client.get("/auth/agents").await.unwrap()),
        ("get", "/api/v1/auth/api-keys", client.get("/auth/api-keys?limit=1").await.unwrap()),
        ("delete", "/api/v1/forget/{id}", client.delete(&format!("/forget/{memory}")).await.unwrap()),
        ("delete", "/api/v1/auth/api-keys/{id}", client.delete(&revoke).await.unwrap()),
        ("delete", "/api/v1/forget/{id}", client.delete(&format!("/forget/{memory}")).await.unwrap()),
        ("get", "/api/v1/recall", client.get("/recall").await.unwrap()),
    ];
    for (method, path, answer) in &answers {
        let response = resolved(&document, &document["paths"][path][method]["responses"][answer.status.to_string()]);
        assert!(response.is_object(), "{method} {path}: {} is not described: {}", answer.status, answer.text);
        let media_type = answer.header("content-type").unwrap().split(';').next().unwrap();
        let content = &response["content"][media_type];
        assert!(content.is_object(), "{method} {path}: {media_type} is not described");
        let schema = content["schema"]["allOf"].get(0).unwrap_or(&content["schema"]);
        check(&document, schema, &answer.body, &format!("{method} {path}"));
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            let sometimes = ["Idempotency-Replayed", "Retry-After"].contains(&name.as_str());
            assert!(sometimes || answer.header(&name.to_lowercase()).is_some(), "{method} {path}: {name} {header}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_serves_the_description() {
    let plane = shared().await;
    let served: Value = reqwest::get(format!("{}/openapi.json", plane.url())).await.unwrap().json().await.unwrap();
    assert!(served == described(), "the gateway was built before docs/openapi.json was written");
    let page = reqwest::get(format!("{}/docs", plane.url())).await.unwrap();
    assert_eq!(page.status(), 200);
}
