//! The attackers, and what other tenants have that an attacker could name: each thing with a twin of the same form that
//! never was anybody's.

use std::collections::HashSet;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::future::join_all;
use harness::{Answer, Client, DataPlane, Program, Tenant, TenantSpec, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

/// In every text of a victim that could come back. Of letters and digits, so that an agent may be called so.
pub const MARKER: &str = "zyxmarker7q";
const VICTIMS: usize = 3;
const THINGS: usize = 8;
/// And so the number of an attacker's last change.
pub const OWN_MEMORIES: i64 = 9;
const UNLIMITED: TenantSpec = TenantSpec {
    tier: "promax",
    max_memories: -1,
    requests_per_minute: 100_000_000,
    max_agents: -1,
    max_api_keys: -1,
    max_sockets: -1,
    socket_messages_per_second: 100_000,
};

pub struct Ground {
    pub plane: DataPlane,
    /// One in the pool, one with an engine of its own.
    pub attackers: Vec<Attacker>,
    /// What is a victim's, and the twin that never was.
    pub things: Vec<(Thing, Thing)>,
    /// Ids that only victims' answers may hold.
    foreign: HashSet<String>,
    victims: Vec<Tenant>,
    _own_engine: Program,
}

/// A tenant that names what it should not.
pub struct Attacker {
    pub tenant: Tenant,
    pub client: Client,
    /// The engine that serves it, for whoever reaches that past the gateway.
    pub engine: Client,
    pub capability: String,
}

/// What a tenant has.
#[derive(Clone)]
pub struct Thing {
    pub memory: Uuid,
    pub key: Uuid,
    /// The key that the operator manages.
    pub managed_key: Uuid,
    pub list_cursor: String,
    pub time_cursor: String,
    /// Of `/audit`.
    pub audit_cursor: String,
    pub key_cursor: String,
    /// An Idempotency-Key.
    pub operation: String,
    /// Larger than the number of any change of an attacker.
    pub seq: i64,
    /// When a memory happened, and no other tenant's.
    pub instant: String,
    /// A word of a memory, and of no other tenant's.
    pub word: String,
    pub tenant: Uuid,
    pub capability: String,
}

impl Thing {
    /// Of the same form in every part, and never anybody's.
    fn twin(&self, n: usize) -> Self {
        Self {
            memory: beside(self.memory),
            key: Uuid::new_v4(),
            managed_key: Uuid::new_v4(),
            list_cursor: with_last_16(&self.list_cursor),
            time_cursor: with_last_16(&self.time_cursor),
            audit_cursor: with_last_16(&self.audit_cursor),
            key_cursor: format!("{}{}", &self.key_cursor[..16], Uuid::new_v4().simple()),
            operation: Uuid::new_v4().to_string(),
            seq: self.seq + 1_000,
            instant: format!("2007-01-01T00:00:00.{n:06}Z"),
            word: Uuid::new_v4().simple().to_string(),
            tenant: Uuid::new_v4(),
            capability: random_capability(),
        }
    }

    /// Every text of it that an answer may repeat.
    pub fn texts(&self) -> Vec<String> {
        let ids = [self.memory, self.key, self.managed_key, self.tenant];
        let mut texts: Vec<String> = ids.iter().map(Uuid::to_string).collect();
        texts.extend(ids.iter().map(|id| id.to_string().to_uppercase()));
        texts.extend(ids.iter().map(|id| id.simple().to_string()));
        texts.extend(
            [&self.list_cursor, &self.time_cursor, &self.audit_cursor, &self.key_cursor, &self.operation, &self.word]
                .map(String::clone),
        );
        texts
    }
}

/// The same time in it, other random bits.
fn beside(id: Uuid) -> Uuid {
    let (mut bytes, random) = (*id.as_bytes(), Uuid::new_v4());
    bytes[9..].copy_from_slice(&random.as_bytes()[9..]);
    Uuid::from_bytes(bytes)
}

/// A cursor at the same place of the list, whose id (its last 16 bytes) is another.
fn with_last_16(cursor: &str) -> String {
    let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).unwrap();
    let at = bytes.len() - 16;
    let id = Uuid::from_slice(&bytes[at..]).unwrap();
    bytes[at..].copy_from_slice(beside(id).as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn random_capability() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

impl Ground {
    pub async fn prepare() -> Self {
        let plane = DataPlane::start().await.unwrap();
        let (pooled, dedicated) = (tenant(&plane, "attacker-pooled").await, tenant(&plane, "attacker-dedicated").await);
        let own_engine = plane.dedicated_engine(&dedicated).await.unwrap();
        plane.place(&dedicated, Some(&own_engine), "30 s").await.unwrap();
        let attackers =
            vec![attacker(&plane, pooled, plane.engine.port).await, attacker(&plane, dedicated, own_engine.port).await];
        let mut ground = Self {
            plane,
            attackers,
            things: vec![],
            foreign: HashSet::new(),
            victims: vec![],
            _own_engine: own_engine,
        };
        for n in 0..VICTIMS {
            let victim = tenant(&ground.plane, &format!("victim-{MARKER}-{n}")).await;
            ground.plant(&victim, n).await;
            ground.victims.push(victim);
        }
        ground
    }

    /// Another attacker, who has done nothing yet.
    pub async fn newcomer(&self) -> Attacker {
        let tenant = tenant(&self.plane, "attacker-newcomer").await;
        attacker(&self.plane, tenant, self.plane.engine.port).await
    }

    async fn plant(&mut self, victim: &Tenant, number: usize) {
        let client = self.plane.client(victim);
        let made = client.post("/auth/api-keys", &json!({ "agent": MARKER })).await.unwrap();
        let marked = Client::new(&self.plane.url(), made.body["api_key"].as_str().unwrap());
        let managed_key = id(&client.get("/auth/api-keys?limit=1").await.unwrap().body["items"][0]["id"]);
        self.foreign.extend([managed_key.to_string(), victim.id.to_string()]);

        let mut parts = Vec::new();
        for n in 0..=THINGS {
            let key = id(&client.post("/auth/api-keys", &json!({ "agent": MARKER })).await.unwrap().body["id"]);
            let (operation, word) = (Uuid::new_v4().to_string(), Uuid::new_v4().simple().to_string());
            let instant = format!("2011-0{}-01T00:00:00.{n:06}Z", number + 1);
            let memory = json!({
                "content": format!("{MARKER} {word} is remembered"),
                "metadata": { "about": MARKER },
                "session": MARKER, "speaker": MARKER, "source": MARKER, "emotion": MARKER,
                "occurred_at": instant,
            });
            let stored = marked.request(Method::POST, "/store").header("idempotency-key", &operation).json(&memory);
            let stored = Answer::read(stored.send().await.unwrap()).await.unwrap();
            assert_eq!(stored.status, 201, "{}", stored.text);
            let memory = id(&stored.body["id"]);
            self.foreign.extend([memory.to_string(), key.to_string()]);
            parts.push((memory, key, operation, instant, word));
        }
        // One more than there are things: a page that ends at the last memory has no cursor.
        let lists = join_all((0..THINGS).map(|n| client_get(&client, format!("/memories?limit=1&offset={n}")))).await;
        let times = cursors(&client, "/timeline").await;
        let audits = cursors(&client, "/audit").await;
        let keys = cursors(&client, "/auth/api-keys").await;
        let seq = client.get("/stats").await.unwrap().body["change_seq"].as_i64().unwrap();
        for (n, (memory, key, operation, instant, word)) in parts.into_iter().take(THINGS).enumerate() {
            let thing = Thing {
                memory,
                key,
                managed_key,
                list_cursor: lists[n].body["next_cursor"].as_str().unwrap().to_owned(),
                time_cursor: times[n].clone(),
                audit_cursor: audits[n].clone(),
                key_cursor: keys[n].clone(),
                operation,
                seq: 7_000 + seq + n as i64,
                instant,
                word,
                tenant: victim.id.uuid(),
                capability: self.plane.master().capability(victim.id, 1).expose(),
            };
            let twin = thing.twin(number * THINGS + n);
            self.things.push((thing, twin));
        }
    }

    /// What in an answer only a victim should read, beyond what the request itself said.
    pub fn leak(&self, answer: &Answer, said: &[String]) -> Option<String> {
        let headers = answer.headers.values().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        headers.chain([answer.text.clone()]).find_map(|text| {
            let foreign = self.foreign.iter().find(|id| text.contains(*id) && !said.contains(id));
            if text.contains(MARKER) { Some(MARKER.to_owned()) } else { foreign.cloned() }
        })
    }

    /// A digest of all rows of the victims, the last use of keys aside.
    pub async fn victims_rows(&self) -> Vec<Option<String>> {
        let ids: Vec<Uuid> = self.victims.iter().map(|victim| victim.id.uuid()).collect();
        let mut superuser = self.plane.postgres.superuser("stellar").await.unwrap();
        let mut digests = Vec::new();
        for table in ["users", "usage", "memories", "changes", "operations", "audit", "api_keys"] {
            let id = if table == "users" { "id" } else { "user_id" };
            let digest = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
                "SELECT md5(string_agg((to_jsonb(t) - 'last_used_at')::text, '|' ORDER BY to_jsonb(t)::text))
                 FROM stellar.{table} t WHERE t.{id} = ANY ($1)"
            )));
            digests.push(digest.bind(&ids).fetch_one(&mut superuser).await.unwrap());
        }
        digests
    }
}

async fn tenant(plane: &DataPlane, name: &str) -> Tenant {
    let tenant = plane.tenant(&format!("{name}-{}", Uuid::new_v4().simple()), UNLIMITED).await.unwrap();
    let client = plane.client(&tenant);
    client.opens().await;
    tenant
}

async fn attacker(plane: &DataPlane, tenant: Tenant, engine: u16) -> Attacker {
    let client = plane.client(&tenant);
    eventually("the attacker is served", || async {
        (client.get("/stats").await.unwrap().status == 200).then_some(())
    })
    .await;
    for n in 0..OWN_MEMORIES {
        let memory =
            json!({ "content": format!("the attacker's own {n}"), "occurred_at": format!("2020-01-01T00:00:0{n}Z") });
        assert_eq!(client.post("/store", &memory).await.unwrap().status, 201);
    }
    let capability = plane.master().capability(tenant.id, 1).expose();
    Attacker { client, engine: Client::new(&format!("http://127.0.0.1:{engine}"), "unused"), capability, tenant }
}

async fn client_get(client: &Client, path: String) -> Answer {
    client.get(&path).await.unwrap()
}

/// The cursors of a list, one after each of the first items.
async fn cursors(client: &Client, list: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    while found.len() < THINGS {
        let after = found.last().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let page = client.get(&format!("{list}?limit=1{after}")).await.unwrap();
        found.push(page.body["next_cursor"].as_str().unwrap().to_owned());
    }
    found
}

fn id(value: &Value) -> Uuid {
    value.as_str().unwrap().parse().unwrap()
}
