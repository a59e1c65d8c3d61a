//! One that follows the stream of server-sent events.

use std::time::Duration;

use anyhow::{Context as _, Result};
use harness::Client;
use reqwest::Method;
use tokio::time::timeout;

use super::{
    follower::{Change, Follower, export},
    socket::Resync,
};

const SILENCE: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(20);

/// Until all is heard.
pub async fn listen(client: Client, mut follower: Follower) -> Follower {
    while !follower.done() {
        // Whatever ends a stream, the next one goes on where it ended.
        let _ = stream(&client, &mut follower).await;
        tokio::time::sleep(PAUSE).await;
    }
    follower
}

async fn stream(client: &Client, follower: &mut Follower) -> Result<()> {
    let since = follower.since();
    let asked = client.request(Method::GET, "/events").header("last-event-id", since.to_string());
    let mut stream = timeout(SILENCE, asked.send()).await.context("no answer")??.error_for_status()?;
    let mut bytes: Vec<u8> = Vec::new();
    while !follower.done() {
        let mut goal = follower.goal.clone();
        let chunk = tokio::select! {
            chunk = timeout(SILENCE, stream.chunk()) => chunk.context("silence")??.context("the end")?,
            _ = goal.changed() => continue,
        };
        bytes.extend(chunk);
        let Some(whole) = bytes.windows(2).rposition(|pair| pair == b"\n\n") else { continue };
        let rest = bytes.split_off(whole + 2);
        take(std::str::from_utf8(&bytes)?, client, follower).await?;
        bytes = rest;
    }
    Ok(())
}

async fn take(events: &str, client: &Client, follower: &mut Follower) -> Result<()> {
    for event in events.split("\n\n") {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        match (field("id: "), field("event: "), field("data: ")) {
            (Some(id), Some("change"), Some(data)) => {
                let change: Change = serde_json::from_str(data)?;
                if id != change.seq.to_string() {
                    follower
                        .book
                        .notice(format!("{} heard change {} with the id {id}", follower.heard.who, change.seq));
                }
                follower.take(&change);
            }
            (Some(_), Some("resync"), Some(data)) => {
                let Resync { seq } = serde_json::from_str(data)?;
                follower.goes_on(seq, export(client).await.context("read anew")?);
            }
            // A comment, which says that the stream lives.
            _ => {}
        }
    }
    Ok(())
}
