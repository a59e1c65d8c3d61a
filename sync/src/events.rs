//! The same stream as server-sent events, to read only. Each event has the change's number as its id, so a client that
//! reconnects with `Last-Event-ID` misses nothing.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::{
    HeaderMap, HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use tenancy::TenantId;
use tokio::{sync::watch, time::sleep};

use crate::{
    Rooms, Service,
    room::{Slice, moved_from},
    rooms::{Kind, Seat},
    run::{Run, runs},
    wire,
};

const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The room's log cannot be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the memory store cannot be reached just now")]
pub struct EventsRefused;

/// Where a client that was here before goes on: `Last-Event-ID`.
///
/// # Errors
/// A sentence for the client, when it is no id of this stream.
pub fn resumed_from(headers: &HeaderMap) -> Result<Option<i64>, &'static str> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let id = id.to_str().ok().and_then(|text| text.parse::<i64>().ok()).filter(|id| *id >= 0);
    id.map(Some).ok_or("`Last-Event-ID` must be the id of an event of this stream")
}

impl<S: Service> Rooms<S> {
    /// A stream of the tenant's changes from `since` on, or from now.
    ///
    /// # Errors
    /// [`EventsRefused`].
    pub async fn events(
        &self,
        tenant: TenantId,
        member: S::Member,
        since: Option<i64>,
    ) -> Result<Response<Body>, EventsRefused> {
        let seat = self.0.enter(tenant, member, Kind::Stream, None).map_err(|_| EventsRefused)?;
        let start = seat.room.start().await.ok_or(EventsRefused)?;
        let last = seat.room.watch();
        let follower = Follower { place: since.unwrap_or(start), rooms: self.clone(), seat, last };
        // The first bytes go at once: the client knows that it is connected.
        let begin = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b": connected\n\n"))]);
        let events = stream::unfold(follower, |mut follower| async move {
            let bytes = follower.next().await?;
            Some((Ok::<_, Infallible>(bytes), follower))
        });
        let mut response = Response::new(Body::from_stream(futures::StreamExt::chain(begin, events)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Ok(response)
    }
}

struct Follower<S: Service> {
    rooms: Rooms<S>,
    seat: Seat<S>,
    last: watch::Receiver<Option<i64>>,
    place: i64,
}

impl<S: Service> Follower<S> {
    /// The next events; `None`: the stream ends, and the client reconnects if it may.
    async fn next(&mut self) -> Option<Bytes> {
        let rooms = Arc::clone(&self.rooms.0);
        loop {
            let place = self.place;
            match self.seat.room.after(place) {
                Slice::Runs(runs) => return Some(self.tell(&runs)),
                Slice::Elsewhere => match rooms.clone().read_log(self.seat.room.tenant(), place).await {
                    Some(page) if page.resync => {
                        rooms.metrics.resyncs.inc();
                        self.place = page.seq;
                        let mut event = Vec::new();
                        put_event(&mut event, page.seq, "resync", wire::resync(page.seq).as_bytes());
                        return Some(event.into());
                    }
                    Some(page) if !page.changes.is_empty() => return Some(self.tell(&runs(page.changes))),
                    Some(_) | None => {}
                },
                Slice::Current => tokio::select! {
                    moved = moved_from(&mut self.last, place) => if !moved {
                        return None;
                    },
                    () = sleep(KEEP_ALIVE) => return Some(Bytes::from_static(b": \n\n")),
                    () = self.seat.ended.cancelled() => return None,
                    () = rooms.leaving.cancelled() => return None,
                },
            }
        }
    }

    fn tell(&mut self, runs: &[Run]) -> Bytes {
        if let Some(last) = runs.last() {
            self.place = last.last();
        }
        self.rooms.0.metrics.changes.inc_by(runs.iter().map(|run| run.count() as u64).sum());
        let mut events = Vec::with_capacity(runs.iter().map(Run::size).sum());
        for (seq, json) in runs.iter().flat_map(Run::changes) {
            put_event(&mut events, seq, "change", json);
        }
        events.into()
    }
}

/// JSON has no line break of its own, so it is one line of data.
fn put_event(events: &mut Vec<u8>, id: i64, name: &str, data: &[u8]) {
    events.extend_from_slice(format!("id: {id}\nevent: {name}\ndata: ").as_bytes());
    events.extend_from_slice(data);
    events.extend_from_slice(b"\n\n");
}
