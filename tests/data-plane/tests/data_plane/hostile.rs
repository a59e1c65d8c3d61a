//! Rubbish: each piece gets a clear error, nothing is lost, nobody panics.

use harness::Answer;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{shared, tenant};

async fn nobody_panicked() {
    let plane = shared().await;
    for program in [&plane.gateway, &plane.engine] {
        let log = program.log();
        assert!(!log.is_empty() && !log.contains("panicked"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_malformed_body_is_refused_with_a_reason() {
    let client = shared().await.client(&tenant("malformed-body").await);
    client.store("the one true memory").await.unwrap();
    let deep = format!("{{\"content\":\"x\",\"metadata\":{}1{}}}", "{\"a\":".repeat(200), "}".repeat(200));
    let long = json!({ "content": "x".repeat(10_001) }).to_string();
    let huge = json!({ "content": "x".repeat(2_000_000) }).to_string();
    let bodies: &[(&str, u16, &str)] = &[
        ("", 400, "invalid-request"),
        ("{", 400, "invalid-request"),
        ("[]", 400, "invalid-request"),
        ("null", 400, "invalid-request"),
        ("\"content\"", 400, "invalid-request"),
        ("{}", 400, "invalid-request"),
        ("{\"content\":\"\"}", 400, "invalid-request"),
        ("{\"content\":7}", 400, "invalid-request"),
        ("{\"content\":null}", 400, "invalid-request"),
        ("{\"content\":\"a\\u0000b\"}", 400, "invalid-request"),
        ("{\"content\":\"\\ud800\"}", 400, "invalid-request"),
        ("{\"content\":\"x\",\"importance\":2}", 400, "invalid-request"),
        ("{\"content\":\"x\",\"importance\":-0.1}", 400, "invalid-request"),
        ("{\"content\":\"x\",\"importance\":\"high\"}", 400, "invalid-request"),
        ("{\"content\":\"x\",\"importance\":1e999}", 400, "invalid-request"),
        ("{\"content\":\"x\",\"metadata\":[]}", 400, "invalid-request"),
        ("{\"content\":\"x\",\"metadata\":\"x\"}", 400, "invalid-request"),
        ("{\"content\":\"x\",\"metadata\":{\"a\":\"\\u0000\"}}", 400, "invalid-request"),
        ("{\"content\":\"x\",\"occurred_at\":\"yesterday\"}", 400, "invalid-request"),
        ("{\"content\":\"x\",\"occurred_at\":\"2026-13-01T00:00:00Z\"}", 400, "invalid-request"),
        ("{\"content\":\"x\",\"occurred_at\":\"+999999-01-01T00:00:00Z\"}", 400, "invalid-request"),
        ("{\"content\":\"x\",\"tenant\":\"other\"}", 400, "invalid-request"),
        ("{\"content\":\"x\",\"content\":\"y\"}", 400, "invalid-request"),
        (&deep, 400, "invalid-request"),
        (&long, 400, "invalid-request"),
        (&huge, 413, "payload-too-large"),
    ];
    for (body, status, problem) in bodies {
        let request = client.request(Method::POST, "/store").header("content-type", "application/json");
        let answer = Answer::read(request.body((*body).to_owned()).send().await.unwrap()).await.unwrap();
        let shown: String = body.chars().take(60).collect();
        assert_eq!((answer.status, answer.problem()), (*status, Some(*problem)), "{shown}: {}", answer.text);
        assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{shown}: {}", answer.text);
    }
    for (path, body, blamed) in [
        ("/store", r#"{"content":"x","user_id":"a"}"#, "not valid: unknown field `user_id`"),
        ("/store", "{\"content\":\"x\",\n\"importance\" : \"high\"}", "`importance`: invalid type"),
        ("/store", r#"{"content":"\ud800"}"#, "`content`: "),
        ("/store", r#"{"content":"x","metadata":[]}"#, "`metadata` must be a JSON object"),
        ("/narrate", r#"{"topic":"x","tenant":"y"}"#, "not valid: unknown field `tenant`"),
        ("/narrate", r#"{"topic":["x"]}"#, "`topic`: invalid type"),
        ("/batch", r#"{"operations":[],"atomic":true}"#, "not valid: unknown field `atomic`"),
        ("/batch", r#"{"operations":{}}"#, "`operations`: invalid type"),
    ] {
        let request = client.request(Method::POST, path).header("content-type", "application/json").body(body);
        let answer = Answer::read(request.send().await.unwrap()).await.unwrap();
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text);
        assert!(answer.body["detail"].as_str().unwrap().contains(blamed), "{path} {body}: {}", answer.text);
    }
    let form = client
        .request(Method::POST, "/store")
        .header("content-type", "application/x-www-form-urlencoded")
        .body("content=x");
    let answer = Answer::read(form.send().await.unwrap()).await.unwrap();
    assert_eq!((answer.status, answer.problem()), (415, Some("unsupported-media-type")), "{}", answer.text);
    let list = client.get("/memories").await.unwrap();
    assert_eq!((list.status, &list.body["total"]), (200, &json!(1)), "nothing lost, nothing added: {}", list.text);
    nobody_panicked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_malformed_query_and_path_is_refused_with_a_reason() {
    let client = shared().await.client(&tenant("malformed-query").await);
    let long = format!("/recall?q={}", "x".repeat(5000));
    for (method, path, status) in [
        (Method::GET, "/recall", 400),
        (Method::GET, "/recall?q=", 400),
        (Method::GET, long.as_str(), 400),
        (Method::GET, "/recall?q=x&limit=0", 400),
        (Method::GET, "/recall?q=x&limit=51", 400),
        (Method::GET, "/recall?q=x&limit=-1", 400),
        (Method::GET, "/recall?q=x&limit=many", 400),
        (Method::GET, "/recall?q=%00", 400),
        (Method::GET, "/recall?q=%ff%fe", 400),
        (Method::GET, "/recall?q=x&q=y", 400),
        (Method::GET, "/recall?query=x", 400),
        (Method::GET, "/memories?zone=5", 400),
        (Method::GET, "/memories?limit=99999999999999999999", 400),
        (Method::GET, "/memories?cursor=rubbish", 400),
        (Method::GET, "/memories?offset=-5", 400),
        (Method::GET, "/timeline?start=tomorrow", 400),
        (Method::GET, "/timeline?start=2026-02-01T00:00:00Z&end=2026-01-01T00:00:00Z", 400),
        (Method::GET, "/timeline?cursor=AAAA", 400),
        (Method::DELETE, "/forget/rubbish", 404),
        (Method::DELETE, "/forget/00000000-0000-0000-0000-000000000000", 404),
        (Method::DELETE, "/forget/..%2f..%2fstats", 404),
        (Method::GET, "/memories/rubbish", 404),
        (Method::GET, "/memories/..%2fstats", 404),
        (Method::GET, "/batch", 405),
        (Method::GET, "/nothing-here", 404),
        (Method::GET, "/store", 405),
        (Method::DELETE, "/recall", 405),
        (Method::PATCH, "/memories", 405),
        (Method::DELETE, "/auth/api-keys/rubbish", 404),
    ] {
        let answer = Answer::read(client.request(method.clone(), path).send().await.unwrap()).await.unwrap();
        let shown: String = path.chars().take(60).collect();
        assert_eq!(answer.status, status, "{method} {shown}: {}", answer.text);
        assert!(answer.problem().is_some(), "{method} {shown}: {}", answer.text);
        assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{shown}: {}", answer.text);
        assert!(answer.header("x-request-id").is_some(), "{shown}");
    }
    assert_eq!(client.get("/stats").await.unwrap().status, 200);
    nobody_panicked().await;
}

/// Sends bytes as they are and returns what came back before the server closed or fell silent.
async fn raw(bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", shared().await.gateway.port)).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(std::time::Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    assert!(reading.is_ok(), "the connection is neither answered nor closed: {:?}", String::from_utf8_lossy(bytes));
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_http_is_refused_or_cut_off() {
    let long_header = format!("GET /health HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    let many_headers = format!("GET /health HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(500));
    for bytes in [
        "rubbish\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET /api/v1/stats HTTP/1.1\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n",
        "POST /api/v1/store HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "POST /api/v1/store HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        "POST /api/v1/store HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        "GET /health HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n",
        long_header.as_str(),
        many_headers.as_str(),
    ] {
        let answer = raw(bytes.as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap_or("closed");
        assert!(
            status == "closed" || status.starts_with('4'),
            "{:?}: {answer}",
            bytes.chars().take(60).collect::<String>()
        );
    }
    let healthy = reqwest::get(format!("{}/health", shared().await.url())).await.unwrap();
    assert_eq!(healthy.status(), 200);
    nobody_panicked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_requests_do_not_keep_others_out() {
    let port = shared().await.gateway.port;
    let mut halves = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(b"POST /api/v1/store HTTP/1.1\r\nhost: a\r\nx-half").await.unwrap();
        halves.push(stream);
    }
    let client = shared().await.client(&tenant("beside-halves").await);
    harness::eventually("a whole request is answered", || async {
        (client.store("whole").await.is_ok_and(|answer| answer.status == 201)).then_some(())
    })
    .await;
    // And the halves are cut off, without anybody asking.
    let mut last = halves.pop().unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(std::time::Duration::from_mins(1), last.read_to_end(&mut rest)).await.expect("cut off").ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_an_answer_speaks_of_postgres_or_of_our_code() {
    let client = shared().await.client(&tenant("speaks").await);
    let odd: Vec<Value> = vec![
        json!({ "content": "'; DROP TABLE stellar.memories; --" }),
        json!({ "content": "x", "metadata": { "$where": "1=1" } }),
        json!({ "content": "x", "speaker": "y".repeat(100_000) }),
    ];
    for body in odd {
        let answer = client.post("/store", &body).await.unwrap();
        for word in ["postgres", "sqlx", "SQLSTATE", "panicked", "src/", ".rs"] {
            assert!(!answer.text.contains(word), "{}", answer.text);
        }
    }
    assert_eq!(client.recall("drop table").await.unwrap().body[0]["content"], "'; DROP TABLE stellar.memories; --");
}
