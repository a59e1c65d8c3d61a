//! The Python and the TypeScript client against real servers, which fail as the client's own test asks.
//!
//! `clients/test` installs what the clients need and runs their `integration` programs; here are the servers and the faults.

use std::{path::PathBuf, process::Stdio, time::Duration};

use harness::{DataPlane, TenantSpec};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
    time::timeout,
};

/// Of a whole run; what has to be installed first is most of it.
const LONGEST: Duration = Duration::from_mins(8);

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_loses_nothing_and_sends_nothing_twice() {
    run("python").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_client_loses_nothing_and_sends_nothing_twice() {
    run("typescript").await;
}

/// Runs a client's test and does what it asks for: one line each, answered when it is done.
async fn run(language: &str) {
    let mut plane = DataPlane::start().await.unwrap();
    let spec = TenantSpec { tier: "pro", max_agents: 2, ..TenantSpec::default() };
    let tenant = plane.tenant("client", spec).await.unwrap();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../clients/test");
    let mut child = Command::new(script)
        .args(["integration", language])
        .env("GATEWAY_URL", plane.url())
        .env("API_KEY", &tenant.key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut answers = child.stdin.take().unwrap();
    let mut asked = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut last = String::new();
    let conversation = async {
        while let Some(line) = asked.next_line().await.unwrap() {
            if let Some(what) = line.strip_prefix("! ") {
                bring_about(&mut plane, what).await;
                answers.write_all(b"done\n").await.unwrap();
            }
            last = line;
        }
        child.wait().await.unwrap()
    };
    let status = timeout(LONGEST, conversation).await.expect("the client's test ends in time");
    assert!(status.success() && last == "passed", "the {language} client's test ended with {status}; see above");
}

async fn bring_about(plane: &mut DataPlane, what: &str) {
    match what {
        "kill engine" => plane.engine.kill().unwrap(),
        "kill gateway" => plane.gateway.kill().unwrap(),
        "start engine" => {
            plane.engine.restart().unwrap();
            plane.engine.ready().await;
        }
        "start gateway" => {
            plane.gateway.restart().unwrap();
            plane.gateway.ready().await;
        }
        _ => panic!("a client's test asks for something unknown: {what}"),
    }
}
