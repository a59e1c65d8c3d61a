//! What can go wrong, and does: by the numbers of a seed, so that a run can be had again, as far as machines can.

use std::{
    collections::{BTreeMap, HashSet, hash_map::Entry},
    time::{Duration, Instant},
};

use harness::{Program, eventually};
use uuid::Uuid;

use super::{
    network::{Link, To},
    stage::{Company, Stage},
};
use crate::ground::Dice;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Trouble {
    /// A client's connections break.
    Cut,
    /// A client's connections carry nothing for a while, and then everything.
    Stall,
    /// The same of many clients, whose connections then break.
    Partition,
    /// One direction of a client's connections ends.
    HalfClose,
    /// The log is pruned while followers are cut off, so that it no longer reaches back to them.
    Prune,
    /// An engine is killed, and started again.
    KillEngine,
    /// An engine leaves, or one that left comes back.
    Replica,
    KillGateway,
    /// A gateway ends as asked, and is started again.
    EndGateway,
    /// A tenant gets an engine of its own, or goes back to the pool.
    Move,
}

const ALL: [Trouble; 10] = [
    Trouble::Cut,
    Trouble::Stall,
    Trouble::Partition,
    Trouble::HalfClose,
    Trouble::Prune,
    Trouble::KillEngine,
    Trouble::Replica,
    Trouble::KillGateway,
    Trouble::EndGateway,
    Trouble::Move,
];

/// Changes that a gateway holds, about.
const HELD: usize = 2_000;

/// Makes trouble.
pub struct Maker {
    dice: Dice,
    deck: Vec<Trouble>,
    /// The engine that left.
    away: Option<usize>,
    /// Tenants that are in an engine of their own.
    placed: HashSet<Uuid>,
    pub made: BTreeMap<Trouble, usize>,
}

impl Maker {
    pub fn new(seed: u64) -> Self {
        Self { dice: Dice::new(seed), deck: Vec::new(), away: None, placed: HashSet::new(), made: BTreeMap::new() }
    }

    /// Makes trouble about so many times, until everything that is asked for is answered.
    pub async fn run(&mut self, stage: &mut Stage, companies: &[Company], operations: usize, times: usize) {
        let (mut next, step) = (0, operations / times.max(1));
        let settled = || companies.iter().map(|company| company.book.settled()).sum::<usize>();
        while settled() < operations {
            if times > 0 && settled() >= next {
                self.make(stage, companies).await;
                next = settled() + self.dice.roll(2 * step);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if self.away.is_some() {
            self.replica(stage).await;
        }
    }

    async fn make(&mut self, stage: &mut Stage, companies: &[Company]) {
        if self.deck.is_empty() {
            self.deck = ALL.to_vec();
        }
        let trouble = self.deck.swap_remove(self.dice.roll(self.deck.len()));
        *self.made.entry(trouble).or_default() += 1;
        match trouble {
            Trouble::Cut => self.link(companies).cut(),
            Trouble::Stall | Trouble::Partition => self.stall(companies, trouble == Trouble::Partition).await,
            Trouble::HalfClose => {
                let to = if self.dice.roll(2) == 0 { To::Server } else { To::Client };
                self.link(companies).close(to);
            }
            Trouble::Prune => self.prune(stage, companies).await,
            Trouble::KillEngine => self.kill_engine(stage).await,
            Trouble::Replica => self.replica(stage).await,
            Trouble::KillGateway => restart(self.gateway(stage), false).await,
            Trouble::EndGateway => restart(self.gateway(stage), true).await,
            Trouble::Move => self.relocate(stage, companies).await,
        }
    }

    fn link<'a>(&mut self, companies: &'a [Company]) -> &'a Link {
        let company = &companies[self.dice.roll(companies.len())];
        &company.links[self.dice.roll(company.links.len())]
    }

    async fn stall(&mut self, companies: &[Company], many: bool) {
        let links: Vec<_> = (0..if many { 4 } else { 1 }).map(|_| self.link(companies)).collect();
        for link in &links {
            link.stall();
        }
        // How long a network is away is the network's own choice.
        tokio::time::sleep(Duration::from_millis(50 + self.dice.roll(1_500) as u64)).await;
        for link in links {
            if many {
                link.cut();
            }
            link.heal();
        }
    }

    async fn prune(&mut self, stage: &Stage, companies: &[Company]) {
        let company = &companies[self.dice.roll(companies.len())];
        let (from, since) = (company.book.settled(), Instant::now());
        company.followers().for_each(Link::stall);
        // More than gateways hold of a log by themselves; the others go on meanwhile.
        while company.book.settled() < from + HELD && since.elapsed() < Duration::from_secs(4) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stage.prune().await;
        for link in company.followers() {
            link.cut();
            link.heal();
        }
    }

    async fn kill_engine(&mut self, stage: &mut Stage) {
        let away = self.away;
        let mut there: Vec<&mut Program> = vec![&mut stage.plane.engine];
        there.extend(stage.engines.iter_mut().enumerate().filter(|(n, _)| Some(*n) != away).map(|(_, engine)| engine));
        // One whose tenant is gone is not let in, and so never ready.
        there.extend(stage.own.iter_mut().filter(|(id, _)| self.placed.contains(*id)).map(|(_, engine)| engine));
        let place = self.dice.roll(there.len());
        restart(there.swap_remove(place), false).await;
    }

    async fn replica(&mut self, stage: &mut Stage) {
        if let Some(away) = self.away.take() {
            stage.engines[away].restart().unwrap();
            stage.engines[away].ready().await;
        } else {
            let leaves = self.dice.roll(stage.engines.len());
            end(&mut stage.engines[leaves]).await;
            self.away = Some(leaves);
        }
    }

    fn gateway<'a>(&mut self, stage: &'a mut Stage) -> &'a mut Program {
        let n = self.dice.roll(stage.gateways.len() + 1);
        stage.gateways.get_mut(n).unwrap_or(&mut stage.plane.gateway)
    }

    async fn relocate(&mut self, stage: &mut Stage, companies: &[Company]) {
        let tenant = &companies[self.dice.roll(companies.len())].tenant;
        let (id, drain) = (tenant.id.uuid(), if self.dice.roll(2) == 0 { "30 s" } else { "0 s" });
        if self.placed.remove(&id) {
            stage.plane.place(tenant, None, drain).await.unwrap();
            return;
        }
        if let Entry::Vacant(place) = stage.own.entry(id) {
            place.insert(stage.plane.dedicated_engine(tenant).await.unwrap());
        }
        stage.plane.admit(tenant).await.unwrap();
        stage.plane.place(tenant, stage.own.get(&id), drain).await.unwrap();
        self.placed.insert(id);
    }
}

async fn end(program: &mut Program) {
    program.terminate().unwrap();
    eventually("a program that was asked to ends", || {
        let ended = program.exited();
        async move { ended }
    })
    .await;
}

async fn restart(program: &mut Program, asked: bool) {
    if asked {
        end(program).await;
    } else {
        program.kill().unwrap();
    }
    program.restart().unwrap();
    program.ready().await;
}
