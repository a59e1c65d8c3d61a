//! The API against its own description: no server error, no answer that is not described, whatever is sent.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_compression::tokio::bufread::{BrotliEncoder, GzipEncoder};
use harness::{Answer, Client, DataPlane, TenantSpec, Workdir};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, process::Command, time::timeout};

use crate::{openapi, shared, tenant};

/// Of a whole run; what has to be installed first is a part of it.
const LONGEST: Duration = Duration::from_mins(10);

/// What schemathesis found.
struct Report {
    passed: bool,
    text: String,
}

impl Report {
    fn expect(&self, cases: usize) {
        assert!(self.passed, "{}", self.text);
        let words: Vec<&str> = self.text.split_whitespace().collect();
        let counts =
            words.windows(2).filter(|pair| pair[1] == "generated,").filter_map(|pair| pair[0].parse::<usize>().ok());
        let tried: usize = counts.sum();
        assert!(tried >= cases, "only {tried} cases: {}", self.text);
    }
}

async fn schemathesis(plane: &DataPlane, key: &str, description: Option<&Path>, options: &[&str]) -> Report {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schemathesis/run");
    let mut command = Command::new(script);
    command.args(options).env("GATEWAY_URL", plane.url()).env("API_KEY", key);
    if let Some(path) = description {
        command.env("DESCRIPTION", path);
    }
    let run = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(LONGEST, run).await.expect("schemathesis ends in time").unwrap();
    let text = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    Report { passed: output.status.success(), text }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_key_every_answer_is_one_that_is_described() {
    let spec = TenantSpec { max_agents: -1, max_api_keys: -1, max_memories: -1, ..TenantSpec::default() };
    // Servers of its own: elsewhere strangers use up what this address may ask without a key.
    let plane = DataPlane::start().await.unwrap();
    let tenant = plane.tenant("contract", spec).await.unwrap();
    schemathesis(&plane, &tenant.key, None, &["--max-examples=15"]).await.expect(1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_every_answer_is_one_that_is_described() {
    let nobodys = format!("sk-stellar-{}", "0".repeat(32));
    let options = ["--max-examples=5", "--phases=examples,coverage,fuzzing"];
    schemathesis(shared().await, &nobodys, None, &options).await.expect(300);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_described_is_noticed() {
    let tenant = tenant("undescribed").await;
    let mut document = openapi::described();
    let responses = &mut document["paths"]["/api/v1/forget/{id}"]["delete"]["responses"];
    responses.as_object_mut().unwrap().remove("404").expect("an unknown id is not found");
    let workdir = Workdir::new().unwrap();
    let path = workdir.path().join("openapi.json");
    fs::write(&path, document.to_string()).unwrap();
    let options = ["--max-examples=3", "--phases=fuzzing", "--include-path=/api/v1/forget/{id}"];
    let report = schemathesis(shared().await, &tenant.key, Some(&path), &options).await;
    assert!(!report.passed && report.text.contains("Undocumented status code"), "{}", report.text);
}

/// A body that is not what an operation takes.
struct Rubbish {
    what: &'static str,
    coding: Option<&'static str>,
    body: Vec<u8>,
}

impl Rubbish {
    fn plain(what: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { what, coding: None, body: body.into() }
    }

    fn coded(what: &'static str, coding: &'static str, body: Vec<u8>) -> Self {
        Self { what, coding: Some(coding), body }
    }
}

async fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    GzipEncoder::new(plain).read_to_end(&mut packed).await.unwrap();
    packed
}

async fn rubbish() -> Vec<Rubbish> {
    let zeros = vec![b' '; 64 << 20];
    let bomb = gzip(&zeros).await;
    let mut brotli = Vec::new();
    BrotliEncoder::new(&zeros[..]).read_to_end(&mut brotli).await.unwrap();
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(50_000), close.repeat(50_000));
    let member = |name: &str, value: &str| format!("{{\"{name}\":{value}}}");
    let twice = gzip(&bomb).await;
    let good = gzip(br#"{"content":"cut off","topic":"cut off"}"#).await;
    vec![
        Rubbish::coded("a bomb of gzip", "gzip", bomb),
        Rubbish::coded("a bomb of brotli", "br", brotli),
        Rubbish::coded("a bomb within a bomb", "gzip, gzip", twice),
        Rubbish::coded("gzip that is cut off", "gzip", good[..good.len() / 2].to_vec()),
        Rubbish::coded("gzip that is none", "gzip", b"{}".to_vec()),
        Rubbish::coded("an unknown coding", "zstd", b"{}".to_vec()),
        Rubbish::plain("arrays too deep", deep("[", "]")),
        Rubbish::plain("objects too deep", deep("{\"metadata\":", "}")),
        Rubbish::plain("nothing", ""),
        Rubbish::plain("no JSON", "\u{0}\u{1}\u{2}"),
        Rubbish::plain("no UTF-8", b"{\"content\":\"\xff\xfe\"}".to_vec()),
        Rubbish::plain("half a surrogate", member("content", "\"\\ud800\"")),
        Rubbish::plain("null", "null"),
        Rubbish::plain("an array", "[1, 2, 3]"),
        Rubbish::plain("a text", "\"content\""),
        Rubbish::plain("an unknown member", member("tenant", "\"another\"")),
        Rubbish::plain(
            "members of every wrong type",
            r#"{"content":{},"topic":[],"agent":1,"operations":"x","limit":"y"}"#,
        ),
        Rubbish::plain("a huge number", member("importance", "1e400")),
        Rubbish::plain("a huge integer", member("limit", &"9".repeat(400))),
        Rubbish::plain("a huge lifetime", r#"{"agent":"a","expires_in_days":9223372036854775807}"#),
        Rubbish::plain("a huge overlap", member("overlap_seconds", "18446744073709551616")),
        Rubbish::plain("an impossible time", r#"{"content":"x","occurred_at":"9999999-99-99T99:99:99Z"}"#),
        Rubbish::plain(
            "a list that is too long",
            json!({ "operations": vec![json!({ "op": "noop" }); 1001] }).to_string(),
        ),
    ]
}

/// Sends it as each of the media types that the operation takes.
async fn send(client: &Client, method: &str, path: &str, operation: &Value, rubbish: &Rubbish) -> Vec<Answer> {
    let path = path.trim_start_matches("/api/v1").replace("{id}", "0198a3c4-7b1e-7c11-8f00-2d6c2f1e9a01");
    let mut answers = Vec::new();
    for media_type in operation["requestBody"]["content"].as_object().unwrap().keys() {
        let request = client.request(Method::from_bytes(method.as_bytes()).unwrap(), &path);
        let mut request = request.header("content-type", media_type).body(rubbish.body.clone());
        if let Some(coding) = rubbish.coding {
            request = request.header("content-encoding", coding);
        }
        let answer =
            request.send().await.unwrap_or_else(|error| panic!("{method} {path}, {}: {error:?}", rubbish.what));
        answers.push(Answer::read(answer).await.unwrap());
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_of_every_kind_is_answered_as_described_and_changes_nothing() {
    let client = shared().await.client(&tenant("rubbish").await);
    assert_eq!(client.store("the one true memory").await.unwrap().status, 201);
    let stranger = Client::new(&shared().await.url(), "sk-stellar-nobody");
    let document = openapi::described();
    let all = rubbish().await;
    let mut tried = 0;
    for (method, path, operation) in openapi::operations(&document) {
        if operation.get("requestBody").is_none() {
            continue;
        }
        for (rubbish, who) in all.iter().flat_map(|rubbish| [(rubbish, &client), (rubbish, &stranger)]) {
            for answer in send(who, &method, &path, operation, rubbish).await {
                let what = format!("{method} {path}, {}: {}", rubbish.what, answer.text);
                assert!(operation["responses"].get(answer.status.to_string()).is_some(), "{}: {what}", answer.status);
                assert!(answer.status < 500, "{}: {what}", answer.status);
                // An import tells of each line; a key is rotated with no word said; the rest is refused.
                let mild = path.ends_with("/import") || path.ends_with("/rotate");
                assert!(mild || answer.problem().is_some(), "{what}");
                assert!(std::ptr::eq(who, &raw const client) || answer.status == 401 || answer.status == 413, "{what}");
                tried += 1;
            }
        }
    }
    assert!(tried > 250, "{tried}");
    let list = client.get("/memories").await.unwrap();
    assert_eq!((list.status, &list.body["total"]), (200, &json!(1)), "nothing lost, nothing added: {}", list.text);
}
