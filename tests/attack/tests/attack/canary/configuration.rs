//! Programs that are started wrongly: what they say about it repeats nothing of what is wrong.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

use futures::{StreamExt as _, stream};
use harness::{DataPlane, Workdir, binary, eventually, free_port};
use serde_json::json;

use super::{
    collector::Taker,
    search_for,
    stage::{canary, password_in},
};

/// A start of a program that goes wrong, or nearly.
struct Start {
    program: &'static str,
    args: Vec<String>,
    environment: Vec<(&'static str, String)>,
    /// What its log says when all is said; or else it ends.
    until: &'static str,
    secret: String,
}

impl Start {
    /// All that it says: log, health, metrics.
    async fn outcome(&self, workdir: &Workdir) -> String {
        let health = free_port().unwrap();
        let log = workdir.path().join(format!("{}-{health}.log", self.program));
        let file = File::create(&log).unwrap();
        let mut command = Command::new(binary(self.program).unwrap());
        command.args(&self.args).envs(self.environment.iter().map(|(name, value)| (name, value)));
        if self.args[0] != "migrate" {
            command.args(["--health-listen", &format!("127.0.0.1:{health}")]);
        }
        if self.program != "operator" {
            command.args(["--listen", &format!("127.0.0.1:{}", free_port().unwrap())]);
        }
        command.envs([("RUST_LOG", "trace"), ("RUST_BACKTRACE", "full")]);
        let mut child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        workdir.adopt(&child, "TERM").unwrap();
        let read = || fs::read_to_string(&log).unwrap();
        eventually(&format!("{} {:?} has said what it has to say", self.program, self.args), || {
            let ended = child.try_wait().unwrap().is_some();
            let said = ended || read().contains(self.until);
            async move { said.then_some(()) }
        })
        .await;
        let mut all = read();
        for page in ["readyz", "metrics"] {
            if let Ok(answer) = reqwest::get(format!("http://127.0.0.1:{health}/{page}")).await {
                all += &answer.text().await.unwrap();
            }
        }
        all += &read();
        // Fails only when it has ended already.
        let _ = child.kill();
        child.wait().unwrap();
        all
    }
}

const WAITS: &str = "waiting for the database URL";
/// No program says this.
const NEVER: &str = "its own end";
/// As far as a program comes that can only find out later.
const SERVES: [&str; 2] = ["the gateway serves", "the engine serves"];

/// URLs that are none, or nearly, around a secret; and what gateway and engine say at last where they do not end.
const ODD: [(&str, [&str; 2]); 8] = [
    ("{secret}", [NEVER, WAITS]),
    ("postgres//stellar:{secret}@127.0.0.1/stellar", [NEVER, WAITS]),
    ("postgres://stellar:{secret}@127.0.0.1:port/stellar", [NEVER, WAITS]),
    ("postgres://stellar:{secret}@[::1/stellar", [NEVER, WAITS]),
    ("postgres://stellar:{secret}@127.0.0.1:99999/stellar", [NEVER, WAITS]),
    ("postgres://stellar:p@127.0.0.1:1/stellar?sslmode={secret}", [NEVER, WAITS]),
    ("mysql://stellar:{secret}@127.0.0.1:1/stellar", [SERVES[0], WAITS]),
    ("postgres://stellar:{secret}%ff@127.0.0.1:1/stellar", [NEVER, WAITS]),
];

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// Whatever cluster this machine knows is left alone.
fn no_cluster() -> Vec<(&'static str, String)> {
    vec![("KUBECONFIG", "/nowhere".to_owned())]
}

/// Every program with a URL in a file, and with the same in its environment.
fn starts(folder: &Path, url: &str, secret: &str, until: [&'static str; 2]) -> Vec<Start> {
    let file = folder.join(canary("file").replace("canary", "url"));
    fs::write(&file, url).unwrap();
    let file = file.display().to_string();
    let key = folder.join("secrets/master-key").display().to_string();
    let gateway = ["--master-key-file", &key, "--pooled-engine", "127.0.0.1:1"];
    let operator = ["run", "--master-key-file", &key, "--engine-image", "none"];
    let migrate = ["migrate", "--no-kubernetes", "--wait-seconds", "1", "--secrets-dir"];
    let made = folder.join(canary("made")).display().to_string();
    let start = |program, args: &[&str], variable: Option<&'static str>, until| {
        let mut args = strings(args);
        if args[0] == "migrate" {
            args.push(made.clone());
        }
        let flag = if args[0] == "migrate" { "--admin-url-file" } else { "--database-url-file" };
        let mut environment = no_cluster();
        match variable {
            Some(variable) => environment.push((variable, url.to_owned())),
            None => args.extend([flag.to_owned(), file.clone()]),
        }
        Start { program, args, environment, until, secret: secret.to_owned() }
    };
    vec![
        start("gateway", &gateway, None, until[0]),
        start("gateway", &gateway, Some("DATABASE_URL"), until[0]),
        start("engine", &["--mode", "pooled"], None, until[1]),
        start("engine", &["--mode", "pooled"], Some("DATABASE_URL"), until[1]),
        start("operator", &operator, None, "find the cluster"),
        start("operator", &operator, Some("DATABASE_URL"), "find the cluster"),
        start("operator", &migrate, None, NEVER),
        start("operator", &migrate, Some("ADMIN_URL"), NEVER),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_is_told_without_the_secret_in_it() {
    let plane = DataPlane::start().await.unwrap();
    let (workdir, folder) = (&plane.workdir, plane.workdir.path());
    let port = plane.postgres.port;
    let mut all = Vec::new();
    for (form, until) in ODD {
        let secret = canary("password");
        all.extend(starts(folder, &form.replace("{secret}", &secret), &secret, until));
    }
    // Read well, and refused by Postgres.
    let secret = canary("password");
    let url = format!("postgres://stellar_gateway:{secret}@127.0.0.1:{port}/stellar");
    all.extend(starts(folder, &url, &secret, ["authentication failed", "the engine serves"]));
    // A parameter that the driver does not know, beside a login that is right.
    let secret = canary("parameter");
    let right = fs::read_to_string(folder.join("secrets/gateway-url")).unwrap();
    let url = format!("{}?sslpassword={secret}&pasword={secret}", right.trim());
    all.extend(starts(folder, &url, &secret, SERVES));
    let password = password_in(&right);
    all.extend(starts(folder, &url, &password, SERVES));
    // A master key that is none.
    for form in ["{secret}", "{secret}0123456789abcdef0123456789abcdef"] {
        let secret = canary("master");
        let key = folder.join(format!("{}-key", form.len()));
        fs::write(&key, form.replace("{secret}", &secret)).unwrap();
        let (key, url) = (key.display().to_string(), folder.join("secrets/gateway-url").display().to_string());
        let common = ["--master-key-file", &*key, "--database-url-file", &*url];
        for (program, args) in [
            ("gateway", [&common[..], &["--pooled-engine", "127.0.0.1:1"]].concat()),
            ("operator", [&["run"], &common[..], &["--engine-image", "none"]].concat()),
        ] {
            let args = strings(&args);
            all.push(Start { program, args, environment: no_cluster(), until: NEVER, secret: secret.clone() });
        }
    }
    // A key where the model's URL is wanted.
    for form in ["https://user:{secret}@llm.example.com/v1", "https://llm.example.com/v1?key={secret}", "{secret}"] {
        let secret = canary("narrate");
        let args =
            strings(&["--mode", "pooled", "--narrate-model", "m", "--narrate-url", &form.replace("{secret}", &secret)]);
        all.push(Start { program: "engine", args, environment: no_cluster(), until: NEVER, secret });
    }
    println!("{} wrong starts", all.len());
    let mut outcomes =
        stream::iter(all.iter().map(|start| async move { (start, start.outcome(workdir).await) })).buffer_unordered(4);
    while let Some((start, said)) = outcomes.next().await {
        assert!(!said.trim().is_empty(), "{} {:?} says why", start.program, start.args);
        search_for(&start.secret).assert_none(&format!("what {} {:?} says", start.program, start.args), said);
    }
    drop(outcomes);

    // A secret in the place of a file's name is repeated, and so found.
    let secret = canary("path");
    let args = strings(&["--mode", "pooled", "--database-url-file", &format!("/nowhere/{secret}")]);
    let start = Start { program: "engine", args, environment: vec![], until: WAITS, secret };
    assert!(!search_for(&start.secret).find(start.outcome(workdir).await).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_before_an_api_server_that_it_cannot_read_tells_nothing() {
    let plane = DataPlane::start().await.unwrap();
    let folder = plane.workdir.path();
    let (token, held) = (canary("token"), canary("held"));
    // No Lease has a number for a name: the library cannot read this, and would like to show it.
    let unreadable = json!({ "kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": { "name": 7, "namespace": held } });
    let api = Taker::start(200, unreadable.to_string()).await;
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{ "name": "it", "cluster": { "server": format!("http://127.0.0.1:{}", api.port) } }],
        "users": [{ "name": "it", "user": { "token": token } }],
        "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
    });
    fs::write(folder.join("kubeconfig"), kubeconfig.to_string()).unwrap();
    let file = |name: &str| folder.join(name).display().to_string();
    let (key, url) = (file("secrets/master-key"), file("secrets/operator-url"));
    let args = ["run", "--engine-image", "none", "--master-key-file", &key, "--database-url-file", &url];
    for format in ["text", "json"] {
        let environment = vec![("KUBECONFIG", file("kubeconfig")), ("LOG_FORMAT", format.to_owned())];
        let until = "the lease cannot be read";
        let start = Start { program: "operator", args: strings(&args), environment, until, secret: token.clone() };
        let before = api.requests();
        let said = start.outcome(&plane.workdir).await;
        assert!(said.contains("TRACE") && api.requests() > before, "it has asked, and says much");
        let master_key = fs::read_to_string(&key).unwrap();
        let password = password_in(&fs::read_to_string(&url).unwrap());
        for secret in [&token, &held, &password, master_key.trim()] {
            search_for(secret).assert_none("the operator's log", &said);
        }
    }
}
