//! Threads for the processor time of indexing: no request waits on them, and they run at a lower priority than those that
//! answer requests.
//!
//! Jobs run in the order in which they come. A tenant has one job here at a time, and a job analyses a bounded part of its
//! memories ([`SLICE_BYTES`](super::refresh::SLICE_BYTES)), so tenants take turns however much one of them has to index. Only a
//! compaction walks a whole corpus, after as many postings as that have died.

use std::{
    io,
    num::NonZero,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use rustix::{process::setpriority_process, thread::gettid};
use tokio::sync::oneshot;

/// Nice value of the threads: one that answers requests gets about ten times their share where both want a processor.
const NICE: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

/// See the module. The threads end with it.
pub(super) struct Workers {
    jobs: mpsc::Sender<Job>,
    count: usize,
}

impl Workers {
    /// Starts a thread for every two processors, at least one.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start() -> io::Result<Self> {
        let count = (thread::available_parallelism().map_or(1, NonZero::get) / 2).max(1);
        let (jobs, waiting) = mpsc::channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        for number in 0..count {
            let waiting = waiting.clone();
            thread::Builder::new().name(format!("index-{number}")).spawn(move || work(&waiting))?;
        }
        Ok(Self { jobs, count })
    }

    /// Returns how many threads there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Runs a job and returns its result. `None`: it panicked, or the threads have ended.
    pub(super) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move || drop(reply.send(job())));
        self.jobs.send(job).ok()?;
        answer.await.ok()
    }
}

fn work(waiting: &Mutex<mpsc::Receiver<Job>>) {
    // On Linux a priority belongs to a thread. Without it indexing only competes with requests as an equal.
    if let Err(error) = setpriority_process(Some(gettid()), NICE) {
        tracing::debug!(%error, "the priority of an index thread could not be lowered; it runs as others do");
    }
    loop {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // A panic is the job's: whoever waits for it learns that it has no answer.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
            tracing::error!("indexing panicked; the tenant's index is built anew");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn job_panics_worker_serves_next() {
        let workers = Workers::start().expect("threads");
        assert_eq!(workers.run(|| -> u8 { panic!("on purpose") }).await, None);
        assert_eq!(workers.run(|| 7).await, Some(7));
    }
}
