//! Writers by request: batches, and one operation at a time. What was not answered is sent again under the same name.

use std::{sync::Arc, time::Duration};

use harness::{Answer, Client};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    Size,
    book::{Book, Writer},
    record::{Fate, Kind, id},
};

const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(30);

/// Sends a request until it is answered with more than "not now".
async fn answered(request: impl Fn() -> RequestBuilder) -> Answer {
    loop {
        let answer = timeout(PATIENCE, async { Answer::read(request().send().await?).await }).await;
        match answer {
            Ok(Ok(answer)) if !matches!(answer.status, 429 | 502..=504) => return answer,
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Batches, until there are enough operations.
pub async fn batches(client: Client, book: Arc<Book>, mut writer: Writer, Size { batch: most, again, .. }: Size) {
    loop {
        writer.keyed = writer.dice.roll(2) == 0;
        let size = 1 + writer.dice.roll(most);
        let mut ns = book.plan(&mut writer, size);
        let Some(first) = ns.first().copied() else { return };
        if !writer.keyed && ns.len() < most {
            ns.extend(book.answered(writer.agent, &mut writer.dice));
        }
        let body = json!({ "operations": ns.iter().map(|n| operation(&book, *n)).collect::<Vec<_>>() });
        let request = || {
            let request = client.request(Method::POST, "/batch").json(&body);
            if writer.keyed { request.header("idempotency-key", format!("b{first}")) } else { request }
        };
        let again = usize::from(writer.dice.roll(again) == 0);
        for _ in 0..=again {
            let answer = answered(request).await;
            match answer.body["results"].as_array().filter(|results| results.len() == ns.len()) {
                Some(results) => ns.iter().zip(results).for_each(|(n, result)| settle(&book, *n, result)),
                None => ns.iter().for_each(|n| book.wrong(*n, &answer.text)),
            }
        }
    }
}

fn operation(book: &Book, n: u32) -> Value {
    let op = book.op(n);
    let mut json = op.json(n);
    if !op.keyed {
        json["op_id"] = format!("o{n}").into();
    }
    json
}

fn settle(book: &Book, n: u32, result: &Value) {
    let replayed = result["replayed"] == true;
    match (result["applied"].as_bool(), result["seq"].as_u64(), result["reason"].as_str()) {
        (Some(true), Some(seq), None) => book.settle(n, Fate::Applied(seq as u32), replayed),
        (Some(false), None, Some("newer")) => book.settle(n, Fate::Newer, replayed),
        (Some(false), None, Some("removed")) => book.settle(n, Fate::Removed, replayed),
        _ => book.wrong(n, &result.to_string()),
    }
}

/// One operation at a time, until there are enough.
pub async fn singles(client: Client, book: Arc<Book>, mut writer: Writer, Size { again, .. }: Size) {
    (writer.keyed, writer.single) = (true, true);
    while let [n] = book.plan(&mut writer, 1)[..] {
        let again = usize::from(writer.dice.roll(again) == 0);
        for _ in 0..=again {
            let answer = answered(|| single(&client, &book, n)).await;
            match fate(&answer, book.op(n).kind) {
                Some(fate) => book.settle(n, fate, answer.header("idempotency-replayed").is_some()),
                None => book.wrong(n, &answer.text),
            }
        }
        if writer.dice.roll(8) == 0 {
            // So that engines hold the tenant's index while it is written.
            let found = answered(|| recall(&client, n)).await;
            if found.status != 200 {
                book.notice(format!("a recall was answered {}", found.text));
            }
        }
    }
}

/// Asks for the memory whose content is of this operation.
pub fn recall(client: &Client, n: u32) -> RequestBuilder {
    client.request(Method::GET, "/recall").query(&[("q", format!("operation {n}"))])
}

fn single(client: &Client, book: &Book, n: u32) -> RequestBuilder {
    let op = book.op(n);
    let mut body = op.json(n);
    let members = body.as_object_mut().unwrap();
    members.remove("op");
    let request = match op.kind {
        Kind::Store => client.request(Method::POST, "/store").json(&body),
        Kind::Remove => client.request(Method::DELETE, &format!("/forget/{}", id(op.memory))),
        Kind::Update | Kind::Move => {
            members.remove("id");
            client.request(Method::PATCH, &format!("/memories/{}", id(op.memory))).json(&body)
        }
    };
    request.header("idempotency-key", format!("k{n}"))
}

fn fate(answer: &Answer, kind: Kind) -> Option<Fate> {
    match (answer.status, kind) {
        (200 | 201, _) => answer.body["seq"].as_u64().map(|seq| Fate::Applied(seq as u32)),
        (404, Kind::Remove) => Some(Fate::Removed),
        (404, Kind::Update) => Some(Fate::Gone),
        (409, Kind::Update) if answer.body["reason"] == "newer" => Some(Fate::Newer),
        _ => None,
    }
}
