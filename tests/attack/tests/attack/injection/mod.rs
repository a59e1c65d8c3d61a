//! SQL injected into a tenant's open transaction, and then another tenant's request on the same connection, made by the
//! engine as ever: it is answered, and answered rightly, and the attacker learns nothing of it afterwards.
//!
//! With a dedicated engine the connection is the tenant's own: there its own next request must be right, and tell nothing of
//! another tenant. What a login sets for its sessions to come is met by a request on a new connection.

mod payloads;
mod wire;

use std::{collections::BTreeSet, fs};

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
    /// Of whom nothing may be learned.
    other: Tenant,
    /// Who asks next: the other or, with [`Login::Own`], the attacker.
    victim: Tenant,
    /// As whom the engine logs in.
    role: String,
    http: reqwest::Client,
}

/// What a run of payloads came to.
#[derive(Default, Debug)]
struct Outcome {
    injected: usize,
    on_the_same_connection: usize,
    /// After how many the login had settings of its own for sessions to come.
    set_for_later: usize,
    faults: Vec<String>,
}

impl Stage {
    async fn prepare(login: Login) -> Self {
        let plane = DataPlane::start().await.unwrap();
        let spec = TenantSpec { max_memories: -1, ..TenantSpec::default() };
        let tenants = ground::tenants(&plane, "injected", 2, spec).await;
        let (attacker, other) = (tenants[0].clone(), tenants[1].clone());
        let victim = if login == Login::Pooled { other.clone() } else { attacker.clone() };
        let wire = Wire::to(plane.postgres.port, &attacker).await;
        let (url, mode, role) = match login {
            Login::Pooled => {
                let url = fs::read_to_string(plane.workdir.path().join("secrets/pool-url")).unwrap();
                (url, "pooled", "stellar_pool".to_owned())
            }
            Login::Own => {
                ground::admit(&plane, &attacker).await;
                (ground::own_url(&plane, &attacker), "dedicated", RoleName::of(attacker.id).to_string())
            }
        };
        let file = plane.workdir.path().join("wire-url");
        let through_wire = url.trim().replace(&format!(":{}/", plane.postgres.port), &format!(":{}/", wire.port));
        assert!(!through_wire.contains('?') && through_wire != url, "the URL is as it was thought to be");
        fs::write(&file, format!("{through_wire}?sslmode=disable")).unwrap();
        let mut args = vec!["--mode", mode, "--max-connections", "1", "--database-url-file", file.to_str().unwrap()];
        let id = attacker.id.to_string();
        if login == Login::Own {
            args.extend(["--tenant", &id]);
        }
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let engine = Program::start(&plane.workdir, "engine", &args).await.unwrap();
        let stage = Self { plane, engine, wire, attacker, other, victim, role, http: reqwest::Client::new() };
        // The other's by the pooled engine: a dedicated one serves its tenant alone.
        for (port, tenant) in [(stage.engine.port, &stage.victim), (stage.plane.engine.port, &stage.other)] {
            let first = stage.store_at(port, tenant, "at the start").await;
            assert_eq!(first.status, 201, "{}", first.text);
        }
        stage
    }

    /// A request as the gateway passes it on.
    async fn ask(&self, tenant: &Tenant, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.ask_at(self.engine.port, tenant, method, path, body).await
    }

    async fn ask_at(&self, port: u16, tenant: &Tenant, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self
            .http
            .request(method, format!("http://127.0.0.1:{port}/api/v1{path}"))
            .header(tenancy::TENANT_HEADER, tenant.id.to_string())
            .header(tenancy::CAPABILITY_HEADER, self.plane.master().capability(tenant.id, 1).expose());
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        Answer::read(request.send().await.unwrap()).await.unwrap()
    }

    async fn store(&self, tenant: &Tenant, what: &str) -> Answer {
        self.store_at(self.engine.port, tenant, what).await
    }

    async fn store_at(&self, port: u16, tenant: &Tenant, what: &str) -> Answer {
        let content = format!("belongs to {}. {what}", tenant.name);
        self.ask_at(port, tenant, Method::POST, "/store", Some(json!({ "content": content }))).await
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
            .replace("{B}", &self.other.id.to_string())
            .replace("{ROLE_B}", RoleName::of(self.other.id).as_str())
            .replace("{CAPABILITY_A}", &self.plane.master().capability(self.attacker.id, 1).expose());
        let connections = self.wire.connections();
        self.wire.arm(vec![payload.clone()]);
        let own = match n % 2 {
            0 => self.store(&self.attacker, &format!("number {n}")).await,
            _ => self.ask(&self.attacker, Method::GET, "/memories?limit=5", None).await,
        };
        let Some(shown) = self.wire.shown() else {
            outcome.faults.push(format!("{payload:?}: was not injected: {:.400}", own.text));
            return;
        };
        let mut faults = Vec::new();
        if self.tells(&shown) || self.tells(&own.text) {
            faults.push(format!("the attacker reads what is another's: {shown} {}", own.text));
        }
        faults.extend(self.next(&format!("word{n}")).await);
        outcome.on_the_same_connection += usize::from(self.wire.connections() == connections);
        let of_the_login = payload.contains("ALTER ROLE");
        if of_the_login {
            outcome.set_for_later += usize::from(self.has_settings().await);
            // Before, for the engine also connects by itself.
            let connections = self.wire.connections();
            self.end_sessions().await;
            let met = self.next(&format!("anew{n}")).await;
            faults.extend(met.into_iter().map(|what| format!("on a new connection, {what}")));
            if self.wire.connections() == connections {
                faults.push("the engine made no new connection".to_owned());
            }
        }
        self.wire.arm(payloads::spy());
        let spying = self.ask(&self.attacker, Method::GET, "/stats", None).await;
        let spied = self.wire.shown().unwrap_or_default();
        if self.tells(&spied) || self.tells(&spying.text) {
            faults.push(format!("the attacker finds what another left: {spied} {}", spying.text));
        }
        if of_the_login {
            self.reset_login().await;
        }
        outcome.injected += 1;
        outcome.faults.extend(faults.iter().map(|what| format!("{payload:?}: {what:.400}")));
    }

    /// The victim's next requests, and what is wrong with the answers.
    async fn next(&self, word: &str) -> Vec<String> {
        let mut faults = Vec::new();
        let stored = self.store(&self.victim, &format!("next {word}")).await;
        if stored.status != 201 {
            faults.push(format!("the victim's store is refused: {} {}", stored.status, stored.text));
        }
        let recalled = self.ask(&self.victim, Method::GET, &format!("/recall?q={word}"), None).await;
        let expected = format!("belongs to {}. next {word}", self.victim.name);
        if stored.status == 201 && recalled.body[0]["content"] != expected.as_str() {
            faults.push(format!("the victim recalls something else: {} {}", recalled.status, recalled.text));
        }
        let listed = self.ask(&self.victim, Method::GET, "/memories?limit=50", None).await;
        let items = listed.body["items"].as_array().cloned().unwrap_or_default();
        let mark = format!("belongs to {}.", self.victim.name);
        if items.is_empty()
            || !items.iter().all(|item| item["content"].as_str().is_some_and(|text| text.starts_with(&mark)))
        {
            faults.push(format!("the victim's list is wrong: {} {}", listed.status, listed.text));
        }
        let is_other = self.victim.id == self.other.id;
        if !is_other && [&stored, &recalled, &listed].iter().any(|answer| self.tells(&answer.text)) {
            faults.push(format!("the next request tells of another: {} {}", recalled.text, listed.text));
        }
        faults
    }

    /// Whether a text holds what only the other knows.
    fn tells(&self, text: &str) -> bool {
        text.contains(&format!("belongs to {}.", self.other.name))
            || text.contains(&self.plane.master().capability(self.other.id, 1).expose())
    }

    /// Whether the login has settings for its sessions to come.
    async fn has_settings(&self) -> bool {
        let role = &self.role;
        let settings = format!("SELECT EXISTS (SELECT FROM pg_db_role_setting s WHERE s.setrole = '{role}'::regrole)");
        ask_postgres(&self.plane, &settings).await
    }

    /// Ends the engines' sessions, and waits for it: else the next request could be the last on one.
    async fn end_sessions(&self) {
        let ended: Vec<i32> = ask_postgres(
            &self.plane,
            "SELECT coalesce(array_agg(a.pid) FILTER (WHERE pg_terminate_backend(a.pid)), '{}')
             FROM pg_stat_activity a WHERE a.application_name = 'stellar-engine'",
        )
        .await;
        let some_left =
            format!("SELECT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = ANY (ARRAY{ended:?}::integer[]))");
        harness::eventually("the engines' sessions end", || async {
            (!ask_postgres::<bool>(&self.plane, &some_left).await).then_some(())
        })
        .await;
    }

    /// The login as it was, so that payloads do not disturb each other, and a connection that began with it.
    async fn reset_login(&self) {
        let role = &self.role;
        let reset = format!("ALTER ROLE {role} RESET ALL; ALTER ROLE {role} IN DATABASE stellar RESET ALL");
        administer(&self.plane, &reset).await;
        self.end_sessions().await;
        let after = self.ask(&self.victim, Method::GET, "/stats", None).await;
        assert_eq!(after.status, 200, "{}", after.text);
    }
}

/// As many payloads as wanted, spread over all of them, and a few more.
fn chosen() -> Vec<String> {
    let all = payloads::all();
    let wanted = how_many(120, all.len()).min(all.len());
    assert!(all.len() >= 500, "only {} payloads", all.len());
    let mut chosen: BTreeSet<usize> = (0..wanted).map(|n| n * all.len() / wanted).collect();
    // And in any case each setting for sessions to come, said so that it stays.
    chosen.extend((0..all.len()).filter(|n| all[*n].starts_with("COMMIT; ALTER ROLE")));
    chosen.into_iter().map(|n| all[n].clone()).collect()
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
    assert_sessions_to_come_met_settings(&outcome);

    rows_of_others_are_noticed(&stage).await;
    stage.wire.untidy();
    what_sessions_begin_with_is_noticed(&stage).await;
    // An engine that notes in the session who entered, besides.
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
    noticed(&stage, "SELECT 1", "the attacker finds what another left").await;
}

/// Seven of the settings are any login's to make.
fn assert_sessions_to_come_met_settings(outcome: &Outcome) {
    assert!(outcome.set_for_later >= 7, "settings stayed after {} payloads", outcome.set_for_later);
}

/// Two databases that show rows of others: one without policies, and one with a policy that believes the tenant's name
/// without any proof.
async fn rows_of_others_are_noticed(stage: &Stage) {
    let reads = "SELECT m.content FROM stellar.memories m";
    let names =
        "SELECT pg_catalog.set_config('app.current_user_id', '{B}', true); SELECT m.content FROM stellar.memories m";
    for (weakens, mends, payload) in [
        (
            "ALTER TABLE stellar.memories DISABLE ROW LEVEL SECURITY",
            "ALTER TABLE stellar.memories ENABLE ROW LEVEL SECURITY",
            reads,
        ),
        (
            "ALTER POLICY tenant ON stellar.memories USING (user_id = current_setting('app.current_user_id')::uuid)",
            "ALTER POLICY tenant ON stellar.memories USING (user_id = (SELECT stellar.current_tenant()))",
            names,
        ),
    ] {
        administer(&stage.plane, weakens).await;
        noticed(stage, payload, "the attacker reads what is another's").await;
        administer(&stage.plane, mends).await;
    }
}

/// An engine that gives connections back as they are and begins transactions as the session would: one that was spoilt, and
/// one that began so.
async fn what_sessions_begin_with_is_noticed(stage: &Stage) {
    noticed(stage, "COMMIT; SET default_transaction_read_only = on", "the victim's store is refused").await;
    let later = "COMMIT; ALTER ROLE CURRENT_USER SET default_transaction_read_only = on";
    noticed(stage, later, "on a new connection, the victim's store is refused").await;
}

/// The check would notice: this payload on the system as it is now brings this fault.
async fn noticed(stage: &Stage, payload: &str, fault: &str) {
    // On a new connection, which an earlier fault did not spoil.
    stage.end_sessions().await;
    let outcome = stage.run(&[payload.to_owned()]).await;
    assert!(outcome.faults.iter().any(|found| found.contains(fault)), "{payload}: nobody noticed; {outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dedicated_tenant_is_served_rightly_after_its_own_injected_sql_and_learns_nothing_of_others() {
    let stage = Stage::prepare(Login::Own).await;
    let payloads = chosen();
    let outcome = stage.run(&payloads).await;
    assert_eq!(outcome.faults, Vec::<String>::new());
    assert_eq!(outcome.injected, payloads.len());
    assert_sessions_to_come_met_settings(&outcome);

    rows_of_others_are_noticed(&stage).await;
    stage.wire.untidy();
    what_sessions_begin_with_is_noticed(&stage).await;
    // A memory that another request of the tenant's shows, though it was another's.
    let (own, other) = (stage.attacker.id, stage.other.id);
    administer(
        &stage.plane,
        &format!(
            "DELETE FROM stellar.memories WHERE user_id = '{own}';
             UPDATE stellar.memories SET user_id = '{own}' WHERE user_id = '{other}'"
        ),
    )
    .await;
    noticed(&stage, "SELECT 1", "the next request tells of another").await;
}
