//! Broken object-level authorisation: every endpoint is asked, with a valid key, for what is another tenant's. The
//! answer must be the one for what never existed, in status, headers, body and time, and hold nothing of the other.

mod compare;
mod ground;
mod probes;
mod timing;

use std::time::{Duration, Instant};

use attack::tries;
use futures::{StreamExt as _, stream};
use harness::Answer;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use compare::{difference, read};
use ground::{Attacker, Ground, OWN_MEMORIES, Thing};
use probes::{
    BATCH, FORGET, FORGET_WITH_KEY, LIST, PAST_THE_GATEWAY, PROBES, Probe, READ, REVOKE, ROTATE, TIMELINE, UPDATE,
    update,
};
use timing::{Sample, accuracy, guessing};

use crate::ground::administer;

const AT_ONCE: usize = 8;
/// What the best threshold may judge rightly in the whole run. With 20,000 pairs a guess is 0.5 ± 0.0035.
const GUESSING: f64 = 0.52;
/// Parameters of a query that name nothing which somebody has.
const OF_NOBODY: [&str; 4] = ["emotion", "limit", "offset", "zone"];

const STORE_OVER: &str = "store over a memory of the victim's";

/// What an attacker learnt, and how.
#[derive(Debug)]
struct Finding {
    probe: &'static str,
    what: String,
}

impl Ground {
    /// Asks twice, for what is a victim's and for what never was, in either order.
    async fn pair(
        &self,
        probe: &Probe,
        attacker: &Attacker,
        (thing, twin): &(Thing, Thing),
        first: bool,
    ) -> [Answer; 2] {
        let ask =
            |thing| async move { read((probe.request)(attacker, thing).send().await.unwrap(), OWN_MEMORIES).await };
        if first {
            let foreign = ask(thing).await;
            [foreign, ask(twin).await]
        } else {
            let never = ask(twin).await;
            [ask(thing).await, never]
        }
    }

    fn judge(
        &self,
        probe: &'static str,
        [foreign, never]: &[Answer; 2],
        (thing, twin): &(Thing, Thing),
    ) -> Option<Finding> {
        let (said, said_twin) = (thing.texts(), twin.texts());
        let leaked = self.leak(foreign, &said).map(|text| format!("the victim's {text} in {}", foreign.text));
        let what = leaked.or_else(|| difference((foreign, &said), (never, &said_twin)))?;
        Some(Finding { probe, what })
    }

    /// Tries every probe in turn, by every attacker, on everything that a victim has.
    async fn sweep(&self, tries: usize) -> Vec<Finding> {
        let attempt = |n: usize| async move {
            let probe = &PROBES[n % PROBES.len()];
            let round = n / PROBES.len();
            let (attacker, things) = (&self.attackers[round % 2], &self.things[round / 2 % self.things.len()]);
            let answers = self.pair(probe, attacker, things, (n ^ round).is_multiple_of(2)).await;
            self.judge(probe.name, &answers, things)
        };
        stream::iter((0..tries).map(attempt))
            .buffer_unordered(AT_ONCE)
            .filter_map(|found| async { found })
            .collect()
            .await
    }

    /// Newcomers use every Idempotency-Key of the victims, each for the first time.
    async fn reuse_operations(&self) -> Vec<Finding> {
        let store: fn(&Attacker, &Thing) -> RequestBuilder =
            |a, _| a.client.request(Method::POST, "/store").json(&json!({ "content": "the newcomer's own" }));
        let mut findings = Vec::new();
        for (name, request) in [("store with an Idempotency-Key", store), ("update with an Idempotency-Key", update)] {
            let newcomer = self.newcomer().await;
            let ask = async |thing: &Thing| {
                let request = request(&newcomer, thing).header("idempotency-key", &thing.operation);
                without_seq(Answer::read(request.send().await.unwrap()).await.unwrap())
            };
            for things in &self.things {
                findings.extend(self.judge(name, &[ask(&things.0).await, ask(&things.1).await], things));
            }
        }
        findings
    }

    /// A newcomer stores memories of its own under the ids of the victims', and forgets them again.
    async fn reuse_ids(&self) -> Vec<Finding> {
        let newcomer = self.newcomer().await;
        let store = async |thing: &Thing| {
            let request = newcomer.client.request(Method::POST, "/store");
            let request = request.json(&json!({ "content": "the newcomer's own", "id": thing.memory }));
            without_seq(Answer::read(request.send().await.unwrap()).await.unwrap())
        };
        let mut findings = Vec::new();
        for things in &self.things {
            let answers = [store(&things.0).await, store(&things.1).await];
            findings.extend(self.judge(STORE_OVER, &answers, things));
            for thing in [&things.0, &things.1] {
                newcomer.client.delete(&format!("/forget/{}", thing.memory)).await.unwrap();
            }
        }
        findings
    }

    /// What the API's description lets a request name and none of these probes names: an operation, with a victim's id where
    /// its path takes one, or a parameter of its query.
    fn unprobed(&self, probes: &[Probe]) -> Vec<String> {
        let document = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json"));
        let document: Value = serde_json::from_str(document).unwrap();
        let (attacker, thing) = (&self.attackers[0], &self.things[0].0);
        let said = thing.texts();
        let requests: Vec<_> = probes
            .iter()
            .map(|probe| (probe.request)(attacker, thing).build().unwrap())
            // Not those past the gateway.
            .filter(|request| request.url().port() == Some(self.plane.gateway.port))
            .collect();
        let mut missing = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                // Without a key: pages for everybody, and the socket, whose frames are no requests.
                if operation["security"] == json!([{}]) {
                    continue;
                }
                let of_it = |request: &&reqwest::Request| {
                    request.method().as_str().eq_ignore_ascii_case(method) && fits(request.url().path(), path, &said)
                };
                let asked: Vec<_> = requests.iter().filter(of_it).collect();
                if asked.is_empty() {
                    missing.push(format!("{method} {path}"));
                }
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let name = parameter["name"].as_str().unwrap();
                    let named = asked.iter().any(|request| request.url().query_pairs().any(|(given, _)| given == name));
                    if parameter["in"] == "query" && !OF_NOBODY.contains(&name) && !named {
                        missing.push(format!("{method} {path} {name}"));
                    }
                }
            }
        }
        missing
    }
}

/// Whether a path is one of this template, with something that was said in each place that the template leaves open.
fn fits(path: &str, template: &str, said: &[String]) -> bool {
    let mut parts = path.split('/');
    template.split('/').all(|place| {
        parts.next().is_some_and(|part| {
            if place.starts_with('{') { said.iter().any(|text| text == part) } else { place == part }
        })
    }) && parts.next().is_none()
}

/// The numbers of a newcomer's own changes follow one another.
fn without_seq(mut answer: Answer) -> Answer {
    if let Some(seq) = answer.body["seq"].as_i64() {
        answer.text = answer.text.replace(&format!("\"seq\":{seq}"), "\"seq\":0");
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_anothers_is_answered_as_what_never_was() {
    let ground = Ground::prepare().await;
    assert_eq!(ground.unprobed(PROBES), Vec::<String>::new(), "what the API takes and no probe tries");
    let untried = ground.unprobed(&[FORGET, READ, UPDATE, REVOKE, BATCH]);
    for missing in ["post /api/v1/auth/api-keys/{id}/rotate", "get /api/v1/timeline cursor"] {
        assert!(untried.iter().any(|found| found == missing), "{missing} is not missed, but: {untried:?}");
    }
    let before = ground.victims_rows().await;
    let (tries, began) = (tries(3_000, 50_000), Instant::now());
    let mut findings = ground.sweep(tries).await;
    findings.extend(ground.reuse_operations().await);
    findings.extend(ground.reuse_ids().await);
    println!(
        "{} tries of {} probes, each beside its twin: {} leaks, in {:.0?}",
        tries + 3 * ground.things.len(),
        PROBES.len(),
        findings.len(),
        began.elapsed()
    );
    assert!(findings.is_empty(), "{} leaks, such as {:#?}", findings.len(), &findings[..findings.len().min(5)]);
    assert_eq!(ground.victims_rows().await, before, "no row of a victim has changed");
}

/// A weakening of the real system, what puts it right again (functions are put back in any case), and the probe that
/// must then tell.
struct Fault {
    breaks: &'static str,
    mends: &'static str,
    told_by: &'static str,
}

/// A view in the place of the table, in which every memory is of whoever asks.
macro_rules! hidden_memories {
    () => {
        "ALTER TABLE stellar.memories RENAME TO hidden_memories;
         CREATE VIEW stellar.memories AS SELECT (SELECT stellar.current_tenant()) AS user_id, m.id, m.content, m.metadata,
             m.session, m.speaker, m.occurred_at, m.source, m.agent, m.created_at, m.last_recalled_at, m.recall_count,
             m.importance, m.emotion, m.zone, m.total_score, m.written_at, m.written_by FROM stellar.hidden_memories m;
         GRANT SELECT, UPDATE ON stellar.memories TO stellar_pool, stellar_tenants"
    };
}

const FAULTS: &[Fault] = &[
    // First those that destroy nothing of a victim's.
    Fault {
        breaks: "CREATE UNIQUE INDEX by_id ON stellar.memories (id)",
        mends: "DROP INDEX stellar.by_id",
        told_by: STORE_OVER,
    },
    Fault {
        breaks: "DELETE FROM stellar.operations o USING stellar.users u WHERE u.id = o.user_id AND u.name LIKE 'attacker%';
            CREATE UNIQUE INDEX by_operation ON stellar.operations (op_id)",
        mends: "DROP INDEX stellar.by_operation",
        told_by: FORGET_WITH_KEY.name,
    },
    // Both layers that hide rows are gone: the filter of the engine's statement and the policy.
    Fault {
        breaks: hidden_memories!(),
        mends: "DROP VIEW stellar.memories; ALTER TABLE stellar.hidden_memories RENAME TO memories",
        told_by: READ.name,
    },
    Fault {
        breaks: "ALTER TABLE stellar.changes RENAME TO hidden_changes;
            CREATE VIEW stellar.changes AS SELECT (SELECT stellar.current_tenant()) AS user_id, c.seq, c.op, c.memory_id, c.agent,
                c.key_id, c.at FROM stellar.hidden_changes c;
            GRANT SELECT ON stellar.changes TO stellar_pool, stellar_tenants",
        mends: "DROP VIEW stellar.changes; ALTER TABLE stellar.hidden_changes RENAME TO changes",
        told_by: "audit from a cursor",
    },
    // The function alone is not enough: the engine looks whether the memory is there before it calls it.
    Fault {
        breaks: concat!(
            hidden_memories!(),
            "; CREATE OR REPLACE FUNCTION stellar.forget(memory uuid) RETURNS boolean
                LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
            AS $$ BEGIN DELETE FROM stellar.hidden_memories m WHERE m.id = memory; RETURN FOUND; END $$"
        ),
        mends: "DROP VIEW stellar.memories; ALTER TABLE stellar.hidden_memories RENAME TO memories",
        told_by: FORGET.name,
    },
    Fault {
        breaks: "CREATE OR REPLACE FUNCTION stellar.current_tenant() RETURNS uuid
                LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
                AS $$ SELECT current_setting('app.current_user_id', true)::uuid $$;
            CREATE OR REPLACE FUNCTION stellar.admitted(tenant uuid, capability bytea)
                RETURNS TABLE (change_seq bigint, memory_count integer, memory_limit integer)
                LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
                AS $$ SELECT u.change_seq, u.memory_count, u.memory_limit FROM stellar.usage u WHERE u.user_id = tenant $$",
        mends: "",
        told_by: PAST_THE_GATEWAY.name,
    },
    Fault {
        breaks: "CREATE OR REPLACE FUNCTION stellar.key_revoke(p_user_id uuid, p_key_id uuid, p_by_key uuid, p_by_agent text)
                RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
            AS $$ BEGIN
                UPDATE stellar.api_keys k SET revoked_at = now() WHERE k.id = p_key_id AND k.revoked_at IS NULL;
                RETURN FOUND;
            END $$",
        mends: "UPDATE stellar.api_keys SET revoked_at = NULL",
        told_by: REVOKE.name,
    },
    Fault {
        breaks: "CREATE OR REPLACE FUNCTION stellar.key_rotate(p_user_id uuid, p_key_id uuid, p_hash bytea, p_prefix text,
                p_expires_at timestamptz, p_overlap interval, p_by_key uuid, p_by_agent text)
                RETURNS TABLE (id uuid, agent text, expires_at timestamptz, old_expires_at timestamptz)
                LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
            AS $$ BEGIN
                RETURN QUERY UPDATE stellar.api_keys k SET expires_at = now() + interval '1 day' WHERE k.id = p_key_id
                    RETURNING k.id, k.agent, k.expires_at, k.expires_at;
            END $$",
        mends: "UPDATE stellar.api_keys SET expires_at = NULL",
        told_by: ROTATE.name,
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn a_weakened_system_is_told_by_the_probe_that_meets_it() {
    let ground = Ground::prepare().await;
    let functions = ground.plane.functions().await.unwrap();
    // Every probe by both attackers.
    let once = PROBES.len() * 4;

    // A policy that lets everything through is not enough for a leak: the engine's statements name the tenant too.
    administer(&ground.plane, "CREATE POLICY leak ON stellar.memories FOR SELECT USING (true)").await;
    let findings = ground.sweep(once).await;
    assert!(findings.is_empty(), "{findings:#?}");
    administer(&ground.plane, "DROP POLICY leak ON stellar.memories").await;

    for fault in FAULTS {
        administer(&ground.plane, fault.breaks).await;
        let mut findings = ground.sweep(once).await;
        findings.extend(ground.reuse_if_it_can_be_stored(fault).await);
        let told = findings.iter().find(|finding| finding.probe == fault.told_by);
        let told = told.unwrap_or_else(|| panic!("not told by {}, but: {findings:#?}", fault.told_by));
        let shown: String = told.what.chars().take(100).collect();
        println!("{} findings, such as {}: {shown}", findings.len(), told.probe);
        administer(&ground.plane, &format!("{}; {functions}", fault.mends)).await;
    }
}

impl Ground {
    /// A view in the place of a table takes no rows.
    async fn reuse_if_it_can_be_stored(&self, fault: &Fault) -> Vec<Finding> {
        if fault.breaks.contains("VIEW") {
            return Vec::new();
        }
        let mut findings = self.reuse_operations().await;
        findings.extend(self.reuse_ids().await);
        findings
    }

    /// Pairs of times, in random order within each pair.
    async fn time(&self, attacker: &Attacker, probe: &Probe, pairs: usize) -> Vec<Sample> {
        let mut samples = Vec::with_capacity(pairs * 2);
        for n in 0..pairs {
            let things = &self.things[n % self.things.len()];
            let foreign_first = uuid::Uuid::new_v4().as_bytes()[0].is_multiple_of(2);
            let mut statuses = Vec::with_capacity(2);
            for foreign in [foreign_first, !foreign_first] {
                let thing = if foreign { &things.0 } else { &things.1 };
                let request = (probe.request)(attacker, thing);
                let began = Instant::now();
                let response = request.send().await.unwrap();
                statuses.push(response.status());
                response.bytes().await.unwrap();
                samples.push(Sample { nanos: began.elapsed().as_nanos() as u64, foreign });
            }
            assert_eq!(statuses[0], statuses[1], "{}", probe.name);
        }
        samples
    }
}

/// Few pairs bear a loose bound alone, which a longer delay must exceed all the same; the whole run, on a machine that does
/// nothing else, a tight one.
#[tokio::test(flavor = "multi_thread")]
async fn time_tells_no_foreign_id_from_one_that_never_was() {
    let ground = Ground::prepare().await;
    let pairs = tries(100, 20_000);
    // Every other pair is judged.
    let (bound, delay) = if tries(0, 1) == 1 { (GUESSING, 0.0003) } else { (guessing(pairs / 2), 0.03) };
    let attackers = || ["pooled", "dedicated"].into_iter().zip(&ground.attackers);
    let mut found = Vec::new();
    for probe in [&FORGET, &READ, &UPDATE, &BATCH, &REVOKE, &ROTATE, &LIST, &TIMELINE] {
        for (kind, attacker) in attackers() {
            let accuracy = accuracy(&ground.time(attacker, probe, pairs).await);
            let (name, percent) = (probe.name, accuracy * 100.0);
            println!("{name}, {kind}: the best threshold is right {percent:.2} % of the time ({pairs} pairs)");
            found.push((name, kind, accuracy));
        }
    }
    // A foreign id that takes longer must be seen, or seeing none would mean nothing.
    administer(
        &ground.plane,
        &format!(
            "CREATE FUNCTION public.slower() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
                IF EXISTS (SELECT FROM stellar.memories m WHERE m.id = (NEW.answer ->> 'id')::uuid) THEN
                    PERFORM pg_sleep({delay});
                END IF;
                RETURN NEW;
             END $$;
             CREATE TRIGGER slower AFTER INSERT ON stellar.operations FOR EACH ROW EXECUTE FUNCTION public.slower()"
        ),
    )
    .await;
    for (kind, attacker) in attackers() {
        let slower = accuracy(&ground.time(attacker, &FORGET, pairs).await);
        println!("{kind}, slowed down by {delay} s: right {:.2} % of the time", slower * 100.0);
        assert!(slower > bound, "the distinguisher sees nothing, {kind}: {slower}, within {bound}");
    }
    assert!(found.iter().all(|(_, _, accuracy)| *accuracy <= bound), "not within {bound}: {found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_tells_of_the_attackers_own_changes_alone() {
    let ground = Ground::prepare().await;
    let victim = ground.newcomer().await;
    for attacker in &ground.attackers {
        for round in 0..tries(3, 200) {
            let known = attacker.client.get("/stats").await.unwrap().body["change_seq"].as_i64().unwrap();
            let stream = attacker.client.request(Method::GET, "/events").send().await.unwrap();
            victim.client.store(&format!("the victim's {round}")).await.unwrap();
            let own = attacker.client.store(&format!("the attacker's {round}")).await.unwrap();
            let event = read(stream, known + 1).await;
            assert!(event.text.contains(&format!("id: {}\n", known + 1)), "{}", event.text);
            assert!(event.text.contains(own.body["id"].as_str().unwrap()), "{}", event.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_hang_up_leave_no_transaction_open_for_the_next() {
    let ground = Ground::prepare().await;
    let attacker = &ground.attackers[0];
    let requests = (0..tries(600, 10_000) as u64).map(|n| async move {
        // From at once to after the answer.
        let patience = Duration::from_micros(n % 30 * 100);
        let request = if n % 2 == 0 { "/events" } else { "/timeline" };
        let _ = tokio::time::timeout(patience, attacker.client.get(request)).await;
        let wrote = attacker.client.delete(&format!("/forget/{}", uuid::Uuid::new_v4())).await.unwrap();
        assert_eq!(wrote.status, 404, "{}", wrote.text);
    });
    stream::iter(requests).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    assert!(!ground.plane.engine.log().contains("already a transaction in progress"));
}
