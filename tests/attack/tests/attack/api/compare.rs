//! Two answers, and whether a client could tell them apart by anything but what it asked for.

use std::{collections::BTreeMap, time::Duration};

use harness::Answer;
use reqwest::Response;

/// These change from answer to answer whatever was asked. The length, and the tag that is a hash, are looked at with the
/// body.
const UNSTABLE: [&str; 7] =
    ["date", "x-request-id", "content-length", "etag", "ratelimit", "x-ratelimit-remaining", "x-ratelimit-reset"];
/// A score falls as time passes, and the use of a key is noted late.
const MOVING: [&str; 2] = ["score", "last_used_at"];
/// Drawn anew for whatever is made.
const DRAWN: [&str; 3] = ["id", "api_key", "prefix"];

/// Reads an answer; of a stream the events up to the one with this number, or to the notice that events are missing.
pub async fn read(mut response: Response, last_event: i64) -> Answer {
    let kind = response.headers().get("content-type");
    if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
        return Answer::read(response).await.unwrap();
    }
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let (mut text, last) = (String::new(), format!("id: {last_event}\n"));
    let end = loop {
        let ending = text.find(&last).or_else(|| text.find("event: resync"));
        if let Some(end) = ending.and_then(|at| Some(at + text[at..].find("\n\n")?)) {
            break end;
        }
        // A log with a gap, as a weakened system has, is passed on to nobody.
        let Ok(part) = tokio::time::timeout(Duration::from_secs(10), response.chunk()).await else {
            text.push_str("nothing came");
            break text.len();
        };
        let part = part.unwrap();
        text.push_str(&String::from_utf8_lossy(&part.expect("the stream goes on")));
    };
    text.truncate(end);
    Answer { status, headers, body: serde_json::Value::Null, text }
}

/// What differs, or nothing. `said` are the texts that the requests themselves held.
pub fn difference(one: (&Answer, &[String]), other: (&Answer, &[String])) -> Option<String> {
    let ((one, said_one), (other, said_other)) = (one, other);
    if one.status != other.status {
        return Some(format!("{} {} and {} {}", one.status, one.text, other.status, other.text));
    }
    let (a, b) = (still(one, said_one), still(other, said_other));
    if a != b {
        return Some(format!("body {a} and {b}"));
    }
    let (a, b) = (headers(one, said_one), headers(other, said_other));
    (a != b).then(|| format!("headers {a:?} and {b:?}"))
}

fn headers(answer: &Answer, said: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in &answer.headers {
        let value = match name.as_str() {
            name if UNSTABLE.contains(&name) => String::new(),
            _ => masked(&String::from_utf8_lossy(value.as_bytes()), said),
        };
        all.entry(name.to_string()).or_default().push(value);
    }
    all
}

/// The body without what the request said and what moves.
fn still(answer: &Answer, said: &[String]) -> String {
    let mut text = masked(&answer.text, said);
    let drawn: &[&str] = if answer.status == 201 { &DRAWN } else { &[] };
    for name in MOVING.iter().chain(drawn) {
        text = without_values(&text, &format!("\"{name}\":"));
    }
    text
}

fn masked(text: &str, said: &[String]) -> String {
    said.iter().fold(text.to_owned(), |text, word| text.replace(word.as_str(), "…"))
}

/// The text with what follows each `name`, up to the next comma or brace, left out.
fn without_values(text: &str, name: &str) -> String {
    let mut parts = text.split(name);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push_str(name);
        kept.push_str(&part[part.find([',', '}']).unwrap_or(part.len())..]);
    }
    kept
}

#[test]
fn only_what_moves_and_what_was_said_is_passed_over() {
    let answer = |text: &str| Answer {
        status: 200,
        headers: reqwest::header::HeaderMap::new(),
        body: serde_json::Value::Null,
        text: text.to_owned(),
    };
    let same = |a: &str, b: &str| {
        difference((&answer(a), &["alpha".to_owned()]), (&answer(b), &["beta".to_owned()])).is_none()
    };
    assert!(same(r#"{"score":0.42,"q":"alpha"}"#, r#"{"score":0.4199,"q":"beta"}"#));
    assert!(!same(r#"{"score":0.42,"zone":1}"#, r#"{"score":0.42,"zone":2}"#));
    assert!(!same(r#"{"id":"1"}"#, r#"{"id":"2"}"#));
    assert!(!same("{}", "{ }"), "byte for byte");
}
