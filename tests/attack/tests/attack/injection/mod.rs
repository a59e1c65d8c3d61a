//! SQL injected into a tenant's open transaction, and then another tenant's request on the same connection, made by the
//! engine as ever: it is answered, and answered rightly, and the attacker learns nothing of it afterwards.
//!
//! With a dedicated engine the connection is the tenant's own: there its own next request must be right.

mod payloads;
mod wire;

use std::fs;

use attack::tries as how_many;
use harness::{Answer, DataPlane, Program, Tenant, TenantSpec};
use reqwest::Method;
use serde_json::{Value, json};
use tenancy::RoleName;

use crate::ground::{self, Login, administer, ask as ask_postgres};
use wire::Wire;

/// An engine with one connection, on a wire.
struct Stage {
    plane: DataPlane,
    engine: Program,
    wire: Wire,
    attacker: Tenant,
    /// Who asks next. With [`Login::Own`] the attacker.
    victim: Tenant,
    http: reqwest::Client,
}

/// What a run of payloads came to.
#[derive(Default, Debug)]
struct Outcome {
    injected: usize,
    on_the_same_connection: usize,
    faults: Vec<String>,
}

impl Stage {
    async fn prepare(login: Login) -> Self {
        let plane = DataPlane::start().await.unwrap();
        let spec = TenantSpec { max_memories: -1, ..TenantSpec::default() };
        let tenants = ground::tenants(&plane, "injected", 2, spec).await;
        let (attacker, victim) = (tenants[0].clone(), tenants[usize::from(login == Login::Pooled)].clone());
        let wire = Wire::to(plane.postgres.port, &attacker).await;
        let (url, mode, id) = match login {
            Login::Pooled => {
                (fs::read_to_string(plane.workdir.path().join("secrets/pool-url")).unwrap(), "pooled", String::new())
            }
            Login::Own => {
                ground::admit(&plane, &attacker).await;
                (ground::own_url(&plane, &attacker), "dedicated", attacker.id.to_string())
            }
        };
        let file = plane.workdir.path().join("wire-url");
        let through_wire = url.trim().replace(&format!(":{}/", plane.postgres.port), &format!(":{}/", wire.port));
        assert!(!through_wire.contains('?') && through_wire != url, "the URL is as it was thought to be");
        fs::write(&file, format!("{through_wire}?sslmode=disable")).unwrap();
        let mut args = vec!["--mode", mode, "--max-connections", "1", "--database-url-file", file.to_str().unwrap()];
        if login == Login::Own {
            args.extend(["--tenant", &id]);
        }
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let engine = Program::start(&plane.workdir, "engine", &args).await.unwrap();
        let stage = Self { plane, engine, wire, attacker, victim, http: reqwest::Client::new() };
        let first = stage.store(&stage.victim, "at the start").await;
        assert_eq!(first.status, 201, "{}", first.text);
        stage
    }

    /// A request as the gateway passes it on.
    async fn ask(&self, tenant: &Tenant, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self
            .http
            .request(method, format!("http://127.0.0.1:{}/api/v1{path}", self.engine.port))
            .header(tenancy::TENANT_HEADER, tenant.id.to_string())
            .header(tenancy::CAPABILITY_HEADER, self.plane.master().capability(tenant.id, 1).expose());
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        Answer::read(request.send().await.unwrap()).await.unwrap()
    }

    async fn store(&self, tenant: &Tenant, what: &str) -> Answer {
        let content = format!("belongs to {}. {what}", tenant.name);
        self.ask(tenant, Method::POST, "/store", Some(json!({ "content": content }))).await
    }

    async fn run(&self, payloads: &[String]) -> Outcome {
        let mut outcome = Outcome::default();
        for (n, payload) in payloads.iter().enumerate() {
            self.one(n, payload, &mut outcome).await;
        }
        outcome
    }

    async fn one(&self, n: usize, payload: &str, outcome: &mut Outcome) {
        let payload = payload
            .replace("{A}", &self.attacker.id.to_string())
            .replace("{B}", &self.victim.id.to_string())
            .replace("{ROLE_B}", RoleName::of(self.victim.id).as_str())
            .replace("{CAPABILITY_A}", &self.plane.master().capability(self.attacker.id, 1).expose());
        let connections = self.wire.connections();
        self.wire.arm(vec![payload.clone()]);
        let own = match n % 2 {
            0 => self.store(&self.attacker, &format!("number {n}")).await,
            _ => self.ask(&self.attacker, Method::GET, "/memories?limit=5", None).await,
        };
        let mut fault = |what: String| outcome.faults.push(format!("{payload:?}: {what:.400}"));
        let Some(shown) = self.wire.shown() else { return fault(format!("was not injected: {}", own.text)) };
        let is_other = self.attacker.id != self.victim.id;
        if is_other && (self.tells(&shown) || self.tells(&own.text)) {
            fault(format!("the attacker reads what is the victim's: {shown} {}", own.text));
        }
        let stored = self.store(&self.victim, &format!("next word{n}")).await;
        if stored.status != 201 {
            fault(format!("the victim's store is refused: {} {}", stored.status, stored.text));
        }
        let recalled = self.ask(&self.victim, Method::GET, &format!("/recall?q=word{n}"), None).await;
        let expected = format!("belongs to {}. next word{n}", self.victim.name);
        if stored.status == 201 && recalled.body[0]["content"] != expected.as_str() {
            fault(format!("the victim recalls something else: {} {}", recalled.status, recalled.text));
        }
        let listed = self.ask(&self.victim, Method::GET, "/memories?limit=50", None).await;
        let items = listed.body["items"].as_array().cloned().unwrap_or_default();
        let mark = format!("belongs to {}.", self.victim.name);
        if items.is_empty()
            || !items.iter().all(|item| item["content"].as_str().is_some_and(|text| text.starts_with(&mark)))
        {
            fault(format!("the victim's list is wrong: {} {}", listed.status, listed.text));
        }
        let same_connection = self.wire.connections() == connections;
        if is_other {
            self.wire.arm(payloads::spy());
            self.ask(&self.attacker, Method::GET, "/stats", None).await;
            let spied = self.wire.shown().unwrap_or_default();
            if self.tells(&spied) {
                fault(format!("the attacker finds what the victim left: {spied}"));
            }
        }
        outcome.injected += 1;
        outcome.on_the_same_connection += usize::from(same_connection);
    }

    /// Whether a text holds what only the victim knows.
    fn tells(&self, text: &str) -> bool {
        text.contains(&format!("belongs to {}.", self.victim.name))
            || text.contains(&self.plane.master().capability(self.victim.id, 1).expose())
    }
}

/// As many payloads as wanted, spread over all of them.
fn chosen() -> Vec<String> {
    let all = payloads::all();
    let wanted = how_many(120, all.len()).min(all.len());
    assert!(all.len() >= 500, "only {} payloads", all.len());
    (0..wanted).map(|n| all[n * all.len() / wanted].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_tenant_on_the_connection_is_served_rightly_and_nothing_of_it_is_left() {
    let stage = Stage::prepare(Login::Pooled).await;
    let payloads = chosen();
    let outcome = stage.run(&payloads).await;
    println!("{} payloads, {} followed on the same connection", outcome.injected, outcome.on_the_same_connection);
    assert_eq!(outcome.faults, Vec::<String>::new());
    assert_eq!(outcome.injected, payloads.len());
    // Else another connection was looked at.
    assert!(outcome.on_the_same_connection * 10 > payloads.len() * 7, "{}", outcome.on_the_same_connection);

    // A policy that believes the tenant's name without its capability.
    let reads =
        "SELECT pg_catalog.set_config('app.current_user_id', '{B}', true); SELECT m.content FROM stellar.memories m";
    administer(
        &stage.plane,
        "ALTER POLICY tenant ON stellar.memories USING (user_id = current_setting('app.current_user_id')::uuid)",
    )
    .await;
    noticed(&stage, reads, "the attacker reads what is the victim's").await;
    administer(
        &stage.plane,
        "ALTER POLICY tenant ON stellar.memories USING (user_id = (SELECT stellar.current_tenant()))",
    )
    .await;

    // An engine that gives connections back as they are.
    stage.wire.untidy();
    noticed(&stage, "COMMIT; SET default_transaction_read_only = on", "the victim's store is refused").await;
    // And notes in the session who entered.
    let enter: String = ask_postgres(
        &stage.plane,
        "SELECT pg_get_functiondef('stellar.enter(uuid, bytea, text, boolean, uuid)'::regprocedure)",
    )
    .await;
    let notes =
        "coalesce(pg_catalog.current_setting('app.agent', true), '') || pg_catalog.encode(capability, 'hex'), false)";
    let weak = enter.replace("coalesce(agent, ''), true)", notes);
    assert_ne!(weak, enter);
    administer(&stage.plane, &weak).await;
    noticed(&stage, "SELECT 1", "the attacker finds what the victim left").await;
}

/// The check would notice: this payload on the system as it is now brings this fault.
async fn noticed(stage: &Stage, payload: &str, fault: &str) {
    // On a new connection, which an earlier fault did not spoil.
    administer(
        &stage.plane,
        "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a WHERE a.application_name = 'stellar-engine'",
    )
    .await;
    let outcome = stage.run(&[payload.to_owned()]).await;
    assert!(outcome.faults.iter().any(|found| found.contains(fault)), "{payload}: nobody noticed; {outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dedicated_tenant_is_served_rightly_after_its_own_injected_sql() {
    let stage = Stage::prepare(Login::Own).await;
    let payloads = chosen();
    let outcome = stage.run(&payloads).await;
    assert_eq!(outcome.faults, Vec::<String>::new());
    assert_eq!(outcome.injected, payloads.len());
    stage.wire.untidy();
    noticed(&stage, "COMMIT; SET default_transaction_read_only = on", "the victim's store is refused").await;
}
