//! One socket: its handshake, then a loop over what can happen to it. It waits for nobody but its own client, and never
//! longer than [`Times`](crate::Times) says.
//!
//! Operations that wait together go together, one batch at a time, so they are carried out in the order of their frames.
//! While too many wait nothing more is read, and the client's own writing slows down.

use std::{
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    Admission, Changes, Service, Standing,
    metrics::{CodeLabel, ResultLabel},
    operations::{Waiting, carry_out},
    pace::Pace,
    room::{Slice, moved_from},
    rooms::{Inner, Kind, Seat},
    run::{Run, runs},
    socket::{End, Socket},
    wire::{self, code},
};

/// Serves a socket to its end.
pub(crate) async fn serve<S, I>(rooms: Arc<Inner<S>>, mut socket: Socket<I>, client: IpAddr)
where
    S: Service,
    I: AsyncRead + AsyncWrite + Unpin + Send,
{
    let end = match greet(&rooms, &mut socket, client).await {
        Ok(mut session) => match Box::pin(session.run(&mut socket)).await {
            Ok(never) => match never {},
            Err(end) => end,
        },
        Err(end) => end,
    };
    let code = socket.end(end).await.unwrap_or(code::NORMAL);
    rooms.metrics.closed.get_or_create(&CodeLabel { code }).inc();
}

/// The handshake of `docs/sync.md`.
async fn greet<S, I>(rooms: &Arc<Inner<S>>, socket: &mut Socket<I>, client: IpAddr) -> Result<Session<S>, End>
where
    S: Service,
    I: AsyncRead + AsyncWrite + Unpin + Send,
{
    let within = rooms.times.send;
    let first = async {
        loop {
            if let Some(text) = socket.next().await? {
                return Ok::<_, End>(text);
            }
        }
    };
    let text = tokio::select! {
        first = timeout(rooms.times.hello, first) => if let Ok(text) = first {
            text?
        } else {
            let detail = "no first frame with a key came in time: reconnect, and send it at once";
            socket.text(wire::refused("request-timeout", detail), within).await?;
            return Err(End::close(code::TRY_LATER, "no first frame came in time"));
        },
        () = rooms.leaving.cancelled() => return Err(End::close(code::RESTART, "this server ends; reconnect")),
    };
    let hello = match wire::read_hello(&text) {
        Ok(hello) => hello,
        Err(detail) => {
            socket.text(wire::refused("invalid-request", detail), within).await?;
            return Err(End::close(code::POLICY, "the first frame is not valid"));
        }
    };
    drop(text);
    let since = hello.since;
    let Admission { member, tenant, agent } = match rooms.service.admit(hello, client).await {
        Ok(admission) => admission,
        Err(refusal) => {
            socket.text(wire::refused(refusal.error, &refusal.detail), within).await?;
            return Err(End::close(refusal.code, refusal.error));
        }
    };
    let seat = match rooms.enter(tenant, member.clone(), Kind::Socket, rooms.service.limits(&member).sockets) {
        Ok(seat) => seat,
        Err(full) => {
            socket.text(wire::refused("too-many-sockets", &full.to_string()), within).await?;
            return Err(End::close(code::TOO_MANY_SOCKETS, "too-many-sockets"));
        }
    };
    let Some(start) = seat.room.start().await else {
        socket.text(wire::refused("unavailable", "the memory store cannot be reached; try again"), within).await?;
        return Err(End::close(code::TRY_LATER, "unavailable"));
    };
    socket.let_in();
    let now = Instant::now();
    let mut session = Session {
        last: seat.room.watch(),
        member,
        place: since.unwrap_or(start),
        waiting: Waiting::default(),
        running: None,
        catching_up: None,
        pace: Pace::new(now.into_std()),
        read_again: None,
        heard: now,
        pinged: now,
        rooms: rooms.clone(),
        seat,
    };
    session.send(socket.text(wire::authenticated(start, &agent), within)).await?;
    Ok(session)
}

/// A socket that was let in.
struct Session<S: Service> {
    rooms: Arc<Inner<S>>,
    seat: Seat<S>,
    member: S::Member,
    last: watch::Receiver<Option<i64>>,
    /// The last change that the client was sent.
    place: i64,
    waiting: Waiting,
    running: Option<BoxFuture<'static, Vec<String>>>,
    catching_up: Option<BoxFuture<'static, Option<Changes>>>,
    pace: Pace,
    /// Nothing is read before, for the client sends faster than it may.
    read_again: Option<Instant>,
    heard: Instant,
    pinged: Instant,
}

enum Never {}

impl<S: Service> Session<S> {
    async fn run<I>(&mut self, socket: &mut Socket<I>) -> Result<Never, End>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let times = self.rooms.times;
        let (ended, leave) = (self.seat.ended.clone(), self.rooms.leaving.clone());
        // These wait on what all sockets share, so they wait once and not anew after each change.
        let (mut ended, mut leave) = (pin!(ended.cancelled()), pin!(leave.cancelled()));
        let mut look = pin!(sleep_until(self.next_look()));
        let mut leaving = false;
        loop {
            self.start_batch()?;
            self.send_changes(socket).await?;
            if leaving && self.running.is_none() {
                return Err(End::close(code::RESTART, "this server ends; reconnect"));
            }
            let reading = self.waiting.has_room() && self.read_again.is_none() && !leaving;
            let place = self.place;
            tokio::select! {
                frame = socket.next(), if reading => {
                    self.heard = Instant::now();
                    if let Some(text) = frame? {
                        self.take_operation(&text, socket).await?;
                    }
                }
                answers = maybe(&mut self.running) => {
                    self.running = None;
                    let answers = answers.into_iter().map(|text| Message::Text(text.into()));
                    self.send(socket.send(answers, times.send)).await?;
                }
                page = maybe(&mut self.catching_up) => {
                    self.catching_up = None;
                    if let Some(page) = page {
                        self.take_page(page, socket).await?;
                    }
                }
                moved = moved_from(&mut self.last, place), if self.catching_up.is_none() && !leaving => {
                    // The room goes only after its last seat.
                    if !moved {
                        return Err(End::close(code::TRY_LATER, "the room was closed"));
                    }
                }
                () = until(self.read_again), if self.read_again.is_some() => self.read_again = None,
                () = &mut look => {
                    let now = Instant::now();
                    if reading && self.heard + times.idle <= now {
                        return Err(End::close(code::IDLE, "nothing came for too long"));
                    }
                    if !reading {
                        // What it sent waits with us: it cannot be blamed for silence.
                        self.heard = now;
                    }
                    if self.pinged + times.ping <= now {
                        self.pinged = now;
                        self.send(socket.send([Message::Ping(bytes::Bytes::new())], times.send)).await?;
                    }
                    look.as_mut().reset(self.next_look());
                }
                () = &mut ended => return Err(self.dismissal()),
                () = &mut leave, if !leaving => leaving = true,
            }
        }
    }

    /// When a ping or the client's silence is due. What was heard since only makes it later.
    fn next_look(&self) -> Instant {
        (self.pinged + self.rooms.times.ping).min(self.heard + self.rooms.times.idle)
    }

    fn dismissal(&self) -> End {
        match self.rooms.service.standing(&self.member) {
            Standing::Suspended => End::close(code::SUSPENDED, "the tenant is suspended"),
            Standing::KeyEnded => End::close(code::KEY_ENDED, "the key was revoked or has expired"),
            Standing::Unknown => End::close(code::TRY_LATER, "it is not known which keys count; reconnect"),
            // It was good again in between.
            Standing::Good => End::close(code::TRY_LATER, "reconnect"),
        }
    }

    fn check_standing(&self) -> Result<(), End> {
        if self.seat.may_stay(&self.member) { Ok(()) } else { Err(self.dismissal()) }
    }

    /// Sends a piece, unless the client may not be here any more, and breaks off when that comes meanwhile.
    async fn send(&mut self, sending: impl Future<Output = Result<(), End>>) -> Result<(), End> {
        self.check_standing()?;
        tokio::select! {
            biased;
            sent = sending => sent,
            () = self.seat.ended.cancelled() => Err(self.dismissal()),
        }
    }

    async fn take_operation<I>(&mut self, text: &str, socket: &mut Socket<I>) -> Result<(), End>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let now = Instant::now();
        let per_second = self.rooms.service.limits(&self.member).operations_per_second;
        self.read_again = self.pace.take(text.len(), now.into_std(), per_second).map(Instant::from_std);
        match wire::read_operation(text) {
            Ok(operation) => {
                self.waiting.push(operation);
                Ok(())
            }
            Err(refusal) => {
                self.rooms.metrics.operations.get_or_create(&ResultLabel { result: "malformed" }).inc();
                self.send(socket.text(refusal, self.rooms.times.send)).await
            }
        }
    }

    /// Sends what waits on its way, if nothing is, unless the client may not be here any more.
    fn start_batch(&mut self) -> Result<(), End> {
        if self.running.is_none()
            && let Some(batch) = self.waiting.next_batch()
        {
            self.check_standing()?;
            self.running = Some(carry_out(self.rooms.clone(), self.member.clone(), batch).boxed());
        }
        Ok(())
    }

    /// Sends what the room has for this place, until sockets have to end.
    async fn send_changes<I>(&mut self, socket: &mut Socket<I>) -> Result<(), End>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send,
    {
        while self.catching_up.is_none() && !self.rooms.leaving.is_cancelled() {
            match self.seat.room.after(self.place) {
                Slice::Current => break,
                Slice::Runs(runs) => self.send_runs(&runs, socket).await?,
                Slice::Elsewhere => {
                    let (rooms, tenant, place) = (self.rooms.clone(), self.seat.room.tenant(), self.place);
                    self.catching_up = Some(rooms.read_log(tenant, place).boxed());
                }
            }
        }
        Ok(())
    }

    async fn send_runs<I>(&mut self, runs: &[Run], socket: &mut Socket<I>) -> Result<(), End>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let Some(last) = runs.last().map(Run::last) else { return Ok(()) };
        self.send(socket.changes(runs, self.rooms.times.send)).await?;
        self.place = last;
        self.rooms.metrics.changes.inc_by(runs.iter().map(|run| run.count() as u64).sum());
        Ok(())
    }

    async fn take_page<I>(&mut self, page: Changes, socket: &mut Socket<I>) -> Result<(), End>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send,
    {
        if page.resync {
            self.rooms.metrics.resyncs.inc();
            self.place = page.seq;
            return self.send(socket.text(wire::resync(page.seq), self.rooms.times.send)).await;
        }
        self.send_runs(&runs(page.changes), socket).await
    }
}

async fn until(then: Option<Instant>) {
    if let Some(then) = then {
        sleep_until(then).await;
    }
}

/// Waits for what is under way; for ever when nothing is.
async fn maybe<T>(running: &mut Option<BoxFuture<'static, T>>) -> T {
    match running {
        Some(running) => Pin::new(running).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
