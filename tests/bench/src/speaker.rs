//! Makes a room hear something: rewrites memories that are there, in one batch, so that each makes one change. Stores would
//! in time push others outward, and each that moves is a change more.

use anyhow::{Context, Result, ensure};
use harness::Client;
use serde_json::{Value, json};

/// See the module.
pub struct Speaker {
    client: Client,
    memories: Vec<String>,
}

impl Speaker {
    /// Stores so many memories. To be called before anybody listens.
    pub async fn new(client: Client, memories: usize) -> Result<Self> {
        let store = json!({ "op": "store", "content": "not rewritten yet" });
        let results = batch(&client, vec![store; memories]).await?;
        let id = |result: &Value| Some(result["id"].as_str()?.to_owned());
        let memories = results.iter().map(id).collect::<Option<_>>().context("ids of what was stored")?;
        Ok(Self { client, memories })
    }

    /// Rewrites one memory for each content.
    pub async fn say(&self, contents: Vec<String>) -> Result<()> {
        let update = |(id, content)| json!({ "op": "update", "id": id, "content": content });
        batch(&self.client, self.memories.iter().zip(contents).map(update).collect()).await.map(drop)
    }
}

async fn batch(client: &Client, operations: Vec<Value>) -> Result<Vec<Value>> {
    let answer = client.post("/batch", &json!({ "operations": operations })).await?;
    ensure!(answer.status == 200 && !answer.text.contains("problem"), "{}", answer.text);
    answer.body["results"].as_array().cloned().context("results of a batch")
}
