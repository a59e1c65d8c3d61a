//! Frames, one by one, over the groups of cases that the Autobahn suite made the measure of RFC 6455: framing, pings, reserved
//! bits, opcodes, fragmentation, UTF-8, closing, limits. Frames are written by hand here: a library would not write wrong ones.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use harness::DataPlane;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{roomy, roomy_at};
use crate::shared;

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The longest message that is taken.
const MOST: usize = 256 * 1024;

struct Raw(TcpStream);

/// What the server does next.
#[derive(Debug, PartialEq)]
enum Does {
    Says(u8, Vec<u8>),
    Closes(u16),
    Ends,
}

impl Raw {
    async fn open(plane: &DataPlane, key: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", plane.gateway.port)).await.unwrap();
        let nonce = BASE64_STANDARD.encode([7; 16]);
        let head = format!(
            "GET /api/v1/sync HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {nonce}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        let mut raw = Self(stream);
        raw.send(&frame(FIN | TEXT, json!({ "api_key": key }).to_string().as_bytes())).await;
        let Does::Says(0x81, hello) = raw.next().await else { panic!("not let in") };
        assert!(String::from_utf8(hello).unwrap().contains("true"));
        raw
    }

    /// What was closed already takes nothing, which is no fault.
    async fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
    }

    async fn next(&mut self) -> Does {
        match timeout(Duration::from_secs(10), self.read()).await.expect("the server does something") {
            Ok((0x88, payload)) if payload.len() >= 2 => Does::Closes(u16::from_be_bytes([payload[0], payload[1]])),
            Ok((head, payload)) => Does::Says(head, payload),
            Err(_) => Does::Ends,
        }
    }

    async fn read(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let (head, length) = (self.0.read_u8().await?, self.0.read_u8().await?);
        assert_eq!(length & 0x80, 0, "a server's frame is not masked");
        let length = match length {
            126 => self.0.read_u16().await?.into(),
            127 => self.0.read_u64().await?,
            short => short.into(),
        };
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await?;
        Ok((head, payload))
    }

    /// A text that is no operation is answered with an error: so much was understood.
    async fn is_answered(&mut self, case: &str) {
        match self.next().await {
            Does::Says(0x81, text) => assert!(String::from_utf8_lossy(&text).contains("invalid-request"), "{case}"),
            other => panic!("{case}: {other:?}"),
        }
    }
}

/// A frame of a client: masked.
fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![head];
    match payload.len() {
        length @ ..126 => bytes.push(0x80 | length as u8),
        length @ 126..65_536 => {
            bytes.push(0x80 | 0x7e);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    let mask = [0x12, 0x34, 0x56, 0x78];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// Sends the bytes on a socket of its own; the server must close with the code.
async fn closes(case: &str, bytes: &[u8], code: u16, key: &str) {
    let mut raw = Raw::open(shared().await, key).await;
    raw.send(bytes).await;
    assert_eq!(raw.next().await, Does::Closes(code), "{case}");
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_every_length_of_frame_are_read_and_longer_ones_refused() {
    let key = roomy("frames-length").await.key;
    let mut raw = Raw::open(shared().await, &key).await;
    for length in [0, 1, 125, 126, 127, 128, 65_535, 65_536, MOST] {
        raw.send(&frame(FIN | TEXT, &vec![b'x'; length])).await;
        raw.is_answered(&format!("{length} bytes")).await;
    }
    // Byte by byte, too.
    for byte in frame(FIN | TEXT, b"slowly") {
        raw.send(&[byte]).await;
    }
    raw.is_answered("byte by byte").await;
    closes("one byte too many", &frame(FIN | TEXT, &vec![b'x'; MOST + 1]), 1009, &key).await;
    let parts = [frame(TEXT, &vec![b'x'; MOST]), frame(FIN | CONTINUATION, b"y")].concat();
    closes("one byte too many, in two frames", &parts, 1009, &key).await;
    let mut huge = vec![FIN | TEXT, 0x80 | 127];
    huge.extend(u64::MAX.to_be_bytes());
    huge.extend([0; 4]);
    let mut raw = Raw::open(shared().await, &key).await;
    raw.send(&huge).await;
    let does = raw.next().await;
    assert!(matches!(does, Does::Closes(1002 | 1009)), "a length that no frame has: {does:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered_with_what_they_carry() {
    let key = roomy("frames-ping").await.key;
    let mut raw = Raw::open(shared().await, &key).await;
    for payload in [&b""[..], b"hello", &[0xff; 125]] {
        raw.send(&frame(FIN | PING, payload)).await;
        assert_eq!(raw.next().await, Does::Says(FIN | PONG, payload.to_vec()));
    }
    raw.send(&frame(FIN | PONG, b"nobody asked")).await;
    for n in 0..10_u8 {
        raw.send(&frame(FIN | PING, &[n])).await;
    }
    for n in 0..10_u8 {
        assert_eq!(raw.next().await, Does::Says(FIN | PONG, vec![n]), "in order");
    }
    closes("a ping of 126 bytes", &frame(FIN | PING, &[b'x'; 126]), 1002, &key).await;
    closes("a ping in two frames", &frame(PING, b"x"), 1002, &key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_bits_and_opcodes_and_frames_without_a_mask_are_refused() {
    let key = roomy("frames-reserved").await.key;
    for bits in 1..8_u8 {
        closes(&format!("reserved bits {bits:03b}"), &frame(FIN | bits << 4 | TEXT, b"x"), 1002, &key).await;
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        closes(&format!("opcode {opcode}"), &frame(FIN | opcode, b"x"), 1002, &key).await;
    }
    closes("no mask", &[FIN | TEXT, 1, b'x'], 1002, &key).await;
    closes("binary", &frame(FIN | BINARY, b"x"), 1003, &key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_are_put_together_and_broken_ones_refused() {
    let key = roomy("frames-fragments").await.key;
    let mut raw = Raw::open(shared().await, &key).await;
    raw.send(&[frame(TEXT, b"one "), frame(FIN | CONTINUATION, b"text")].concat()).await;
    raw.is_answered("two fragments").await;
    raw.send(
        &[frame(TEXT, b"a"), frame(FIN | PING, b"p"), frame(CONTINUATION, b""), frame(FIN | CONTINUATION, b"b")]
            .concat(),
    )
    .await;
    assert_eq!(raw.next().await, Does::Says(FIN | PONG, b"p".to_vec()), "a ping may come between");
    raw.is_answered("with a ping between").await;
    for (case, bytes) in [
        ("a continuation of nothing", frame(FIN | CONTINUATION, b"x")),
        ("a continuation of nothing that goes on", frame(CONTINUATION, b"x")),
        ("a text within a text", [frame(TEXT, b"x"), frame(FIN | TEXT, b"y")].concat()),
        (
            "a fragment after the last",
            [frame(TEXT, b"x"), frame(FIN | CONTINUATION, b"y"), frame(FIN | CONTINUATION, b"z")].concat(),
        ),
    ] {
        let mut raw = Raw::open(shared().await, &key).await;
        raw.send(&bytes).await;
        let mut does = raw.next().await;
        while matches!(does, Does::Says(..)) {
            does = raw.next().await;
        }
        assert_eq!(does, Does::Closes(1002), "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_not_utf_8_is_refused_wherever_it_is_cut() {
    let key = roomy("frames-utf8").await.key;
    let mut raw = Raw::open(shared().await, &key).await;
    let good = "κόσμε 🜁 \u{10ffff}";
    raw.send(&frame(FIN | TEXT, good.as_bytes())).await;
    raw.is_answered("valid").await;
    let bytes = good.as_bytes();
    for cut in 1..bytes.len() {
        raw.send(&[frame(TEXT, &bytes[..cut]), frame(FIN | CONTINUATION, &bytes[cut..])].concat()).await;
        raw.is_answered(&format!("cut at {cut}")).await;
    }
    let bad: [&[u8]; 8] = [
        b"\xff",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80\x65",
        b"\x80",
        b"\xf0\x9f\x9c",
    ];
    for text in bad {
        closes(&format!("{text:x?}"), &frame(FIN | TEXT, text), 1007, &key).await;
        let parts = [frame(TEXT, &text[..text.len() / 2]), frame(FIN | CONTINUATION, &text[text.len() / 2..])].concat();
        closes(&format!("{text:x?} in two"), &parts, 1007, &key).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_is_answered_and_a_wrong_one_refused() {
    let key = roomy("frames-close").await.key;
    for code in [1000, 1001, 1003, 1007, 1011, 3000, 4999_u16] {
        let mut raw = Raw::open(shared().await, &key).await;
        raw.send(&[frame(FIN | CLOSE, &code.to_be_bytes()), frame(FIN | TEXT, b"after the close")].concat()).await;
        assert_eq!(raw.next().await, Does::Closes(code), "its code comes back");
        assert_eq!(raw.next().await, Does::Ends);
    }
    let mut raw = Raw::open(shared().await, &key).await;
    raw.send(&frame(FIN | CLOSE, b"")).await;
    assert!(matches!(raw.next().await, Does::Says(0x88, _) | Does::Closes(_)), "a close without a code is one");
    closes("a close of one byte", &frame(FIN | CLOSE, b"x"), 1002, &key).await;
    for code in [0, 999, 1004, 1005, 1006, 1016, 2999_u16] {
        closes(&format!("close {code}"), &frame(FIN | CLOSE, &code.to_be_bytes()), 1002, &key).await;
    }
    let mut raw = Raw::open(shared().await, &key).await;
    raw.send(&frame(FIN | CLOSE, b"\x03\xe8\xff\xff")).await;
    let does = raw.next().await;
    assert!(matches!(does, Does::Closes(1002 | 1007)), "a reason that is not UTF-8: {does:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_bring_no_message_end_their_socket() {
    let key = roomy("frames-nothing").await.key;
    for (case, first, again) in
        [("empty fragments", frame(TEXT, b""), frame(CONTINUATION, b"")), ("pings", Vec::new(), frame(FIN | PING, b""))]
    {
        let mut raw = Raw::open(shared().await, &key).await;
        raw.send(&first).await;
        let (mut reads, mut writes) = raw.0.into_split();
        let again = again.repeat(1000);
        let flood = tokio::spawn(async move { while writes.write_all(&again).await.is_ok() {} });
        let mut told = Vec::new();
        // Reset in the end, perhaps, for not all that it sent was read.
        let _ = timeout(Duration::from_secs(40), reads.read_to_end(&mut told)).await.expect(case);
        flood.abort();
        let reason = b"too many pings or fragments";
        let closed = told.windows(reason.len()).any(|part| part == reason);
        assert!(closed, "{case}: no close with a reason in {} bytes", told.len());
    }
}

/// A linear congruential generator (Knuth, MMIX): the same bytes in every run.
struct Bytes(u64);

impl Bytes {
    fn next(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 56) as u8
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_ends_one_socket_and_harms_no_other() {
    let plane = DataPlane::start().await.unwrap();
    let tenant = roomy_at(&plane, "frames-fuzz").await;
    let mut random = Bytes(42);
    for round in 0..300 {
        let mut raw = Raw::open(&plane, &tenant.key).await;
        let mut bytes: Vec<u8> = (0..=usize::from(random.next())).map(|_| random.next()).collect();
        if round % 2 == 0 {
            // Frames in order, with contents that are not.
            let head = [FIN | TEXT, TEXT, FIN | CONTINUATION, FIN | PING, FIN | CLOSE][usize::from(random.next()) % 5];
            bytes = frame(head, &bytes);
        }
        raw.send(&bytes).await;
        raw.0.shutdown().await.unwrap();
        // It answers what it understood, and ends.
        while let Does::Says(..) | Does::Closes(_) = raw.next().await {}
    }
    let mut raw = Raw::open(&plane, &tenant.key).await;
    raw.send(&frame(FIN | PING, b"alive")).await;
    assert_eq!(raw.next().await, Does::Says(FIN | PONG, b"alive".to_vec()));
    assert!(!plane.gateway.log().contains("panicked"), "{}", plane.gateway.log());
}
