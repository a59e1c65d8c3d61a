//! A socket over a pipe in memory, with a client that sends what it likes.

use std::{net::Ipv4Addr, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncWriteExt as _, DuplexStream, duplex},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::protocol::{
        Role,
        frame::{
            FrameHeader,
            coding::{Control, Data, OpCode},
        },
    },
};

use super::*;
use crate::{
    Rooms, Times,
    fake::{CHANGE, Fake, PAGE, POISON},
    run::RUN_BYTES,
    wire::{FRAME_MOST, HELLO_MOST},
};

const PIPE: usize = 16 * 1024;
/// Longer than anything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(40);

type Client = WebSocketStream<DuplexStream>;

/// The client's end of a socket.
fn open(rooms: &Rooms<Fake>) -> DuplexStream {
    let (ours, theirs) = duplex(PIPE);
    tokio::spawn(serve(rooms.0.clone(), Socket::new(ours), Ipv4Addr::LOCALHOST.into()));
    theirs
}

async fn connect(rooms: &Rooms<Fake>) -> Client {
    WebSocketStream::from_raw_socket(open(rooms), Role::Client, None).await
}

async fn enter(rooms: &Rooms<Fake>, hello: Value) -> Client {
    let mut client = connect(rooms).await;
    client.send(Message::Text(hello.to_string().into())).await.expect("sent");
    assert_eq!(frame(&mut client).await.expect("an answer")["authenticated"], true);
    client
}

/// The next frame, or the code and the reason of the close.
async fn frame(client: &mut Client) -> Result<Value, (u16, String)> {
    loop {
        match timeout(PATIENCE, client.next()).await.expect("something comes") {
            Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).expect("JSON")),
            Some(Ok(Message::Close(Some(close)))) => return Err((close.code.into(), close.reason.to_string())),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// How the socket is closed, whatever comes before.
async fn closed(client: &mut Client) -> (u16, String) {
    loop {
        if let Err(close) = frame(client).await {
            return close;
        }
    }
}

/// A client's frame: masked.
fn bytes(payload: Vec<u8>, opcode: OpCode, is_final: bool) -> Vec<u8> {
    let head = FrameHeader { opcode, is_final, mask: Some([0; 4]), ..FrameHeader::default() };
    let mut bytes = Vec::new();
    head.format(payload.len() as u64, &mut bytes).expect("a head in memory");
    bytes.extend(payload);
    bytes
}

/// Writes bytes and then one frame over and over, until the server takes no more. Returns how the socket was closed.
async fn flood(rooms: &Rooms<Fake>, first: Vec<u8>, again: Vec<u8>) -> (u16, String) {
    let (read, mut write) = tokio::io::split(open(rooms));
    let writing = tokio::spawn(async move {
        let many = again.repeat(1000);
        let _ = write.write_all(&first).await;
        while write.write_all(&many).await.is_ok() {}
    });
    let mut client =
        WebSocketStream::from_raw_socket(tokio::io::join(read, tokio::io::sink()), Role::Client, None).await;
    let close = loop {
        match timeout(PATIENCE, client.next()).await.expect("the server ends it") {
            Some(Ok(Message::Close(Some(close)))) => break (close.code.into(), close.reason.to_string()),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    drop(client);
    writing.abort();
    close
}

#[tokio::test]
async fn socket_behind_is_sent_nothing_after_its_key_ended() {
    let service = Fake::default();
    let (rooms, _, _) = service.rooms(Times::default());
    let mut client = enter(&rooms, json!({ "since": 0 })).await;
    for seq in 1..=3 * PAGE {
        assert_eq!(frame(&mut client).await.expect("a change")["seq"], seq);
    }
    service.revoke();
    let mut after = 0;
    let close = loop {
        match frame(&mut client).await {
            Ok(_) => after += CHANGE,
            Err(close) => break close,
        }
    };
    assert_eq!(close.0, code::KEY_ENDED);
    // What was in the pipe and with the client, and the piece that was on its way.
    let on_the_way = 2 * PIPE + 2 * RUN_BYTES;
    assert!(after <= on_the_way, "{after} bytes of changes after the key ended");
}

#[tokio::test]
async fn socket_that_takes_nothing_ends_with_its_key() {
    let service = Fake::default();
    let (rooms, metrics, _) = service.rooms(Times { send: PATIENCE * 2, ..Times::default() });
    let client = enter(&rooms, json!({ "since": 0 })).await;
    service.revoke();
    let gone = async {
        while metrics.sockets.get() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("it ends, though what was begun is not read");
    drop(client);
}

#[tokio::test]
async fn acknowledgement_is_not_sent_after_the_key_ended() {
    let service = Fake::default();
    service.away.store(3, std::sync::atomic::Ordering::SeqCst);
    let (rooms, _, _) = service.rooms(Times::default());
    let mut client = enter(&rooms, json!({})).await;
    client.send(Message::Text(json!({ "op": "remove", "op_id": "a" }).to_string().into())).await.expect("sent");
    while service.attempts.lock().expect("no panic").is_empty() {
        tokio::task::yield_now().await;
    }
    service.revoke();
    assert_eq!(frame(&mut client).await.expect_err("nothing more").0, code::KEY_ENDED);
}

#[tokio::test]
async fn operation_is_not_carried_out_after_the_key_ended() {
    let service = Fake::default();
    let (rooms, _, _) = service.rooms(Times::default());
    let mut client = enter(&rooms, json!({})).await;
    service.revoke();
    client.send(Message::Text(json!({ "op": "remove", "op_id": "a" }).to_string().into())).await.expect("sent");
    assert_eq!(frame(&mut client).await.expect_err("nothing more").0, code::KEY_ENDED);
    assert!(service.attempts.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn socket_behind_is_told_at_once_that_the_server_ends() {
    let (rooms, _, leaving) = Fake::default().rooms(Times::default());
    let mut client = enter(&rooms, json!({ "since": 0 })).await;
    frame(&mut client).await.expect("a change");
    leaving.cancel();
    assert_eq!(closed(&mut client).await.0, code::RESTART);
}

#[tokio::test]
async fn innocent_operations_of_a_refused_batch_are_carried_out() {
    let service = Fake::default();
    // Those that follow the first wait together.
    service.away.store(2, std::sync::atomic::Ordering::SeqCst);
    let (rooms, _, _) = service.rooms(Times::default());
    let mut client = enter(&rooms, json!({})).await;
    for op_id in ["first", "a", "b", "c"] {
        let content = if op_id == "b" { POISON } else { "good" };
        let store = json!({ "op": "store", "op_id": op_id, "content": content });
        client.feed(Message::Text(store.to_string().into())).await.expect("sent");
    }
    client.flush().await.expect("sent");
    for op_id in ["first", "a", "b", "c"] {
        let answer = frame(&mut client).await.expect("an answer");
        assert_eq!(answer["op_id"], op_id, "in order: {answer}");
        if op_id == "b" {
            assert_eq!((&answer["type"], &answer["error"]), (&json!("error"), &json!("invalid-request")), "{answer}");
            assert_eq!(answer["detail"], "it is not valid JSON");
        } else {
            assert_eq!((&answer["type"], &answer["applied"]), (&json!("ack"), &json!(true)), "{answer}");
        }
    }
    let attempts = service.attempts.lock().expect("no panic").clone();
    let carried_out: usize = attempts.iter().sum();
    assert!(carried_out <= 3 * 4 + 4, "what is refused is not repeated: {attempts:?}");
}

#[tokio::test]
async fn refused_operation_is_never_repeated() {
    let service = Fake::default();
    let (rooms, _, _) = service.rooms(Times::default());
    let mut client = enter(&rooms, json!({})).await;
    let store = json!({ "op": "store", "op_id": "a", "content": POISON });
    client.send(Message::Text(store.to_string().into())).await.expect("sent");
    assert_eq!(frame(&mut client).await.expect("an answer")["op_id"], "a");
    assert_eq!(*service.attempts.lock().expect("no panic"), [1]);
}

#[tokio::test]
async fn late_first_frame_may_come_again() {
    let (rooms, _, _) = Fake::default().rooms(Times { hello: Duration::from_millis(20), ..Times::default() });
    let mut client = connect(&rooms).await;
    let answer = frame(&mut client).await.expect("an answer");
    assert_eq!((&answer["authenticated"], &answer["error"]), (&json!(false), &json!("request-timeout")));
    assert_eq!(closed(&mut client).await.0, code::TRY_LATER);
}

#[tokio::test]
async fn first_frame_over_4_kib_is_refused_by_its_head() {
    let (rooms, _, _) = Fake::default().rooms(Times::default());
    let text = |length: usize| {
        let mut text = br#"{"since":1000000}"#.to_vec();
        text.resize(length, b' ');
        text
    };
    let fits = bytes(text(HELLO_MOST), OpCode::Data(Data::Text), true);
    let mut client = open(&rooms);
    client.write_all(&fits).await.expect("sent");
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    assert_eq!(frame(&mut client).await.expect("an answer")["authenticated"], true);

    // Nothing but the head is sent: it is not waited for what it announces.
    let head = bytes(text(FRAME_MOST), OpCode::Data(Data::Text), true)[..14].to_vec();
    let half = bytes(text(HELLO_MOST), OpCode::Data(Data::Text), false);
    let in_two = [half, bytes(vec![b' '], OpCode::Data(Data::Continue), true)].concat();
    for too_long in [head, bytes(text(HELLO_MOST + 1), OpCode::Data(Data::Text), true), in_two] {
        let mut client = open(&rooms);
        client.write_all(&too_long).await.expect("sent");
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let (code, reason) = closed(&mut client).await;
        assert_eq!((code, reason.contains("4 KiB")), (code::TOO_BIG, true), "{reason}");
    }
}

#[tokio::test]
async fn longest_message_is_taken_after_the_first_frame() {
    let (rooms, _, _) = Fake::default().rooms(Times::default());
    let mut client = enter(&rooms, json!({})).await;
    let around = json!({ "op": "store", "op_id": "a", "content": "" }).to_string().len();
    let store = json!({ "op": "store", "op_id": "a", "content": "x".repeat(FRAME_MOST - around) }).to_string();
    assert_eq!(store.len(), FRAME_MOST);
    client.send(Message::Text(store.into())).await.expect("sent");
    assert_eq!(frame(&mut client).await.expect("an answer")["type"], "ack");
    client.send(Message::Text("x".repeat(FRAME_MOST + 1).into())).await.expect("sent");
    let (code, reason) = closed(&mut client).await;
    assert_eq!((code, reason.contains("256 KiB")), (code::TOO_BIG, true), "{reason}");
}

#[tokio::test]
async fn endless_frames_without_a_message_are_ended() {
    let (rooms, _, _) = Fake::default().rooms(Times::default());
    let hello = bytes(b"{}".to_vec(), OpCode::Data(Data::Text), true);
    let begun = bytes(b"{".to_vec(), OpCode::Data(Data::Text), false);
    let fragment = bytes(Vec::new(), OpCode::Data(Data::Continue), false);
    let ping = bytes(Vec::new(), OpCode::Control(Control::Ping), true);
    for (first, again) in [
        ([hello.clone(), begun.clone()].concat(), fragment.clone()),
        (hello, ping.clone()),
        // Before there was a key, too.
        (begun, fragment),
        (Vec::new(), ping),
    ] {
        let (code, reason) = flood(&rooms, first, again).await;
        assert_eq!((code, reason.contains("without a message")), (code::POLICY, true), "{reason}");
    }
}
