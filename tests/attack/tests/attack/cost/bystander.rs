//! Those who did nothing: two tenants that recall all along, and one that stores.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use harness::{Client, eventually};

/// Memories of a bystander.
pub const MEMORIES: usize = 300;
const RECALL_PAUSE: Duration = Duration::from_millis(50);
const STORE_PAUSE: Duration = Duration::from_millis(100);
/// Recalls before the first that is measured.
const WARM_UP: usize = 20;
const READ_AT_ONCE: usize = 8;

/// What a bystander's recalls came to.
#[derive(Default)]
pub struct Asked {
    pub seconds: Vec<f64>,
    pub failed: Vec<String>,
}

pub fn memory(n: usize) -> String {
    format!("a note about subject{n} of those that a bystander keeps")
}

pub async fn warm(client: &Client) {
    client.opens().await;
    for n in 0..WARM_UP {
        let answer = client.recall(&format!("subject{n}")).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

/// Recalls every 50 ms until told to stop.
pub async fn recall(client: Client, stop: Arc<AtomicBool>) -> Asked {
    let mut asked = Asked::default();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let wanted = memory(n % MEMORIES);
        let began = Instant::now();
        let answer = client.recall(&format!("subject{}", n % MEMORIES)).await;
        asked.seconds.push(began.elapsed().as_secs_f64());
        match answer {
            Ok(answer) if answer.status == 200 && answer.body[0]["content"] == *wanted => {}
            Ok(answer) => asked.failed.push(format!("{} {:.200}", answer.status, answer.text)),
            Err(error) => asked.failed.push(format!("{error:#}")),
        }
        tokio::time::sleep(RECALL_PAUSE).await;
    }
    asked
}

/// Stores ten times a second until told to stop. Returns what was acknowledged: ids and contents.
pub async fn store(client: Client, stop: Arc<AtomicBool>) -> Vec<(String, String)> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let content = format!("written along, number {n}");
        if let Ok(answer) = client.store(&content).await
            && answer.status == 201
        {
            acknowledged.push((answer.body["id"].as_str().unwrap().to_owned(), content));
        }
        tokio::time::sleep(STORE_PAUSE).await;
    }
    acknowledged
}

/// The acknowledged stores that are not there, or not as they were stored.
pub async fn lost(client: &Client, acknowledged: &[(String, String)]) -> Vec<String> {
    let look = |(id, content): &(String, String)| {
        let (path, content) = (format!("/memories/{id}"), content.clone());
        async move {
            let answer = eventually("a stored memory is told of", || async {
                client.get(&path).await.ok().filter(|answer| matches!(answer.status, 200 | 404))
            })
            .await;
            (answer.body["content"] != *content).then(|| format!("lost: {path}: {}", answer.text))
        }
    };
    let lost: Vec<_> = stream::iter(acknowledged).map(look).buffer_unordered(READ_AT_ONCE).collect().await;
    lost.into_iter().flatten().collect()
}
