//! A socket that follows, and may write: it comes back after whatever ends it, and sends again what was not acknowledged.

use std::{collections::VecDeque, time::Duration};

use anyhow::{Context as _, Result, bail};
use harness::Socket;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    book::Writer,
    follower::{Change, Follower, export},
    record::Fate,
};

/// Operations of a socket that are not acknowledged yet; few enough for the kernel to keep their frames.
const WINDOW: usize = 256;
/// Whoever hears nothing for so long tries another connection.
const SILENCE: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(20);

/// An answer to an operation.
#[derive(Deserialize)]
struct Answer {
    op_id: Option<String>,
    applied: Option<bool>,
    seq: Option<u32>,
    reason: Option<String>,
    #[serde(default)]
    replayed: bool,
    error: Option<String>,
}

#[derive(Deserialize)]
pub struct Resync {
    pub seq: u32,
}

/// What every frame says of itself.
#[derive(Deserialize)]
struct Kind {
    r#type: String,
}

/// See the module.
pub struct Client {
    pub url: String,
    pub key: String,
    pub follower: Follower,
    /// Nothing: it only follows.
    pub writer: Option<Writer>,
    /// Sent and not acknowledged, in order.
    pub waiting: VecDeque<u32>,
}

impl Client {
    /// Until all is written and heard.
    pub async fn run(mut self) -> Follower {
        while !self.follower.done() {
            // Whatever ends a connection, the next one goes on where it ended.
            let _ = self.connection().await;
            tokio::time::sleep(PAUSE).await;
        }
        self.follower
    }

    async fn connection(&mut self) -> Result<()> {
        let since = self.follower.since();
        let (mut socket, _) =
            timeout(SILENCE, Socket::enter(&self.url, &self.key, Some(since.into()))).await.context("enter")??;
        let again: Vec<u32> = self.waiting.iter().copied().collect();
        self.send(&mut socket, &again).await?;
        while !self.follower.done() {
            if self.waiting.len() <= WINDOW / 2 {
                let more = self.plan();
                self.waiting.extend(&more);
                self.send(&mut socket, &more).await?;
            }
            let mut goal = self.follower.goal.clone();
            let text = tokio::select! {
                text = timeout(SILENCE, socket.text()) => text.context("silence")??.context("closed")?,
                _ = goal.changed() => continue,
            };
            self.take(&text).await?;
        }
        Ok(())
    }

    /// What to send next: new operations, and now and then one that was answered before.
    fn plan(&mut self) -> Vec<u32> {
        let Some(writer) = &mut self.writer else { return Vec::new() };
        let most = 1 + writer.dice.roll(WINDOW / 2);
        let mut ns = self.follower.book.plan(writer, most);
        if !ns.is_empty() && writer.dice.roll(2) == 0 {
            ns.extend(self.follower.book.answered(writer.agent, &mut writer.dice));
        }
        ns
    }

    async fn send(&self, socket: &mut Socket, ns: &[u32]) -> Result<()> {
        let frames: Vec<Value> = ns
            .iter()
            .map(|n| {
                let mut frame = self.follower.book.json(*n);
                frame["op_id"] = format!("o{n}").into();
                frame
            })
            .collect();
        timeout(SILENCE, socket.send_all(&frames)).await.context("not taken")?
    }

    async fn take(&mut self, text: &str) -> Result<()> {
        let Kind { r#type: kind } = serde_json::from_str(text)?;
        match kind.as_str() {
            "change" => self.follower.take(&serde_json::from_str::<Change>(text)?),
            "ack" | "error" => return self.answered(&serde_json::from_str(text)?, text),
            "resync" => {
                let Resync { seq } = serde_json::from_str(text)?;
                let everything = export(&harness::Client::new(&self.url, &self.key)).await;
                self.follower.goes_on(seq, everything.context("read anew")?);
            }
            _ => self.follower.book.notice(format!("{} heard {text}", self.follower.heard.who)),
        }
        Ok(())
    }

    fn answered(&mut self, answer: &Answer, text: &str) -> Result<()> {
        let (book, first) = (&self.follower.book, self.waiting.front().copied());
        let Some(n) = first.filter(|n| answer.op_id == Some(format!("o{n}"))) else {
            book.notice(format!("{} waits for the answer to {first:?} and hears {text}", self.follower.heard.who));
            bail!("out of order");
        };
        if answer.error.as_deref() == Some("unavailable") {
            book.refused(self.waiting.iter().copied());
            bail!("unavailable");
        }
        self.waiting.pop_front();
        match (answer.applied, answer.seq, answer.reason.as_deref()) {
            (Some(true), Some(seq), None) => book.settle(n, Fate::Applied(seq), answer.replayed),
            (Some(false), None, Some("newer")) => book.settle(n, Fate::Newer, answer.replayed),
            (Some(false), None, Some("removed")) => book.settle(n, Fate::Removed, answer.replayed),
            _ => book.wrong(n, text),
        }
        Ok(())
    }
}
