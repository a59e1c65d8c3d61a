//! Requests without a pause, none of which may fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use harness::Client;
use tokio::task::JoinHandle;

/// Two workers that store and recall until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins. `content`: a memory that the tenant has, and that every recall must find first.
    pub fn begin(client: &Client, content: &'static str) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let workers = (0..2)
            .map(|worker| {
                let (client, stop, answered) = (client.clone(), stop.clone(), answered.clone());
                tokio::spawn(async move {
                    let mut n = 0;
                    while !stop.load(Ordering::Relaxed) {
                        // The free tier has 1,000 places: most requests recall.
                        if n % 100 == 0 {
                            let stored = client.store(&format!("worker {worker} note {n}")).await.unwrap();
                            assert_eq!(stored.status, 201, "{}", stored.text);
                        }
                        let recalled = client.recall(content).await.unwrap();
                        assert_eq!(recalled.status, 200, "{}", recalled.text);
                        assert_eq!(recalled.body[0]["content"], content, "{}", recalled.text);
                        n += 1;
                        answered.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                })
            })
            .collect();
        Self { stop, answered, workers }
    }

    /// Waits until some more requests were answered.
    pub async fn goes_on(&self) {
        let since = self.answered.load(Ordering::Relaxed);
        harness::eventually("requests go on being answered", || async {
            assert!(self.workers.iter().all(|worker| !worker.is_finished()), "a request failed");
            (self.answered.load(Ordering::Relaxed) > since + 20).then_some(())
        })
        .await;
    }

    /// Ends. How many requests were answered.
    ///
    /// # Panics
    /// When one of them failed.
    pub async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.await.expect("no request fails");
        }
        self.answered.load(Ordering::Relaxed)
    }
}
