//! Memories on their way out and in: whole, once, and each to whom it belongs.

use std::{collections::BTreeSet, fmt::Write as _};

use futures::StreamExt as _;
use harness::{Answer, Client, TenantSpec, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{shared, tenant};

const NDJSON: &str = "application/x-ndjson";

async fn import(client: &Client, content_type: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = client.request(Method::POST, "/import").header("content-type", content_type).body(body);
    Answer::read(request.send().await.unwrap()).await.unwrap()
}

/// How many were imported, existed, were refused.
fn counts(answer: &Answer) -> [u64; 3] {
    assert_eq!(answer.status, 200, "{}", answer.text);
    ["imported", "existing", "refused"].map(|name| answer.body[name].as_u64().unwrap())
}

async fn export(client: &Client) -> Vec<Value> {
    let answer = client.get("/export").await.unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(NDJSON)), "{}", answer.text);
    lines(&answer.text)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn ndjson(lines: &[Value]) -> String {
    lines.iter().fold(String::new(), |text, line| text + &line.to_string() + "\n")
}

/// The memories of an export whose first and last line agree with them.
fn memories(lines: &[Value]) -> &[Value] {
    let [head, memories @ .., end] = lines else { panic!("an export has two lines at least: {lines:?}") };
    assert_eq!((&head["format"], &head["version"]), (&json!("stellar-memory"), &json!(1)), "{head}");
    assert!(head["change_seq"].is_u64() && head["total"].is_u64(), "{head}");
    assert_eq!((&end["end"], &end["count"]), (&json!(true), &json!(memories.len())), "{end}");
    assert!(end["change_seq"].as_u64() >= head["change_seq"].as_u64(), "{head} {end}");
    memories
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_is_imported_by_another_tenant_as_it_was() {
    let plane = shared().await;
    let (ada, eve) = (plane.client(&tenant("exporting").await), plane.client(&tenant("importing").await));
    assert_eq!(export(&ada).await.len(), 2, "an empty memory has a first and a last line");
    for n in 0..30 {
        let memory = json!({
            "content": format!("note {n}: naïve 東京 \n \"quoted\""), "importance": f64::from(n) / 40.0,
            "metadata": { "n": n, "nested": { "a": [1, null] } }, "session": "s", "speaker": format!("speaker {}", n % 3),
            "source": "a book", "emotion": "joy", "occurred_at": format!("2026-01-{:02}T08:00:00.000001Z", n + 1),
        });
        assert_eq!(ada.post("/store", &memory).await.unwrap().status, 201);
    }
    assert_eq!(ada.recall("note 7").await.unwrap().status, 200);
    eventually("the recalls are counted", || async {
        let exported = export(&ada).await;
        let recalled = memories(&exported).iter().filter(|memory| memory["recall_count"] == 1).count();
        (recalled == 5).then_some(())
    })
    .await;

    let exported = export(&ada).await;
    assert_eq!((memories(&exported).len(), &exported[0]["total"]), (30, &json!(30)));
    let answer = import(&eve, NDJSON, ndjson(&exported)).await;
    assert_eq!(
        (counts(&answer), &answer.body["complete"], &answer.body["errors"]),
        ([30, 0, 0], &json!(true), &json!([]))
    );
    let theirs = export(&eve).await;
    for (mine, theirs) in memories(&exported).iter().zip(memories(&theirs)) {
        for field in [
            "id",
            "content",
            "importance",
            "metadata",
            "session",
            "speaker",
            "source",
            "emotion",
            "occurred_at",
            "created_at",
            "written_at",
            "last_recalled_at",
            "recall_count",
        ] {
            assert_eq!(mine[field], theirs[field], "{field}");
        }
        // What a recall brings inward is there at once, and moves with the next reorbit where it was recalled.
        assert!(mine["zone"] == theirs["zone"] || mine["recall_count"] == 1, "{mine} {theirs}");
        for field in ["score", "context"] {
            let difference = mine[field].as_f64().unwrap() - theirs[field].as_f64().unwrap();
            assert!(difference.abs() < 1e-3, "{field}: {mine} {theirs}");
        }
    }
    assert!(
        memories(&exported).iter().any(|memory| memory["context"].as_f64().unwrap() > 0.3),
        "a recall has a context"
    );
    assert_eq!(eve.recall("note 7").await.unwrap().body[0]["content"], "note 7: naïve 東京 \n \"quoted\"");

    let again = import(&eve, NDJSON, ndjson(&exported)).await;
    assert_eq!(counts(&again), [0, 30, 0], "a repeated import stores nothing twice");
    assert_eq!(eve.get("/stats").await.unwrap().body["total_memories"], 30);
    let stores = eve.get("/audit?limit=500").await.unwrap();
    assert_eq!(stores.text.matches("\"what\":\"store\"").count(), 30, "the audit names who imported: {}", stores.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_cut_off_is_noticed() {
    let plane = shared().await;
    let ada = plane.client(&tenant("cut-off").await);
    for n in 0..5 {
        assert_eq!(ada.store(&format!("page {n}")).await.unwrap().status, 201);
    }
    let exported = export(&ada).await;
    let text = ndjson(&exported);
    let without_end = ndjson(&exported[..6]);
    let half_a_line = &text[..without_end.len() - 20];
    let without_one = ndjson(&[&exported[..3], &exported[4..]].concat());
    for (name, cut, held, refused) in
        [("end", &*without_end, 5, 0), ("half", half_a_line, 4, 1), ("one", &*without_one, 4, 0)]
    {
        let eve = plane.client(&tenant(&format!("cut-off-{name}")).await);
        let answer = import(&eve, NDJSON, cut.to_owned()).await;
        assert_eq!(
            (counts(&answer), &answer.body["complete"]),
            ([held, 0, refused], &json!(false)),
            "{name}: {}",
            answer.text
        );
        assert!(!answer.body["errors"].as_array().unwrap().is_empty(), "{name}: {}", answer.text);
        let whole = import(&eve, NDJSON, text.clone()).await;
        assert_eq!(
            (counts(&whole), &whole.body["complete"]),
            ([5 - held, held, 0], &json!(true)),
            "{name}: {}",
            whole.text
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_export_of_the_earlier_system_is_taken() {
    let ada = shared().await.client(&tenant("earlier").await);
    let item = |id: &str, content: &str| {
        json!({
            "id": id, "content": content, "created_at": 1_767_225_600.5, "last_recalled_at": 1_767_225_600.5, "recall_count": 0,
            "arbitrary_importance": 0.75, "zone": 2, "metadata": { "session": "s1", "speaker": "Ada", "x": 1 },
            "total_score": 0.4, "embedding_b64": "AAAAPwAAAD8=",
        })
    };
    let mut recalled = item("7b1f7a7e-3d1c-4a57-9a54-0123456789ab", "Ada likes green tea");
    (recalled["recall_count"], recalled["last_recalled_at"]) = (json!(12), json!(1_769_904_000.0));
    let mut foreign = item("1", "somebody else's");
    foreign["user_id"] = json!("00000000-0000-4000-8000-000000000001");
    let mut nobodys = item("note-1", "Nobody's note");
    nobodys["user_id"] = Value::Null;
    let file = json!({
        "version": "0.3.0", "exported_at": 1_770_000_000.0, "count": 5,
        "items": [recalled, nobodys, foreign, item("note-2", ""), { "id": "note-3" }],
    });
    let answer = import(&ada, "application/json; charset=utf-8", file.to_string()).await;
    assert_eq!(counts(&answer), [2, 0, 3], "{}", answer.text);
    let told: Vec<_> = answer.body["errors"].as_array().unwrap().iter().map(|error| &error["line"]).collect();
    assert_eq!(told, [3, 4, 5], "{}", answer.text);
    assert!(answer.body["errors"][0]["problem"]["detail"].as_str().unwrap().contains("`user_id`"), "{}", answer.text);

    let exported = export(&ada).await;
    let tea = memories(&exported).iter().find(|memory| memory["content"] == "Ada likes green tea").unwrap();
    assert_eq!(tea["id"], "7b1f7a7e-3d1c-4a57-9a54-0123456789ab");
    assert_eq!((&tea["session"], &tea["speaker"], &tea["metadata"]["x"]), (&json!("s1"), &json!("Ada"), &json!(1)));
    assert_eq!((&tea["recall_count"], &tea["last_recalled_at"]), (&json!(12), &json!("2026-02-01T00:00:00Z")));
    assert_eq!(
        (&tea["created_at"], &tea["occurred_at"]),
        (&json!("2026-01-01T00:00:00.5Z"), &json!("2026-01-01T00:00:00.5Z"))
    );
    let note = memories(&exported).iter().find(|memory| memory["content"] == "Nobody's note").unwrap();
    assert_eq!((&note["last_recalled_at"], &note["importance"]), (&Value::Null, &json!(0.75)));
    assert_eq!(
        counts(&import(&ada, "application/json", file.to_string()).await),
        [0, 2, 3],
        "other ids are the same each time"
    );

    let eve = shared().await.client(&tenant("earlier-too").await);
    assert_eq!(counts(&import(&eve, "application/json", file.to_string()).await), [2, 0, 3]);
    assert_ne!(
        memories(&export(&eve).await).iter().find(|memory| memory["content"] == "Nobody's note").unwrap()["id"],
        note["id"]
    );
    for (body, told) in [
        (json!({ "version": "0.4.0", "items": [] }).to_string(), "0.3.0"),
        (json!([1]).to_string(), "items"),
        ("{\"version\":\"0.3.0\",\"items\":[".to_owned(), "items"),
        (String::new(), "items"),
    ] {
        let refused = import(&eve, "application/json", body.clone()).await;
        assert_eq!((refused.status, refused.problem()), (400, Some("invalid-request")), "{body}: {}", refused.text);
        assert!(refused.body["detail"].as_str().unwrap().contains(told), "{}", refused.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_is_refused_line_by_line_and_the_rest_is_imported() {
    let owner = tenant("rubbish").await;
    let ada = shared().await.client(&owner);
    let good = |id: &str| json!({ "id": id, "content": format!("good {id}") }).to_string();
    let mut text = String::from("\u{feff}\n");
    for line in [
        &*good("1"),                                                                              // 2
        "{\"id\":\"2\",\"content\":",                                                             // 3
        "",                                                                                       // 4
        "id,content",                                                                             // 5
        "[1]",                                                                                    // 6
        "{\"content\":\"without an id\"}",                                                        // 7
        "{\"id\":\"8\",\"content\":\"x\",\"user_id\":\"00000000-0000-4000-8000-000000000001\"}",  // 8
        &json!({ "id": "9", "content": "mine", "user_id": owner.id.to_string() }).to_string(),    // 9
        &json!({ "id": "10", "content": "x", "created_at": "2999-01-01T00:00:00Z" }).to_string(), // 10
        &json!({ "id": "11", "content": "x".repeat(10_001) }).to_string(),                        // 11
        &json!({ "id": "12", "content": "x".repeat(600_000) }).to_string(),                       // 12
        &json!({ "id": "13", "content": "a\u{0}b" }).to_string(),                                 // 13
        &json!({ "id": "14", "content": 7 }).to_string(),                                         // 14
        &good("15"),                                                                              // 15
        &good("1"),                                                                               // 16
    ] {
        text += line;
        text += "\r\n";
    }
    let answer = import(&ada, NDJSON, text.into_bytes()).await;
    assert_eq!(counts(&answer), [3, 1, 10], "{}", answer.text);
    let errors = answer.body["errors"].as_array().unwrap();
    let told: Vec<_> = errors.iter().map(|error| error["line"].as_u64().unwrap()).collect();
    assert_eq!(told, [3, 5, 6, 7, 8, 10, 11, 12, 13, 14], "{}", answer.text);
    for error in errors {
        let (uri, detail) = (error["problem"]["type"].as_str().unwrap(), error["problem"]["detail"].as_str().unwrap());
        assert!(uri.ends_with("/invalid-request") && detail.chars().count() < 400, "{error}");
    }
    let bytes = [&b"{\"id\":\"1\",\"content\":\"\xff\xfe\"}\n"[..], &[b'\n'; 10], &[b'x'; 300]].concat();
    assert_eq!(counts(&import(&ada, NDJSON, bytes).await), [0, 0, 2]);
    let many = "x\n".repeat(1000);
    let answer = import(&ada, NDJSON, many).await;
    assert_eq!((counts(&answer), answer.body["errors"].as_array().unwrap().len()), ([0, 0, 1000], 100));

    for (content_type, body, status, problem) in [
        ("text/csv", "a,b", 415, "unsupported-media-type"),
        (NDJSON, "", 400, "invalid-request"),
        (NDJSON, "\n\n", 400, "invalid-request"),
        (NDJSON, "{\"format\":\"other\",\"version\":1}", 400, "invalid-request"),
        (NDJSON, "{\"format\":\"stellar-memory\",\"version\":2}", 400, "invalid-request"),
    ] {
        let refused = import(&ada, content_type, body).await;
        assert_eq!((refused.status, refused.problem()), (status, Some(problem)), "{body}: {}", refused.text);
    }
    // Refused at the first glance, and written to its end all the same.
    let refused = import(&ada, "text/csv", vec![b'x'; 20_000_000]).await;
    assert_eq!((refused.status, refused.problem()), (415, Some("unsupported-media-type")), "{}", refused.text);
    assert_eq!(ada.get("/stats").await.unwrap().body["total_memories"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_over_the_limit_is_refused_before_it_is_sent() {
    let plane = shared().await;
    let tenant = tenant("too-large").await;
    let mut stream = TcpStream::connect(("127.0.0.1", plane.gateway.port)).await.unwrap();
    let head = format!(
        "POST /api/v1/import HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-type: {NDJSON}\r\ncontent-length: {}\r\n\r\n",
        tenant.key,
        64 * 1024 * 1024 + 1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 413");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_into_the_quota_is_imported_and_the_rest_is_refused() {
    let plane = shared().await;
    let spec = TenantSpec { max_memories: 5, ..TenantSpec::default() };
    let owner = plane.tenant("import-quota", spec).await.unwrap();
    let ada = plane.client(&owner);
    let file = (0..8).fold(String::new(), |mut text, n| {
        writeln!(text, "{}", json!({ "id": format!("n{n}"), "content": format!("note {n}") })).unwrap();
        text
    });
    let answer = import(&ada, NDJSON, file.clone()).await;
    assert_eq!(counts(&answer), [5, 0, 3], "{}", answer.text);
    for (error, line) in answer.body["errors"].as_array().unwrap().iter().zip(6..) {
        let problem = &error["problem"];
        assert_eq!(
            (&error["line"], &problem["used"], &problem["limit"]),
            (&json!(line), &json!(5), &json!(5)),
            "{error}"
        );
        assert!(
            problem["type"].as_str().unwrap().ends_with("/memory-quota-reached") && problem["next_tier"].is_string()
        );
    }
    plane.apply(&owner, TenantSpec { max_memories: 7, ..spec }).await.unwrap();
    assert_eq!(counts(&import(&ada, NDJSON, file.clone()).await), [2, 5, 1], "what is there needs no room");
    plane.apply(&owner, TenantSpec { max_memories: 2, ..spec }).await.unwrap();
    assert_eq!(counts(&import(&ada, NDJSON, file).await), [0, 7, 1], "a lowered limit takes nothing away");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_memories_are_exported_while_others_are_written() {
    const COUNT: usize = 20_000;
    let plane = shared().await;
    let owner = plane.tenant("large", TenantSpec { max_memories: -1, ..TenantSpec::default() }).await.unwrap();
    let ada = plane.client(&owner);
    let filler = "what was said that day ".repeat(30);
    let file = (0..COUNT).fold(String::new(), |mut text, n| {
        writeln!(text, "{}", json!({ "id": format!("n{n}"), "content": format!("note {n}: {filler}") })).unwrap();
        text
    });
    assert_eq!(counts(&import(&ada, NDJSON, file).await), [COUNT as u64, 0, 0]);
    let ids: Vec<String> = {
        let exported = export(&ada).await;
        memories(&exported).iter().map(|memory| memory["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids.len(), COUNT);

    let response = ada.request(Method::GET, "/export").send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    let mut body = response.bytes_stream();
    let mut text = body.next().await.unwrap().unwrap().to_vec();
    // While nobody reads on, no transaction of this tenant's engine is open for it.
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    let begun: String = sqlx::query_scalar("SELECT clock_timestamp()::text").fetch_one(&mut superuser).await.unwrap();
    let (mut forgotten, mut stored) = (BTreeSet::new(), BTreeSet::new());
    for id in ids.iter().rev().step_by(200) {
        assert_eq!(ada.delete(&format!("/forget/{id}")).await.unwrap().status, 200);
        forgotten.insert(id.clone());
        stored.insert(ada.store("written meanwhile").await.unwrap().body["id"].as_str().unwrap().to_owned());
    }
    let open: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'stellar_pool' AND xact_start < $1::timestamptz",
    )
    .bind(&begun)
    .fetch_one(&mut superuser)
    .await
    .unwrap();
    assert_eq!(open, 0, "an export holds no snapshot");
    while let Some(part) = body.next().await {
        text.extend_from_slice(&part.unwrap());
    }

    let exported = lines(std::str::from_utf8(&text).unwrap());
    let held: Vec<&str> = memories(&exported).iter().map(|memory| memory["id"].as_str().unwrap()).collect();
    let distinct: BTreeSet<&str> = held.iter().copied().collect();
    assert_eq!(held.len(), distinct.len(), "each at most once");
    let missing = ids.iter().filter(|id| !distinct.contains(&***id) && !forgotten.contains(*id)).count();
    assert_eq!(missing, 0, "all that was there and was not forgotten is in it");
    let known: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    let foreign = distinct.iter().filter(|id| !known.contains(**id) && !stored.contains(**id)).count();
    assert_eq!(foreign, 0);
    assert_eq!(exported[0]["total"], COUNT);
    let (first, last) =
        (exported[0]["change_seq"].as_u64().unwrap(), exported.last().unwrap()["change_seq"].as_u64().unwrap());
    // Zones are put in order meanwhile, and each move is a change.
    assert!(first >= COUNT as u64 && last >= first, "{first} {last}");
}
