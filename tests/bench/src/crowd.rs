//! Many sockets that only read: what comes is counted, pings are answered, and nothing is kept.

use std::{
    cell::RefCell,
    io::ErrorKind,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{StreamExt as _, stream};
use harness::raw;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::Notify, task::JoinSet, time::timeout};

use crate::frames::{Counted, Frames};

/// Sockets that connect at one time.
const AT_ONCE: usize = 64;
/// One source address has some 28,000 ports, and those that were closed a moment ago still count.
const SOCKETS_A_SOURCE: usize = 4_000;
const READ: usize = 256 * 1024;
/// Longer than any broadcast takes.
const PATIENCE: Duration = Duration::from_mins(1);
/// A pong without content, masked with zeros.
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];

thread_local! {
    /// One for all sockets of a thread: a reader that cleared a buffer of its own would be what is measured.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// Whom to connect to.
#[derive(Clone)]
pub enum Door {
    /// A room of the gateway at this port, entered with a key.
    Room(u16, String),
    /// A server that writes frames without being asked.
    Plain(u16),
}

/// See the module.
pub struct Crowd {
    seen: Arc<Seen>,
    size: usize,
    /// Readers end with it.
    _readers: JoinSet<()>,
}

/// What all sockets have seen of a broadcast.
#[derive(Default)]
struct Seen {
    /// Frames that each socket gets from its beginning to the end of the broadcast.
    target: AtomicUsize,
    begun: AtomicBool,
    times: Mutex<Times>,
    done: Notify,
    /// What one of them read.
    copy: Mutex<Vec<u8>>,
}

#[derive(Default)]
struct Times {
    first: Option<Instant>,
    /// When each socket had all of it.
    each: Vec<Instant>,
}

impl Crowd {
    /// Connects so many sockets to each door.
    pub async fn enter(doors: &[Door], each: usize) -> Result<Self> {
        let (seen, size) = (Arc::<Seen>::default(), doors.len() * each);
        let entering = (0..size).map(|n| enter(&doors[n % doors.len()], source(n), None));
        let mut entering = stream::iter(entering).buffer_unordered(AT_ONCE);
        let mut readers = JoinSet::new();
        while let Some(stream) = entering.next().await {
            let copies = readers.is_empty();
            readers.spawn(read(stream?, seen.clone(), copies));
        }
        Ok(Self { seen, size, _readers: readers })
    }

    /// Expects so many frames more at every socket. To be called before they are sent.
    pub fn expect(&self, frames: usize) {
        *lock(&self.seen.times) = Times::default();
        lock(&self.seen.copy).clear();
        self.seen.begun.store(false, Ordering::SeqCst);
        self.seen.target.fetch_add(frames, Ordering::SeqCst);
    }

    /// Waits until every socket has what was expected. Returns when each had it.
    pub async fn complete(&self) -> Result<Vec<Instant>> {
        let all = async {
            while lock(&self.seen.times).each.len() < self.size {
                let _ = timeout(Duration::from_millis(50), self.seen.done.notified()).await;
            }
        };
        let all = timeout(PATIENCE, all).await;
        let each = std::mem::take(&mut lock(&self.seen.times).each);
        all.with_context(|| format!("{} of {} sockets got all of a broadcast", each.len(), self.size))?;
        Ok(each)
    }

    /// The same. Returns the seconds from the first byte at any socket to the last at every one.
    pub async fn spread(&self) -> Result<f64> {
        let last = self.complete().await?.into_iter().max();
        let (first, last) = lock(&self.seen.times).first.zip(last).context("nothing came")?;
        Ok((last - first).as_secs_f64())
    }

    /// The bytes that one socket read since [`Self::expect`].
    pub fn copy(&self) -> Vec<u8> {
        lock(&self.seen.copy).clone()
    }
}

fn source(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, 1 + (n / SOCKETS_A_SOURCE) as u8)
}

/// Connects, and is let in. `receives` bounds what the kernel takes for a socket that does not read.
pub async fn enter(door: &Door, source: Ipv4Addr, receives: Option<u32>) -> Result<TcpStream> {
    let (Door::Room(port, _) | Door::Plain(port)) = door;
    let mut stream = raw::connect(*port, source, receives).await?;
    if let Door::Room(_, key) = door {
        raw::enter(&mut stream, &json!({ "api_key": key })).await?;
    }
    Ok(stream)
}

async fn read(mut stream: TcpStream, seen: Arc<Seen>, copies: bool) {
    let (mut frames, mut have) = (Frames::default(), 0);
    while stream.readable().await.is_ok() {
        let read = BUFFER.with_borrow_mut(|buffer| {
            let length = stream.try_read(buffer)?;
            if copies {
                lock(&seen.copy).extend_from_slice(&buffer[..length]);
            }
            Ok::<_, std::io::Error>((length, frames.feed(&buffer[..length])))
        });
        match read {
            Ok((1.., Counted { data, pings })) => {
                seen.count(have, data);
                have += data;
                if pings > 0 && stream.write_all(&PONG).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => return,
        }
    }
}

impl Seen {
    /// Counts frames of one socket, which had so many before.
    fn count(&self, had: usize, more: usize) {
        if more == 0 {
            return;
        }
        let target = self.target.load(Ordering::SeqCst);
        let first = !self.begun.swap(true, Ordering::SeqCst);
        let all = had < target && had + more >= target;
        if first || all {
            let (now, mut times) = (Instant::now(), lock(&self.times));
            if first {
                times.first = Some(now);
            }
            if all {
                times.each.push(now);
                self.done.notify_one();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
