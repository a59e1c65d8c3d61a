//! The servers: a database and two bystanders that all behaviours share, one at a time, and for each of them a pooled engine and
//! a gateway that have done nothing before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use attack::tries;
use harness::{Client, DataPlane, Program, Tenant, TenantSpec};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::{
    bystander::{self, Asked},
    table::Row,
    text,
    watch::{Held, peaks, resident},
};
use crate::ground::{self, Dice, administer};

/// The free tier.
pub const FREE: TenantSpec = TenantSpec {
    tier: "free",
    max_memories: 1000,
    requests_per_minute: 60,
    max_agents: 1,
    max_api_keys: 5,
    max_sockets: 5,
    socket_messages_per_second: 10,
};
/// How long a client may take nothing of its answer.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections to Postgres of a pooled engine.
pub const CONNECTIONS: i64 = 20;

/// MiB of a pooled engine for the indexes of all tenants; of one: a quarter.
pub fn index_memory() -> usize {
    tries(64, 256)
}

/// What all behaviours share.
struct Ground {
    plane: DataPlane,
    /// Bystanders, of which the first is pooled and the second has an engine of its own.
    bystanders: [Tenant; 2],
    own_engine: Program,
    writer: Tenant,
    /// As much as a free tenant may have.
    full: Tenant,
    functions: String,
}

/// How gateway and engine are started, and what an attacker's tier allows.
pub struct Setting {
    /// Begins the row in the table.
    pub name: &'static str,
    pub gateway: Vec<(&'static str, String)>,
    pub engine: Vec<(&'static str, String)>,
    pub attacker: TenantSpec,
    /// The pooled engine ends meanwhile, so that recalls of pooled tenants may fail.
    pub ends: bool,
}

/// See the module.
pub struct Stage {
    ground: &'static Ground,
    pub gateway: Program,
    pub engine: Mutex<Program>,
    pub engine_health: u16,
    engine_pid: Arc<AtomicU32>,
    setting: Setting,
    rest: [f64; 3],
    alone: [Asked; 2],
    _turn: MutexGuard<'static, ()>,
}

/// What a behaviour cost, and what is wrong so far.
pub struct Cost {
    pub gateway: Held,
    pub engine: Held,
    /// MiB.
    pub database: f64,
    pub found: Vec<String>,
}

impl Default for Setting {
    fn default() -> Self {
        let all = index_memory();
        Self { name: "", gateway: Vec::new(), engine: Vec::new(), attacker: FREE, ends: false }
            .gateway("--write-timeout", &WRITE_TIMEOUT.as_secs().to_string())
            .engine("--index-memory", &format!("{all}Mi"))
            .engine("--index-memory-per-tenant", &format!("{}Mi", all / 4))
    }
}

impl Setting {
    /// With a bound switched off.
    pub fn weakened(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    pub fn gateway(mut self, flag: &'static str, value: &str) -> Self {
        self.gateway.retain(|(set, _)| *set != flag);
        self.gateway.push((flag, value.to_owned()));
        self
    }

    pub fn engine(mut self, flag: &'static str, value: &str) -> Self {
        self.engine.retain(|(set, _)| *set != flag);
        self.engine.push((flag, value.to_owned()));
        self
    }
}

fn args<'a>(flags: &'a [(&'static str, String)]) -> Vec<&'a str> {
    flags.iter().flat_map(|(flag, value)| [*flag, value]).collect()
}

impl Ground {
    async fn prepare() -> Self {
        let mut plane = DataPlane::start().await.unwrap();
        // Each behaviour has its own. A second live gateway would have a part of every tenant's rate.
        plane.gateway.kill().unwrap();
        plane.engine.kill().unwrap();
        let spec = TenantSpec { max_memories: -1, ..TenantSpec::default() };
        let mut tenants = ground::tenants(&plane, "bystander", 3, spec).await;
        let (own, writer) = (tenants.remove(2), tenants.remove(1));
        let bystanders = [tenants.remove(0), own];
        let memories: Vec<String> = (0..bystander::MEMORIES).map(bystander::memory).collect();
        for bystander in &bystanders {
            plane.fill(bystander, &memories).await.unwrap();
        }
        let own_engine = plane.dedicated_engine(&bystanders[1]).await.unwrap();
        plane.place(&bystanders[1], Some(&own_engine), "1 s").await.unwrap();
        let full = plane.tenant("full", FREE).await.unwrap();
        let mut dice = Dice::new(13);
        let longest: Vec<String> = (0..1000).map(|_| text::words(&mut dice, text::LONGEST)).collect();
        plane.fill(&full, &longest).await.unwrap();
        let functions = plane.functions().await.unwrap();
        Self { plane, bystanders, own_engine, writer, full, functions }
    }
}

impl Stage {
    /// Waits for its turn and starts the programs.
    pub async fn start(setting: Setting) -> Self {
        static TURN: Mutex<()> = Mutex::const_new(());
        static GROUND: OnceCell<Ground> = OnceCell::const_new();
        let turn = TURN.lock().await;
        let ground = GROUND.get_or_init(Ground::prepare).await;
        // The behaviour before may have replaced functions. Its gateway was killed, and so did not say that it left.
        administer(&ground.plane, &ground.functions).await;
        administer(&ground.plane, "DELETE FROM stellar.gateways").await;
        let engine = ground.plane.another_engine(&args(&setting.engine)).await.unwrap();
        let gateway = ground.plane.gateway_to_with(&[&engine], &args(&setting.gateway)).await.unwrap();
        let (engine_health, engine_pid) = (engine.health_port, Arc::new(AtomicU32::new(engine.pid())));
        let mut stage = Self {
            ground,
            gateway,
            engine: Mutex::new(engine),
            engine_health,
            engine_pid,
            setting,
            rest: [0.0; 3],
            alone: [Asked::default(), Asked::default()],
            _turn: turn,
        };
        for bystander in &ground.bystanders {
            bystander::warm(&stage.client(bystander)).await;
        }
        stage.alone = stage.recall_alone().await;
        stage.rest = stage.pids().map(resident);
        stage
    }

    pub fn plane(&self) -> &'static DataPlane {
        &self.ground.plane
    }

    pub fn client(&self, tenant: &Tenant) -> Client {
        Client::new(&self.url(), &tenant.key)
    }

    /// The gateway's address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.gateway.port)
    }

    /// A tenant that has nothing yet, known to the gateway.
    pub async fn attacker(&self, name: &str) -> (Tenant, Client) {
        let tenant = self.plane().tenant(name, self.setting.attacker).await.unwrap();
        let client = self.client(&tenant);
        client.opens().await;
        (tenant, client)
    }

    /// A free tenant with 1,000 memories of 10,000 characters.
    pub fn full(&self) -> &'static Tenant {
        &self.ground.full
    }

    /// Notes that the engine was started again.
    pub async fn engine_began(&self) {
        self.engine_pid.store(self.engine.lock().await.pid(), Ordering::Relaxed);
    }

    fn pids(&self) -> [u32; 3] {
        [self.gateway.pid(), self.engine_pid.load(Ordering::Relaxed), self.ground.own_engine.pid()]
    }

    async fn recall_alone(&self) -> [Asked; 2] {
        let (stop, asking) = self.bystand();
        tokio::time::sleep(Duration::from_millis(tries(500, 5_000) as u64)).await;
        stop.store(true, Ordering::Relaxed);
        let [pooled, own] = asking;
        let asked = [pooled.await.unwrap(), own.await.unwrap()];
        assert!(asked.iter().all(|asked| asked.failed.is_empty()), "{:?} {:?}", asked[0].failed, asked[1].failed);
        asked
    }

    fn bystand(&self) -> (Arc<AtomicBool>, [tokio::task::JoinHandle<Asked>; 2]) {
        let stop = Arc::new(AtomicBool::new(false));
        let asking = [0, 1].map(|n| {
            let client = self.client(&self.ground.bystanders[n]);
            tokio::spawn(bystander::recall(client, stop.clone()))
        });
        (stop, asking)
    }

    /// Carries a behaviour out before everybody's eyes, prints its row, and returns what it cost.
    pub async fn endure<T>(&self, what: &str, behaviour: impl Future<Output = T>) -> (Cost, T) {
        let before = self.database().await;
        let (stop, [pooled, own]) = self.bystand();
        let writer = self.client(&self.ground.writer);
        let writing = tokio::spawn(bystander::store(writer.clone(), stop.clone()));
        let watching = tokio::spawn({
            let (pid, others, stop) = (self.engine_pid.clone(), self.pids(), stop.clone());
            async move { peaks(|| [others[0], pid.load(Ordering::Relaxed), others[2]], &stop).await }
        });
        let outcome = behaviour.await;
        stop.store(true, Ordering::Relaxed);
        let (pooled, own) = (pooled.await.unwrap(), own.await.unwrap());
        let (acknowledged, peaks) = (writing.await.unwrap(), watching.await.unwrap());
        let database = (self.database().await - before).max(0.0);
        let lost = bystander::lost(&writer, &acknowledged).await;
        let [gateway, engine, own_engine] =
            [0, 1, 2].map(|program| Held { rest: self.rest[program], peak: peaks[program] });
        Row {
            what: &format!("{}{what}", self.setting.name),
            grown: [gateway, engine, own_engine].map(Held::grown),
            database,
            recalls: [[&self.alone[0].seconds, &pooled.seconds], [&self.alone[1].seconds, &own.seconds]],
            failed: pooled.failed.len() + own.failed.len(),
            lost: lost.len(),
        }
        .print();
        let mut found = lost;
        let mut failed = own.failed;
        if !self.setting.ends {
            failed.extend(pooled.failed);
        }
        found.extend(failed.iter().map(|answer| format!("{what}: a bystander's recall failed: {answer}")));
        if acknowledged.is_empty() {
            found.push(format!("{what}: no store of another tenant was acknowledged"));
        }
        (Cost { gateway, engine, database, found }, outcome)
    }

    /// MiB of the database.
    async fn database(&self) -> f64 {
        let bytes: i64 = ground::ask(self.plane(), "SELECT pg_database_size('stellar')").await;
        bytes as f64 / 1_048_576.0
    }
}

impl Cost {
    /// What is wrong, if so many connections were all that gateway and pooled engine had to bear.
    pub fn of_connections(self, connections: usize) -> Vec<String> {
        let Self { gateway, engine, mut found, .. } = self;
        found.extend(gateway.over_connections("gateway", connections));
        found.extend(engine.over_connections("pooled engine", connections));
        found
    }

    /// The same, if it was the memory of indexes.
    pub fn of_indexes(mut self) -> Vec<String> {
        self.found.extend(self.gateway.over_connections("gateway", 0));
        self.found.extend(self.engine.over("pooled engine", 1.5 * index_memory() as f64));
        self.found
    }
}
