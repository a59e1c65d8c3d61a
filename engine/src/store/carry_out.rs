//! One transaction that carries out operations of one tenant, in order: those that are refused or decided against change
//! nothing, and take nothing from the others.
//!
//! Stores that follow one another are one statement. Each update and removal is a statement of its own, so that the log
//! has them in the order in which they were asked for.

use std::collections::HashMap;

use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Access, Caller, Once, Reason, Store, StoreError, TenantTx, What, Write, Written,
    answers::Given,
    rows::{Before, Insert, Known},
};
use crate::memory::{AnchoredScore, LastWrite, NewMemory, Patch, Standing, Zone, whole_microseconds};

/// An operation, and who asks for it.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) caller: &'a Caller,
    pub(super) write: &'a Write,
}

/// Carries out operations of callers with one capability. One result for each; an error of it all: nothing was changed,
/// unless it is undecided.
pub(super) async fn carry_out(
    store: &Store,
    asked: &[Asked<'_>],
) -> Result<Vec<Result<Written, StoreError>>, StoreError> {
    let Some(first) = asked.first() else { return Ok(Vec::new()) };
    let mut turn = Turn::begin(store, first.caller, asked).await?;
    let mut results = Vec::with_capacity(asked.len());
    for one in asked {
        results.push(turn.answer(*one).await?);
    }
    turn.end().await?;
    Ok(results)
}

/// The transaction, and what it knows.
struct Turn<'a> {
    tx: TenantTx,
    /// For scores, which no write is decided by.
    now: OffsetDateTime,
    /// The database's clock, where a decision needs it. Read once, and moved on by writes that it timed: what follows
    /// one of them is not earlier.
    clock: Option<OffsetDateTime>,
    /// The memories that the operations name, as they are after what was carried out so far.
    known: HashMap<Uuid, Known>,
    /// When memories that are to be stored were removed last.
    removed: HashMap<Uuid, OffsetDateTime>,
    given: HashMap<String, Given>,
    to_keep: Vec<(&'a Once, Written)>,
    /// Stored by the next statement, before anything else is done.
    pending: Vec<Insert<'a>>,
    memories: i64,
    limit: i64,
    #[expect(clippy::option_option, reason = "nothing before it was looked for; then perhaps that there is none")]
    next_tier: Option<Option<String>>,
    /// Whom the triggers take updates and removals to be of.
    attributed: &'a Caller,
}

impl<'a> Turn<'a> {
    async fn begin(store: &Store, first: &'a Caller, asked: &[Asked<'a>]) -> Result<Self, StoreError> {
        let mut tx = store.begin(first, Access::Write).await?;
        let names: Vec<&str> =
            asked.iter().filter_map(|one| one.write.once.as_ref()).map(|once| once.id.as_str()).collect();
        let given = if names.is_empty() { HashMap::new() } else { tx.answers(&names).await? };
        let ids: Vec<Uuid> = asked.iter().filter_map(|one| one.write.what.concerns()).collect();
        let (clock, known, removed) = if ids.is_empty() {
            (None, HashMap::new(), HashMap::new())
        } else {
            let new: Vec<Uuid> = asked.iter().filter_map(|one| one.write.stores()).collect();
            let Before { clock, known, removed } = tx.before(&ids, &new).await?;
            (Some(clock), known, removed)
        };
        let usage = tx.usage();
        Ok(Self {
            tx,
            now: OffsetDateTime::now_utc(),
            clock,
            known,
            removed,
            given,
            to_keep: Vec::new(),
            pending: Vec::new(),
            memories: i64::from(usage.memory_count),
            limit: i64::from(usage.memory_limit),
            next_tier: None,
            attributed: first,
        })
    }

    /// What becomes of one operation. The outer error ends the transaction.
    async fn answer(&mut self, asked: Asked<'a>) -> Result<Result<Written, StoreError>, StoreError> {
        let Asked { caller, write: Write { what, once } } = asked;
        if let Some(once) = once
            && let Some((hash, answer)) = self.given.get(&once.id)
        {
            let same = hash.as_slice() == once.request_hash;
            return Ok(if same { Ok(Written { replayed: true, ..*answer }) } else { Err(StoreError::KeyReused) });
        }
        let written = match what {
            What::Store(memory) => match self.store(caller, memory).await? {
                Ok(written) => written,
                Err(refused) => return Ok(Err(refused)),
            },
            What::Update { id, patch } => self.update(caller, *id, patch).await?,
            What::Remove { id, at } => self.remove(caller, *id, *at).await?,
        };
        if let Some(once) = once {
            self.given.insert(once.id.clone(), (once.request_hash.to_vec(), written));
            self.to_keep.push((once, written));
        }
        Ok(Ok(written))
    }

    async fn store(
        &mut self,
        caller: &'a Caller,
        memory: &'a NewMemory,
    ) -> Result<Result<Written, StoreError>, StoreError> {
        if memory.id.is_some_and(|id| self.known.contains_key(&id)) {
            return Ok(Err(StoreError::IdTaken));
        }
        let removed = memory.id.and_then(|id| Some((id, *self.removed.get(&id)?)));
        if let (Some((id, removed)), Some(at)) = (removed, memory.at)
            && whole_microseconds(at) <= removed
        {
            return Ok(Ok(Written::not(id, Reason::Removed)));
        }
        if self.limit >= 0 && self.memories >= self.limit {
            let next_tier = match &self.next_tier {
                Some(known) => known.clone(),
                None => self.next_tier.insert(self.tx.next_tier(self.limit).await?).clone(),
            };
            return Ok(Err(StoreError::QuotaReached { used: self.memories, limit: self.limit, next_tier }));
        }
        let anchored: AnchoredScore =
            Standing { recalls: 0, importance: memory.importance, context: 0.0, touched: self.now }.anchored();
        let score = anchored.at(self.now);
        let zone = Zone::by_score(score);
        let id = memory.id.unwrap_or_else(Uuid::now_v7);
        let agent = caller.agent.as_deref();
        if let Some(clock) = self.clock.filter(|_| memory.id.is_some()) {
            let last_write = LastWrite::first(memory.at, agent, clock);
            self.known.insert(id, Known { importance: memory.importance, zone, score: anchored, last_write });
        }
        let at = memory.at.map(whole_microseconds);
        self.pending.push(Insert { id, memory, agent, key: caller.key, zone, score: anchored, at });
        self.memories += 1;
        let seq = self.tx.seq() + self.pending.len() as i64;
        let (zone, score) = (Some(zone.number()), Some(score.value()));
        Ok(Ok(Written { id, zone, score, seq: Some(seq), reason: None, replayed: false }))
    }

    async fn update(&mut self, caller: &'a Caller, id: Uuid, patch: &Patch) -> Result<Written, StoreError> {
        let mut after = match self.decide(caller, id, patch.at) {
            Ok((known, last_write)) => Known { last_write, ..known },
            Err(reason) => return Ok(Written::not(id, reason)),
        };
        if let Some(importance) = patch.importance {
            after.score = after.score.with_importance(after.importance, importance);
            after.zone = Zone::by_score(after.score.at(self.now));
            after.importance = importance;
        }
        self.attribute(caller).await?;
        self.tx.update(id, patch, &after).await?;
        if patch.at.is_none() {
            self.clock = self.clock.max(Some(after.last_write.at));
        }
        let score = after.score.at(self.now);
        let zone = after.zone.max(Zone::by_score(score));
        self.known.insert(id, after);
        let (zone, score, seq) = (Some(zone.number()), Some(score.value()), Some(self.tx.seq()));
        Ok(Written { id, zone, score, seq, reason: None, replayed: false })
    }

    async fn remove(
        &mut self,
        caller: &'a Caller,
        id: Uuid,
        at: Option<OffsetDateTime>,
    ) -> Result<Written, StoreError> {
        let removed_at = match self.decide(caller, id, at) {
            Ok((_, last_write)) => last_write.at,
            Err(reason) => return Ok(Written::not(id, reason)),
        };
        self.attribute(caller).await?;
        self.known.remove(&id);
        if !self.tx.remove(id).await? {
            return Ok(Written::not(id, Reason::Removed));
        }
        self.memories -= 1;
        self.removed.insert(id, removed_at);
        Ok(Written { id, zone: None, score: None, seq: Some(self.tx.seq()), reason: None, replayed: false })
    }

    /// The memory before and its last write after this one, if this one wins.
    fn decide(&self, caller: &Caller, id: Uuid, at: Option<OffsetDateTime>) -> Result<(Known, LastWrite), Reason> {
        let (Some(known), Some(clock)) = (self.known.get(&id), self.clock) else { return Err(Reason::Removed) };
        let next = known.last_write.followed_by(at, caller.agent.as_deref(), clock).ok_or(Reason::Newer)?;
        Ok((known.clone(), next))
    }

    /// Before an update or a removal: what is pending comes first in the log, and the triggers learn whose it is.
    async fn attribute(&mut self, caller: &'a Caller) -> Result<(), StoreError> {
        self.flush().await?;
        if (&self.attributed.agent, self.attributed.key) != (&caller.agent, caller.key) {
            self.tx.attribute(caller).await?;
            self.attributed = caller;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        if !self.pending.is_empty() {
            self.tx.insert(&self.pending, self.clock).await?;
            self.pending.clear();
        }
        Ok(())
    }

    /// Commits, if there is anything to keep.
    async fn end(mut self) -> Result<(), StoreError> {
        self.flush().await?;
        if !self.to_keep.is_empty() {
            self.tx.keep_answers(&self.to_keep).await?;
        } else if self.tx.seq() == self.tx.usage().change_seq {
            return Ok(());
        }
        self.tx.commit().await
    }
}
