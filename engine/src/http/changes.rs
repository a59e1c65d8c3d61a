//! `GET /internal/v1/changes`: the tenant's log from a place on, or the wait for it to grow. What rooms follow; no route of
//! the gateway's leads here.

use std::{collections::HashMap, time::Duration};

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::value::RawValue;
use sync::Changes;
use tenancy::ProblemType;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::{Api, ApiError, params::Params, tenant_request::TenantRequest, view::MemoryView};
use crate::store::{Access, Caller, Change, ChangeOp, TenantTx};

/// Changes in one answer.
const PAGE: i64 = 256;
/// Bytes of the memories in one answer, as they are without escapes. What passes them ends it.
const PAGE_BYTES: usize = 512 * 1024;
/// So few changes pass them never: a memory has less than 70 KB.
const NOT_MEASURED: usize = 7;
/// The longest wait for news.
pub(super) const WAIT_MOST: Duration = Duration::from_mins(1);
/// Where it is.
pub(super) const ROUTE: &str = "/internal/v1/changes";

/// What the log has after `since`; nothing there: waits up to `wait_ms` for it. Without `since`: where it ends.
pub(super) async fn changes(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    mut params: Params,
) -> Result<Response, ApiError> {
    let since = params.number("since", 0, i64::MAX)?;
    let wait = params.number("wait_ms", 0, WAIT_MOST.as_millis() as i64)?.unwrap_or(0);
    params.nothing_else()?;
    let page = read_or_wait(&api, &caller, since, Duration::from_millis(wait as u64)).await?;
    let json = page.to_json().map_err(|_| broken())?;
    let json_type = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json_type)], json).into_response())
}

/// See [`changes`].
pub(super) async fn read_or_wait(
    api: &Api,
    caller: &Caller,
    since: Option<i64>,
    wait: Duration,
) -> Result<Changes, ApiError> {
    let until = Instant::now() + wait;
    let mut watch = api.logs.watch(caller);
    loop {
        if since.is_none_or(|since| !watch.ends_at(since)) {
            let page = read(api, caller, since).await?;
            watch.read(page.seq);
            if page.resync || !page.changes.is_empty() || since.is_none() {
                return Ok(page);
            }
        }
        let place = since.unwrap_or(0);
        tokio::select! {
            () = watch.passes(place) => {}
            () = sleep_until(until) => return Ok(Changes { seq: place, ..Changes::default() }),
            // This engine ends: whoever waits goes on at another.
            () = api.closing.cancelled() => return Ok(Changes { seq: place, ..Changes::default() }),
        }
    }
}

async fn read(api: &Api, caller: &Caller, since: Option<i64>) -> Result<Changes, ApiError> {
    let mut tx = api.store.begin(caller, Access::Read).await?;
    let seq = tx.usage().change_seq;
    let page = match since {
        None => Changes { seq, ..Changes::default() },
        Some(since) if since == seq => Changes { seq, ..Changes::default() },
        Some(since) if since > seq => Changes { seq, resync: true, ..Changes::default() },
        Some(since) => {
            let mut changes = tx.changes(since + 1, PAGE).await?;
            if changes.first().is_some_and(|first| first.seq == since + 1) {
                if changes.len() > NOT_MEASURED {
                    let sizes = tx.sizes(&memories_of(&changes)).await?;
                    changes.truncate(fitting(&changes, &sizes));
                }
                let changes = with_memories(&mut tx, &changes).await?;
                Changes { seq, changes, resync: false }
            } else {
                Changes { seq, resync: true, ..Changes::default() }
            }
        }
    };
    tx.commit().await?;
    Ok(page)
}

fn broken() -> ApiError {
    ApiError::new(ProblemType::Internal, "the change log could not be written as JSON; the fault is on our side")
}

#[derive(Serialize)]
struct ChangeView<'a> {
    r#type: &'static str,
    seq: i64,
    op: &'static str,
    id: Uuid,
    agent: Option<&'a str>,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<&'a RawValue>,
}

/// The memories that changes tell of, save by a removal alone.
fn memories_of(changes: &[Change]) -> Vec<Uuid> {
    let mut ids: Vec<Uuid> =
        changes.iter().filter(|change| change.op != ChangeOp::Remove).map(|change| change.memory).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Counts the changes that go into one answer: at least one, and a memory as often as changes tell of it.
fn fitting(changes: &[Change], sizes: &HashMap<Uuid, usize>) -> usize {
    let mut filled = 0;
    let fits = |change: &&Change| {
        let before = filled;
        filled += sizes.get(&change.memory).copied().unwrap_or(0);
        before < PAGE_BYTES
    };
    changes.iter().take_while(fits).count()
}

/// Each change as clients read it, with the memory as it is now.
async fn with_memories(tx: &mut TenantTx, changes: &[Change]) -> Result<Vec<sync::Change>, ApiError> {
    let ids = memories_of(changes);
    let rows = if ids.is_empty() { Vec::new() } else { tx.fetch(&ids).await? };
    let now = OffsetDateTime::now_utc();
    let mut memories: HashMap<Uuid, Box<RawValue>> = HashMap::with_capacity(rows.len());
    for memory in rows {
        let (id, view) = (memory.id, MemoryView::new(memory, None, now));
        memories.insert(id, serde_json::value::to_raw_value(&view).map_err(|_| broken())?);
    }
    let view = |change: &Change| {
        let Change { seq, op, memory, agent, at } = change;
        let view = ChangeView {
            r#type: "change",
            seq: *seq,
            op: op.as_str(),
            id: *memory,
            agent: agent.as_deref(),
            at: *at,
            memory: memories.get(memory).map(|memory| &**memory),
        };
        let json = serde_json::to_string(&view).map_err(|_| broken())?;
        Ok(sync::Change { seq: *seq, json })
    };
    changes.iter().map(view).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(seq: i64, memory: u128) -> Change {
        let at = OffsetDateTime::UNIX_EPOCH;
        Change { seq, op: ChangeOp::Update, memory: Uuid::from_u128(memory), agent: None, at }
    }

    #[test]
    fn page_ends_where_its_bytes_are_full() {
        let of = |sizes: &[(u128, usize)]| sizes.iter().map(|(id, size)| (Uuid::from_u128(*id), *size)).collect();
        let each: Vec<Change> = (1..=4).map(|n| change(n, n as u128)).collect();
        assert_eq!(fitting(&each, &of(&[(1, 100), (2, 100), (4, 100)])), 4);
        assert_eq!(fitting(&each, &of(&[(1, PAGE_BYTES), (2, 100)])), 1);
        assert_eq!(fitting(&each, &of(&[(1, PAGE_BYTES - 1), (2, 3 * PAGE_BYTES), (3, 1)])), 2);
        let one: Vec<Change> = (1..=256).map(|n| change(n, 1)).collect();
        assert_eq!(fitting(&one, &of(&[(1, PAGE_BYTES / 16)])), 16, "each change tells it again");
    }
}
