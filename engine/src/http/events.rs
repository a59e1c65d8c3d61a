//! `GET /events`: the tenant's changes as server-sent events.
//!
//! Each event has the change's number as its id, so a client that reconnects with `Last-Event-ID` misses nothing. Behind
//! what the log still holds, one event `resync` tells the client to read everything again.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::stream::{self, StreamExt as _};
use serde_json::json;
use time::format_description::well_known::Rfc3339;

use super::{Api, ApiError, params::Params, tenant_request::TenantRequest};
use crate::{
    memory::Invalid,
    store::{Access, Caller, Change, StoreError},
};

const POLL: Duration = Duration::from_secs(1);
const PAGE: i64 = 500;
/// Then the client reconnects: no stream outlives a capability or a placement for long.
const LONGEST: Duration = Duration::from_mins(15);

/// Where a stream stands.
struct Follower {
    api: Api,
    caller: Caller,
    last: i64,
}

/// Changes from `since` (or `Last-Event-ID`, or now) on.
pub(super) async fn events(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    let since = params.number("since", 0, i64::MAX)?;
    params.nothing_else()?;
    let resumed = match headers.get("last-event-id") {
        None => None,
        Some(id) => {
            let id = id.to_str().ok().and_then(|text| text.parse::<i64>().ok()).filter(|id| *id >= 0);
            Some(id.ok_or_else(|| Invalid::new("Last-Event-ID", "must be the id of an event of this stream"))?)
        }
    };
    let now = {
        let tx = api.store.begin(&caller, Access::Read).await?;
        let now = tx.usage().change_seq;
        tx.commit().await?;
        now
    };
    let closing = api.closing.clone();
    let follower = Follower { api, caller, last: resumed.or(since).unwrap_or(now) };
    let changes = stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        match follower.next_events().await {
            Ok(events) => Some((events, Some(follower))),
            // Not served here any more, or Postgres is away: the client reconnects and goes on where it was.
            Err(_) => None,
        }
    });
    let events = changes
        .flat_map(stream::iter)
        .map(Ok::<_, Infallible>)
        .take_until(closing.cancelled_owned())
        .take_until(tokio::time::sleep(LONGEST));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response())
}

impl Follower {
    /// Waits until there is something to tell.
    async fn next_events(&mut self) -> Result<Vec<Event>, StoreError> {
        loop {
            let mut tx = self.api.store.begin(&self.caller, Access::Read).await?;
            let wanted = tx.usage().change_seq;
            if wanted < self.last {
                self.last = wanted;
                return Ok(vec![resync(wanted)]);
            }
            let changes = if wanted > self.last { tx.changes(self.last + 1, PAGE).await? } else { Vec::new() };
            tx.commit().await?;
            if wanted > self.last && changes.first().is_none_or(|first| first.seq != self.last + 1) {
                self.last = wanted;
                return Ok(vec![resync(wanted)]);
            }
            if let Some(last) = changes.last() {
                self.last = last.seq;
                return Ok(changes.iter().map(event).collect());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn event(change: &Change) -> Event {
    let Change { seq, op, memory, agent, at } = change;
    let data = json!({ "seq": seq, "op": op.as_str(), "id": memory, "agent": agent, "at": at.format(&Rfc3339).ok() });
    Event::default().id(seq.to_string()).event("change").data(data.to_string())
}

fn resync(seq: i64) -> Event {
    Event::default().id(seq.to_string()).event("resync").data(json!({ "seq": seq }).to_string())
}
