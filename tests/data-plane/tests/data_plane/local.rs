//! `engine --mode local`: the whole memory API for whoever is on this machine, without a key.

use std::{fs, process::Command};

use harness::{Answer, Postgres, Program, Workdir, binary, eventually, is_root};
use reqwest::{Client, Method};
use serde_json::json;

struct Local(Program);

impl Local {
    async fn send(&self, method: Method, path: &str, body: Option<&str>) -> Answer {
        let request = Client::new().request(method, format!("http://127.0.0.1:{}{path}", self.0.port));
        let request = match body {
            Some(content) => request.json(&json!({ "content": content })),
            None => request,
        };
        Answer::read(request.send().await.unwrap()).await.unwrap()
    }

    async fn recalled(&self, query: &str) -> Vec<String> {
        let answer = self.send(Method::GET, &format!("/api/v1/recall?q={query}"), None).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.body.as_array().unwrap().iter().map(|m| m["content"].as_str().unwrap().to_owned()).collect()
    }

    /// Ends it as a user does, and waits until it has.
    async fn end(mut self) {
        self.0.terminate().unwrap();
        let ended = eventually("the engine ends", || {
            let ended = self.0.exited();
            async move { ended }
        })
        .await;
        assert!(ended.success(), "{ended}\n{}", self.0.log());
    }
}

fn args(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_postgres_of_its_own_it_keeps_what_it_was_told() {
    let workdir = Workdir::new().unwrap();
    // Its programs are at hand: the engine would fetch the same ones.
    let programs = Postgres::start(&workdir).await.unwrap();
    let own = args(&["--mode", "local", "--postgres-bin", programs.binaries().to_str().unwrap()]);
    let engine = Local(Program::start_unprivileged(&workdir, "engine", &own).await.unwrap());
    assert_eq!(engine.send(Method::GET, "/health", None).await.body["status"], "ok");
    let stored = engine.send(Method::POST, "/api/v1/store", Some("the spare key is under the fern")).await;
    assert_eq!(stored.status, 201, "{}", stored.text);
    assert_eq!(engine.recalled("key+fern").await, ["the spare key is under the fern"]);
    let stranger = Client::new().get(format!("http://127.0.0.1:{}/api/v1/stats", engine.0.port));
    let stranger = stranger.header("host", "rebound.example.com").send().await.unwrap();
    assert!(stranger.status().is_client_error(), "a page elsewhere reaches the engine: {}", stranger.status());
    for (origin, admitted) in [("https://example.com", false), ("null", false), ("http://localhost:3000", true)] {
        let page =
            Client::new().get(format!("http://127.0.0.1:{}/api/v1/stats", engine.0.port)).header("origin", origin);
        assert_eq!(page.send().await.unwrap().status().is_success(), admitted, "a page of {origin}");
    }
    for (site, admitted) in [("cross-site", false), ("same-origin", true), ("none", true)] {
        let image = Client::new().get(format!("http://127.0.0.1:{}/api/v1/stats", engine.0.port));
        let image = image.header("sec-fetch-site", site).send().await.unwrap();
        assert_eq!(image.status().is_success(), admitted, "an image of a page: {site}");
    }
    engine.end().await;
    let folder = workdir.path().join("home/.local/share/stellar-memory");
    assert!(!folder.join("data-18/postmaster.pid").exists(), "its Postgres ends with it");

    let engine = Local(Program::start_unprivileged(&workdir, "engine", &own).await.unwrap());
    assert_eq!(engine.recalled("key+fern").await, ["the spare key is under the fern"]);
    let id = stored.body["id"].as_str().unwrap();
    assert_eq!(engine.send(Method::DELETE, &format!("/api/v1/forget/{id}"), None).await.status, 200);
    assert!(engine.recalled("key+fern").await.is_empty());
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_given_postgres_it_serves_as_a_tenant_like_any_other() {
    let workdir = Workdir::new().unwrap();
    let postgres = Postgres::start(&workdir).await.unwrap();
    let url = workdir.path().join("admin-url");
    fs::write(&url, postgres.admin_url()).unwrap();
    let own = args(&["--mode", "local", "--database-url-file", url.to_str().unwrap()]);
    let engine = Local(Program::start(&workdir, "engine", &own).await.unwrap());
    assert_eq!(engine.send(Method::POST, "/api/v1/store", Some("the ferry leaves at nine")).await.status, 201);
    assert_eq!(engine.recalled("ferry").await, ["the ferry leaves at nine"]);
    // A page elsewhere needs no name of its own: browsers let it open a socket to 127.0.0.1 and tell where it is from.
    for (origin, status) in [("https://evil.example", 403), ("null", 403), ("http://localhost:3000", 101)] {
        let socket = Client::new().get(format!("http://127.0.0.1:{}/api/v1/sync", engine.0.port));
        let socket = socket.header("connection", "upgrade").header("upgrade", "websocket").header("origin", origin);
        let socket =
            socket.header("sec-websocket-version", "13").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(socket.send().await.unwrap().status().as_u16(), status, "{origin}");
    }
    let logins: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT usename::text FROM pg_catalog.pg_stat_activity WHERE application_name = 'stellar-engine'",
    )
    .fetch_all(&mut postgres.superuser("stellar").await.unwrap())
    .await
    .unwrap();
    assert!(logins.iter().all(|login| login.starts_with("t_")), "it serves as the tenant's role: {logins:?}");
    assert!(!logins.is_empty());
    engine.end().await;
}

#[test]
fn what_cannot_work_is_refused_with_the_cure() {
    let said = |args: &[&str]| {
        let output = Command::new(binary("engine").unwrap()).args(args).env_remove("DATABASE_URL").output().unwrap();
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let local = ["--mode", "local", "--health-listen", "127.0.0.1:0"];
    let exposed = said(&[&local[..], &["--listen", "0.0.0.0:0"]].concat());
    assert!(exposed.contains("--allow-remote"), "{exposed}");
    if is_root() {
        let root = said(&[&local[..], &["--listen", "127.0.0.1:0"]].concat());
        assert!(root.contains("start the engine as another user"), "{root}");
    }
}
