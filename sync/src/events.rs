//! The same stream as server-sent events, to read only. Each event has the change's number as its id, so a client that
//! reconnects with `Last-Event-ID` misses nothing.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

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
    rooms::{Full, Kind, Seat},
    run::{RUN_BYTES, Run, runs},
    wire,
};

const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Why there is no stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EventsRefused {
    /// The room's log cannot be reached.
    #[error("the memory store cannot be reached just now")]
    NoLog,
    /// The tenant has as many sockets and streams as it may.
    #[error(transparent)]
    Full(#[from] Full),
}

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
    /// A stream of the tenant's changes from `since` on, or from now. It counts as one of the tenant's sockets.
    ///
    /// # Errors
    /// [`EventsRefused`].
    pub async fn events(
        &self,
        tenant: TenantId,
        member: S::Member,
        since: Option<i64>,
    ) -> Result<Response<Body>, EventsRefused> {
        let limit = self.0.service.limits(&member).sockets;
        let seat = self.0.enter(tenant, member.clone(), Kind::Stream, limit)?;
        let start = seat.room.start().await.ok_or(EventsRefused::NoLog)?;
        let last = seat.room.watch();
        let (place, ahead) = (since.unwrap_or(start), VecDeque::new());
        let follower = Follower { rooms: self.clone(), seat, member, last, place, ahead };
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
    member: S::Member,
    last: watch::Receiver<Option<i64>>,
    /// The last change that was read.
    place: i64,
    /// What was read and is not yet told: however much there is, it goes in pieces, before each of which the client's
    /// standing counts.
    ahead: VecDeque<Run>,
}

/// What a look at the log brings.
enum Looked {
    /// There may be something to tell.
    Again,
    /// An event that comes before all others.
    Event(Bytes),
    /// There is no room any more, or the server ends.
    End,
}

impl<S: Service> Follower<S> {
    /// The next events; `None`: the stream ends, and the client reconnects if it may.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.may_go_on() {
                return None;
            }
            if !self.ahead.is_empty() {
                return Some(self.piece());
            }
            match self.look().await {
                Looked::Again => {}
                Looked::Event(event) => return self.may_go_on().then_some(event),
                Looked::End => return None,
            }
        }
    }

    fn may_go_on(&self) -> bool {
        !self.rooms.0.leaving.is_cancelled() && self.seat.may_stay(&self.member)
    }

    /// Reads on, or waits until there is more.
    async fn look(&mut self) -> Looked {
        let (rooms, place) = (Arc::clone(&self.rooms.0), self.place);
        match self.seat.room.after(place) {
            Slice::Runs(runs) => self.read(runs),
            Slice::Elsewhere => tokio::select! {
                page = rooms.clone().read_log(self.seat.room.tenant(), place) => match page {
                    Some(page) if page.resync => {
                        rooms.metrics.resyncs.inc();
                        self.place = page.seq;
                        let mut event = Vec::new();
                        put_event(&mut event, page.seq, "resync", wire::resync(page.seq).as_bytes());
                        return Looked::Event(event.into());
                    }
                    Some(page) => self.read(runs(page.changes)),
                    None => {}
                },
                () = self.seat.ended.cancelled() => return Looked::End,
                () = rooms.leaving.cancelled() => return Looked::End,
            },
            Slice::Current => tokio::select! {
                moved = moved_from(&mut self.last, place) => if !moved {
                    return Looked::End;
                },
                () = sleep(KEEP_ALIVE) => return Looked::Event(Bytes::from_static(b": \n\n")),
                () = self.seat.ended.cancelled() => return Looked::End,
                () = rooms.leaving.cancelled() => return Looked::End,
            },
        }
        Looked::Again
    }

    fn read(&mut self, runs: Vec<Run>) {
        if let Some(last) = runs.last() {
            self.place = last.last();
        }
        self.ahead.extend(runs);
    }

    /// The next of what was read: a run, and as many more as are small.
    fn piece(&mut self) -> Bytes {
        let mut events = Vec::new();
        while let Some(run) = self.ahead.pop_front_if(|run| events.is_empty() || events.len() + run.size() <= RUN_BYTES)
        {
            self.rooms.0.metrics.changes.inc_by(run.count() as u64);
            events.reserve(run.size());
            for (seq, json) in run.changes() {
                put_event(&mut events, seq, "change", json);
            }
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

#[cfg(test)]
mod tests {
    use axum::body::BodyDataStream;
    use futures::StreamExt as _;
    use tenancy::LOCAL_TENANT;
    use tokio::time::timeout;

    use super::*;
    use crate::{
        Times,
        fake::{END, Fake},
    };

    /// Longer than anything that a test waits for.
    const PATIENCE: Duration = Duration::from_secs(40);

    async fn stream(rooms: &Rooms<Fake>, since: i64) -> BodyDataStream {
        rooms.events(LOCAL_TENANT, (), Some(since)).await.expect("a stream").into_body().into_data_stream()
    }

    async fn next(stream: &mut BodyDataStream) -> Option<Bytes> {
        timeout(PATIENCE, stream.next()).await.expect("something comes").map(|bytes| bytes.expect("bytes"))
    }

    #[tokio::test]
    async fn stream_behind_ends_with_its_key() {
        let service = Fake::default();
        let (rooms, _, _) = service.rooms(Times::default());
        let mut behind = stream(&rooms, 0).await;
        for _ in 0..10 {
            let piece = next(&mut behind).await.expect("there is more");
            assert!(piece.len() <= 2 * RUN_BYTES, "a piece of {} bytes", piece.len());
        }
        service.revoke();
        assert_eq!(next(&mut behind).await, None, "no piece follows");
    }

    #[tokio::test]
    async fn stream_behind_ends_when_the_server_does() {
        let (rooms, _, leaving) = Fake::default().rooms(Times::default());
        let mut behind = stream(&rooms, 0).await;
        next(&mut behind).await.expect("there is more");
        leaving.cancel();
        assert_eq!(next(&mut behind).await, None, "no piece follows");
    }

    #[tokio::test]
    async fn stream_at_rest_ends_with_its_key() {
        let service = Fake::default();
        let (rooms, metrics, _) = service.rooms(Times::default());
        let mut at_rest = stream(&rooms, END).await;
        next(&mut at_rest).await.expect("the beginning");
        service.revoke();
        assert_eq!(next(&mut at_rest).await, None);
        drop(at_rest);
        assert_eq!((metrics.streams.get(), metrics.rooms.get()), (0, 0));
    }

    #[tokio::test]
    async fn streams_beyond_the_limit_are_refused_and_leave_nothing() {
        let (rooms, metrics, _) = Fake { sockets: Some(2), ..Fake::default() }.rooms(Times::default());
        let enter = || rooms.events(LOCAL_TENANT, (), None);
        let socket = rooms.0.enter(LOCAL_TENANT, (), Kind::Socket, Some(2)).map_err(|full| full.to_string());
        let _socket = socket.expect("a place");
        let first = enter().await.expect("a place");
        let Err(EventsRefused::Full(full)) = enter().await else { panic!("a third is let in") };
        assert!(full.to_string().contains("has 2 sockets and event streams"), "{full}");
        assert!(rooms.0.enter(LOCAL_TENANT, (), Kind::Socket, Some(2)).is_err(), "a socket is the same");
        drop(first);
        enter().await.expect("the place is free again");

        let (rooms, none, _) = Fake { sockets: Some(0), ..Fake::default() }.rooms(Times::default());
        let Err(EventsRefused::Full(full)) = rooms.events(LOCAL_TENANT, (), None).await else { panic!("it is let in") };
        assert!(full.to_string().contains("has no sockets"), "{full}");
        assert!(rooms.0.enter(LOCAL_TENANT, (), Kind::Socket, Some(0)).is_err());
        assert_eq!((none.rooms.get(), none.sockets.get(), none.streams.get()), (0, 0, 0), "nothing stays");
        assert_eq!(metrics.rooms.get(), 1);
    }
}
