//! Everything at its most talkative, and a day's work in which every secret is used.

use std::fs;

use attack::Search;
use harness::{Answer, Client, DataPlane, Program, Tenant, TenantSpec};
use reqwest::Method;
use serde_json::json;
use sqlx::PgConnection;
use tenancy::RoleName;
use uuid::Uuid;

use super::collector::Taker;

/// What a tenant remembers, asks and says; nobody else's business.
const WORDS: [&str; 9] =
    ["content", "metadata", "session", "speaker", "source", "emotion", "query", "topic", "misplaced"];

pub struct Stage {
    pub plane: DataPlane,
    pub own_engine: Program,
    pub collector: Taker,
    pub search: Search,
    /// One in the pool, one with an engine of its own.
    pub tenants: [Tenant; 2],
    words: Vec<(&'static str, String)>,
}

/// A word that is found nowhere by chance.
pub fn canary(name: &str) -> String {
    format!("canary-{name}-{}", Uuid::new_v4().simple())
}

impl Stage {
    pub async fn prepare(format: &str) -> Self {
        let mut search = Search::default();
        let token = canary("collector");
        // The collector refuses, and repeats the token that it was sent.
        let collector = Taker::start(403, format!("{{\"message\":\"no access for Bearer {token}\"}}")).await;
        search.add("the collector's token", &token);
        let (endpoint, headers) =
            (format!("http://127.0.0.1:{}", collector.port), format!("authorization=Bearer%20{token}"));
        let environment = [
            ("RUST_LOG", "trace"),
            ("LOG_FORMAT", format),
            ("RUST_BACKTRACE", "full"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
            ("OTEL_EXPORTER_OTLP_HEADERS", &*headers),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ];
        let plane = DataPlane::start_in(&environment, &[], &[]).await.unwrap();
        let spec = TenantSpec { max_api_keys: -1, max_agents: -1, ..TenantSpec::default() };
        let tenants = [plane.tenant("ada", spec).await.unwrap(), plane.tenant("bob", spec).await.unwrap()];

        let password = canary("role");
        search.add("a role's password", &password);
        let own_engine = own_engine(&plane, &tenants[1], &password, &environment).await;
        for login in ["operator", "gateway", "pool"] {
            let url = fs::read_to_string(plane.workdir.path().join(format!("secrets/{login}-url"))).unwrap();
            search.add(&format!("the password of {login}"), password_in(&url));
        }
        search.add("the administrator's password", password_in(&plane.postgres.admin_url()));
        let master = plane.master().expose();
        search.add("the master key as text", &master);
        search.add("the master key", unhex(&master));
        for tenant in &tenants {
            search.add("an API key", &tenant.key);
            search.add("the digits of an API key", tenant.key.trim_start_matches("sk-stellar-"));
            for generation in 1..=2 {
                let capability = plane.master().capability(tenant.id, generation);
                search.add("a capability", capability.as_bytes());
                search.add("a capability as text", capability.expose());
            }
        }
        let words: Vec<_> = WORDS.iter().map(|name| (*name, canary(name))).collect();
        for (name, word) in &words {
            search.add(name, word);
        }
        let mut stage = Self { plane, own_engine, collector, search, tenants, words };
        for tenant in stage.tenants.clone() {
            let client = stage.plane.client(&tenant);
            client.opens().await;
            let made = client.post("/auth/api-keys", &json!({ "agent": "made" })).await.unwrap();
            stage.search.add("an API key that was made", made.body["api_key"].as_str().unwrap());
        }
        stage
    }

    /// The word for one purpose.
    pub fn word(&self, name: &str) -> &str {
        &self.words.iter().find(|(known, _)| *known == name).unwrap().1
    }

    /// Uses everything, rightly and wrongly. Returns the answers that are errors.
    pub async fn work(&self) -> Vec<Answer> {
        let mut errors = Vec::new();
        for tenant in &self.tenants {
            errors.extend(self.work_as(tenant).await);
        }
        assert!(errors.len() > 20 && errors.iter().all(|answer| answer.status >= 400), "{errors:#?}");
        errors
    }

    async fn work_as(&self, tenant: &Tenant) -> Vec<Answer> {
        let client = self.plane.client(tenant);
        let capability = self.plane.master().capability(tenant.id, 1).expose();
        let memory = json!({
            "content": format!("{} and {}", self.word("content"), self.word("query")),
            "metadata": { self.word("metadata"): self.word("metadata") },
            "session": self.word("session"), "speaker": self.word("speaker"),
            "source": self.word("source"), "emotion": self.word("emotion"),
        });
        let mut id = String::new();
        for _ in 0..3 {
            let stored = client.post("/store", &memory).await.unwrap();
            assert_eq!(stored.status, 201, "{}", stored.text);
            stored.body["id"].as_str().unwrap().clone_into(&mut id);
        }
        assert!(client.recall(self.word("query")).await.unwrap().text.contains(self.word("content")));
        let topic = json!({ "topic": format!("{} {}", self.word("topic"), self.word("query")) });
        assert_eq!(client.post("/narrate", &topic).await.unwrap().status, 200);
        for path in ["/memories", "/timeline", "/stats", "/auth/usage", "/auth/api-keys"] {
            assert_eq!(client.get(path).await.unwrap().status, 200, "{path}");
        }
        let mut events = client.request(Method::GET, "/events?since=0").send().await.unwrap();
        assert!(events.chunk().await.unwrap().is_some());
        drop(events);
        self.over_http_2(tenant).await;
        assert_eq!(client.delete(&format!("/forget/{id}")).await.unwrap().status, 200);

        let misplaced = self.word("misplaced");
        let mut errors = Vec::new();
        for (path, body) in [
            // What is not valid is refused with the reason; the sender reads its own words, the log must not.
            ("/store", json!({ "content": [self.word("content")] })),
            ("/store", json!({ "content": self.word("content"), "metadata": self.word("metadata").len() })),
            ("/store", json!({ "content": self.word("content"), "importance": 7 })),
            ("/store", json!({ "content": format!("{}{}", self.word("content"), "x".repeat(10_000)) })),
            ("/store", json!({ "content": self.word("content"), "api_key": tenant.key })),
            ("/narrate", json!({ "topic": self.word("topic"), "limit": 0 })),
            ("/auth/api-keys", json!({ "agent": format!("{} ", self.word("content")) })),
            ("/auth/api-keys", json!({ "agent": "a", "expires_in_days": 0, })),
        ] {
            errors.push(client.post(path, &body).await.unwrap());
        }
        for (path, body) in [
            ("/store", json!({ "importance": misplaced })),
            ("/auth/api-keys", json!({ "agent": "a", "expires_in_days": misplaced })),
        ] {
            assert_eq!(client.post(path, &body).await.unwrap().status, 400);
        }
        for path in [
            format!("/recall?q={}&limit=0", self.word("query")),
            format!("/recall?q={}&api_key={}", self.word("query"), tenant.key),
            format!("/memories?cursor={}", tenant.key),
            format!("/auth/api-keys?cursor={}", tenant.key),
        ] {
            errors.push(client.get(&path).await.unwrap());
        }
        errors.push(client.delete(&format!("/forget/{}", tenant.key)).await.unwrap());
        errors.push(client.delete(&format!("/auth/api-keys/{}", tenant.key)).await.unwrap());
        errors.push(client.get(&format!("/{}", tenant.key)).await.unwrap());
        let http = reqwest::Client::new();
        for (name, value) in [
            ("authorization", format!("Basic {}", tenant.key)),
            ("x-stellar-capability", capability.clone()),
            ("cookie", format!("key={}", tenant.key)),
            ("x-api-key", format!("{} ", tenant.key.to_uppercase())),
            ("x-api-key", format!("{}0", tenant.key)),
        ] {
            let request = http.get(format!("{}/api/v1/stats?key={}", self.plane.url(), tenant.key)).header(name, value);
            errors.push(Answer::read(request.send().await.unwrap()).await.unwrap());
        }
        let two =
            client.request(Method::GET, "/stats").bearer_auth(&self.tenants[0].key).header("x-api-key", "another");
        errors.push(Answer::read(two.send().await.unwrap()).await.unwrap());
        // Straight to the engines, with another tenant's proof.
        for port in [self.plane.engine.port, self.own_engine.port] {
            let inside = Client::new(&format!("http://127.0.0.1:{port}"), &tenant.key).request(Method::GET, "/stats");
            let inside = inside
                .header("x-stellar-tenant", Uuid::new_v4().to_string())
                .header("x-stellar-capability", &capability);
            errors.push(Answer::read(inside.send().await.unwrap()).await.unwrap());
        }
        errors
    }

    /// The same over HTTP/2, whose library has words of its own for the log.
    async fn over_http_2(&self, tenant: &Tenant) {
        use http_body_util::{BodyExt as _, Full};
        use hyper_util::{client::legacy::Client, rt::TokioExecutor};
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<bytes::Bytes>>();
        let body = json!({ "content": self.word("content") }).to_string();
        let request = http::Request::post(format!("{}/api/v1/store", self.plane.url()))
            .header("x-api-key", &tenant.key)
            .header("content-type", "application/json")
            .body(Full::from(body))
            .unwrap();
        let answer = client.request(request).await.unwrap();
        assert_eq!(answer.status(), 201);
        answer.into_body().collect().await.unwrap();
    }

    pub async fn superuser(&self) -> PgConnection {
        self.plane.postgres.superuser("stellar").await.unwrap()
    }

    /// Every process that the stage has started: its id, and its name.
    pub fn processes(&self) -> Vec<(String, String)> {
        let list = fs::read_to_string(self.plane.workdir.path().join("pids")).unwrap();
        let pids: Vec<&str> = list.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        let running = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid = entry.ok()?.file_name().into_string().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
            // The servers' own children, such as Postgres' sessions, count too.
            let parent = rest.split_whitespace().nth(1)?;
            (pids.contains(&&*pid) || pids.contains(&parent)).then(|| (pid, name.to_owned()))
        });
        running.collect()
    }
}

async fn own_engine(plane: &DataPlane, tenant: &Tenant, password: &str, environment: &[(&str, &str)]) -> Program {
    let role = RoleName::of(tenant.id);
    let statement = format!("ALTER ROLE {role} LOGIN PASSWORD '{password}'");
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut superuser).await.unwrap();
    let mut operator = plane.login("operator").await.unwrap();
    sqlx::query("SELECT stellar.tenant_admit_role($1)").bind(tenant.id.uuid()).execute(&mut operator).await.unwrap();
    let file = plane.workdir.path().join("own-url");
    fs::write(&file, format!("postgres://{role}:{password}@127.0.0.1:{}/stellar", plane.postgres.port)).unwrap();
    let args =
        ["--mode", "dedicated", "--tenant", &tenant.id.to_string(), "--database-url-file", &file.display().to_string()]
            .map(str::to_owned);
    let engine = Program::start_in(&plane.workdir, "engine", &args, environment).await.unwrap();
    plane.place(tenant, Some(&engine), "30 s").await.unwrap();
    engine
}

/// The password in a URL.
pub fn password_in(url: &str) -> String {
    let login = url.split("//").nth(1).unwrap().split('@').next().unwrap();
    login.split_once(':').unwrap().1.to_owned()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// All that a client reads of an answer.
pub fn words_of(answer: &Answer) -> String {
    let headers =
        answer.headers.iter().map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    headers.collect::<String>() + &answer.text
}
