//! The servers of a run, and one tenant's clients in it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use harness::{Answer, Client, DataPlane, Program, Tenant, TenantSpec, eventually};
use sqlx::{Connection as _, Row as _};
use tokio::{sync::watch, task::JoinHandle};
use uuid::Uuid;

use super::{
    Size,
    book::{Book, Writer},
    check::History,
    events,
    follower::{Follower, export},
    network::Link,
    record::{self, AGENTS, Entry, Kind, Memory, Shown, shown},
    rest, socket,
};
use crate::ground::administer;

const ROOMY: TenantSpec = TenantSpec {
    tier: "free",
    max_memories: -1,
    requests_per_minute: i32::MAX,
    max_agents: -1,
    max_api_keys: -1,
    max_sockets: -1,
    socket_messages_per_second: 1_000_000,
};
/// Memories that every engine is asked for in the end.
const RECALLS: usize = 30;
/// The first links are of these; the last two of them only follow.
const WRITING_SOCKETS: usize = 2;
const FOLLOWERS: usize = 4;
const AT_ONCE: [&str; 2] = ["--pre-stop-lag", "0s"];

/// Three pooled engines, and gateways to one, to two and to all of them; own engines of tenants that were moved once.
pub struct Stage {
    pub plane: DataPlane,
    pub engines: Vec<Program>,
    pub gateways: Vec<Program>,
    pub own: HashMap<Uuid, Program>,
}

/// A tenant and all its clients.
pub struct Company {
    pub tenant: Tenant,
    pub book: Arc<Book>,
    pub links: Vec<Link>,
    goal: watch::Sender<Option<usize>>,
    followers: Vec<JoinHandle<Follower>>,
    requesters: Vec<JoinHandle<()>>,
}

impl Stage {
    pub async fn prepare() -> Self {
        let plane = DataPlane::start_with(&[], &AT_ONCE).await.unwrap();
        let engines = vec![plane.another_engine(&[]).await.unwrap(), plane.another_engine(&[]).await.unwrap()];
        administer(&plane, "CREATE TABLE public.pruned (LIKE stellar.changes)").await;
        let all = [&plane.engine, &engines[0], &engines[1]];
        let gateways = vec![
            plane.gateway_to_with(&all, &AT_ONCE).await.unwrap(),
            plane.gateway_to_with(&all[1..], &AT_ONCE).await.unwrap(),
        ];
        Self { plane, engines, gateways, own: HashMap::new() }
    }

    /// Prunes all but the newest entries of every log, which are kept for the checker.
    pub async fn prune(&self) {
        let prune = "WITH gone AS (
                DELETE FROM stellar.changes c USING stellar.usage u
                WHERE u.user_id = c.user_id AND c.seq < u.change_seq - 20 RETURNING c.*)
            INSERT INTO public.pruned SELECT * FROM gone";
        administer(&self.plane, prune).await;
    }

    /// A tenant with its part of the operations, and the clients that ask for them.
    pub async fn company(&self, name: &str, size: Size, seed: u64) -> Company {
        let tenant = self.plane.tenant(name, ROOMY).await.unwrap();
        let mut keys = Vec::new();
        for agent in AGENTS {
            keys.push(self.key(&tenant, agent).await);
        }
        let book = Arc::new(Book::new(size.operations.div_ceil(size.tenants)));
        let mut company = Company {
            tenant,
            book,
            links: Vec::new(),
            goal: watch::channel(None).0,
            followers: Vec::new(),
            requesters: Vec::new(),
        };
        let writer = |number: u8, agent: &str| Writer::new(number, record::agent(agent), seed + u64::from(number));
        let key = |agent: &str| keys[usize::from(record::agent(agent))].clone();
        for (number, agent) in [(0, "ada"), (1, "zoe")] {
            self.socket(&mut company, &key(agent), Some(writer(number, agent)), seed).await;
        }
        self.socket(&mut company, &key("moe"), None, seed).await;
        let follower = company.follower("an event stream", seed);
        let client = Client::new(&self.link(&mut company).await, &key("bob"));
        company.followers.push(tokio::spawn(events::listen(client, follower)));
        for (number, agent) in [(2, "ada"), (3, "bob")] {
            let client = Client::new(&self.link(&mut company).await, &key(agent));
            let batches = rest::batches(client, company.book.clone(), writer(number, agent), size);
            company.requesters.push(tokio::spawn(batches));
        }
        let client = Client::new(&self.link(&mut company).await, &key("moe"));
        let singles = rest::singles(client, company.book.clone(), writer(4, "moe"), size);
        company.requesters.push(tokio::spawn(singles));
        company
    }

    /// A key of an agent, that opens everywhere.
    async fn key(&self, tenant: &Tenant, agent: &str) -> String {
        let made = eventually("a key is made", || async {
            let body = serde_json::json!({ "agent": agent });
            let made = self.plane.client(tenant).post("/auth/api-keys", &body).await.unwrap();
            (made.status == 201).then_some(made)
        })
        .await;
        let key = made.body["api_key"].as_str().or(made.body["key"].as_str()).unwrap().to_owned();
        for port in self.ports() {
            let client = Client::new(&format!("http://127.0.0.1:{port}"), &key);
            client.opens().await;
        }
        key
    }

    /// Of the gateways.
    pub fn ports(&self) -> Vec<u16> {
        self.gateways.iter().chain([&self.plane.gateway]).map(|gateway| gateway.port).collect()
    }

    async fn link(&self, company: &mut Company) -> String {
        let link = Link::to(self.ports(), company.links.len()).await;
        let url = link.url();
        company.links.push(link);
        url
    }

    async fn socket(&self, company: &mut Company, key: &str, writer: Option<Writer>, seed: u64) {
        let who = format!("a socket that {}", if writer.is_some() { "writes" } else { "listens" });
        let follower = company.follower(&who, seed);
        let (url, key) = (self.link(company).await, key.to_owned());
        let client = socket::Client { url, key, follower, writer, waiting: VecDeque::new() };
        company.followers.push(tokio::spawn(client.run()));
    }

    /// Waits until everything is answered and heard, and tells what happened.
    pub async fn end(&self, company: &mut Company, patience: Duration) -> (History, Vec<Follower>) {
        for requester in company.requesters.drain(..) {
            requester.await.unwrap();
        }
        let mut history = History::default();
        (history.log, history.times) = self.rows(company, &mut history.held).await;
        company.goal.send_replace(Some(history.log.len()));
        let mut followers = Vec::new();
        for follower in company.followers.drain(..) {
            let heard = tokio::time::timeout(patience, follower).await.expect("every follower hears everything");
            followers.push(heard.unwrap());
        }
        history.heard = followers.iter_mut().map(|one| std::mem::take(&mut one.heard)).collect();
        self.exports(company, &mut history.held).await;
        (history.ops, history.noticed) = company.book.close();
        (history, followers)
    }

    /// What every engine that serves the tenant exports, and every gateway.
    async fn exports(&self, company: &Company, held: &mut Vec<(String, HashMap<u32, Shown>)>) {
        let tenant = &company.tenant;
        if let Some(own) = self.own.get(&tenant.id.uuid()) {
            self.plane.admit(tenant).await.unwrap();
            own.ready().await;
            self.plane.place(tenant, Some(own), "0 s").await.unwrap();
            held.push(("its own engine".to_owned(), exported(&self.plane.gateway, tenant).await));
            self.plane.place(tenant, None, "0 s").await.unwrap();
        }
        for (number, engine) in [&self.plane.engine].into_iter().chain(&self.engines).enumerate() {
            let gateway = self.plane.gateway_to(&[engine]).await.unwrap();
            held.push((format!("pooled engine {number}"), exported(&gateway, tenant).await));
            self.recalls(company, &gateway, &held[0].1).await;
        }
        for (number, gateway) in self.gateways.iter().chain([&self.plane.gateway]).enumerate() {
            held.push((format!("gateway {number}"), exported(gateway, tenant).await));
        }
    }

    /// What an engine finds by its index must be what Postgres has.
    async fn recalls(&self, company: &Company, gateway: &Program, rows: &HashMap<u32, Shown>) {
        let client = Client::new(&format!("http://127.0.0.1:{}", gateway.port), &company.tenant.key);
        for (memory, row) in rows.iter().take(RECALLS) {
            let found = Answer::read(rest::recall(&client, row.content).send().await.unwrap()).await.unwrap();
            let found: Vec<Memory> = serde_json::from_str(&found.text).unwrap_or_default();
            let first = found.first().map(|found| (record::memory(found.id), found.shown()));
            if first != Some((*memory, *row)) {
                company.book.notice(format!("memory {memory}, {row:?}, is not recalled everywhere: {first:?}"));
            }
        }
    }

    /// The log, the times of last writes, and the memories, as Postgres has them at one moment.
    async fn rows(
        &self,
        company: &Company,
        held: &mut Vec<(String, HashMap<u32, Shown>)>,
    ) -> (Vec<Entry>, HashMap<u32, u32>) {
        let (id, mut superuser) = (company.tenant.id.uuid(), self.plane.postgres.superuser("stellar").await.unwrap());
        let mut tx = superuser.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
        let log = sqlx::query(
            "SELECT seq, op, memory_id, agent FROM (TABLE stellar.changes UNION ALL TABLE public.pruned) c WHERE user_id = $1 ORDER BY seq",
        );
        let mut entries = Vec::new();
        for row in log.bind(id).fetch_all(&mut *tx).await.unwrap() {
            let seq: i64 = row.get(0);
            if seq != entries.len() as i64 + 1 {
                company.book.notice(format!("the log has change {seq} in the place of {}", entries.len() + 1));
            }
            entries.push(Entry {
                kind: Kind::read(row.get(1)).unwrap(),
                memory: record::memory(row.get(2)),
                agent: row.get::<Option<&str>, _>(3).map_or(u8::MAX, record::agent),
                shown: None,
            });
        }
        let memories = sqlx::query(
            "SELECT id, content, (metadata->>'op')::bigint, importance, written_by,
                 CASE WHEN written_at < '2021-01-01' THEN extract(epoch FROM written_at - '2020-01-01')::bigint END
             FROM stellar.memories WHERE user_id = $1",
        );
        let (mut rows, mut times) = (HashMap::new(), HashMap::new());
        for row in memories.bind(id).fetch_all(&mut *tx).await.unwrap() {
            let memory = record::memory(row.get(0));
            rows.insert(memory, shown(row.get(1), row.get::<i64, _>(2) as u32, row.get(3), row.get(4)));
            if let Some(at) = row.get::<Option<i64>, _>(5) {
                times.insert(memory, at as u32);
            }
        }
        held.push(("Postgres".to_owned(), rows));
        (entries, times)
    }
}

impl Company {
    /// The links of those that only follow.
    pub fn followers(&self) -> impl Iterator<Item = &Link> {
        self.links[WRITING_SOCKETS..FOLLOWERS].iter()
    }

    fn follower(&self, who: &str, seed: u64) -> Follower {
        let number = self.links.len();
        Follower::new(
            format!("{} {number} of {}", who, self.tenant.name),
            self.book.clone(),
            self.goal.subscribe(),
            seed.wrapping_add(number as u64 + 100),
        )
    }
}

/// What a replica exports.
async fn exported(gateway: &Program, tenant: &Tenant) -> HashMap<u32, Shown> {
    let client = Client::new(&format!("http://127.0.0.1:{}", gateway.port), &tenant.key);
    eventually("an export is whole", || export(&client)).await
}
