//! Messages whose end two programs could see at different places. Each is one request to whoever stands in front of the
//! gateway, so whatever is hidden behind its other end must never be answered, nor reach an engine.

/// The id of what is hidden, which must not come back.
pub const HIDDEN: &str = "hidden";
/// The id of what honestly follows a message that has ended.
pub const FOLLOWING: &str = "following";

/// What is hidden: a whole request of the attacker's, and the begin of one that would swallow the next client's.
fn hidden(key: &str) -> [String; 2] {
    let begin = format!("host: a\r\nx-api-key: {key}\r\nx-request-id: {HIDDEN}\r\n");
    [
        format!("GET /api/v1/stats HTTP/1.1\r\n{begin}\r\n"),
        format!("GET /api/v1/memories HTTP/1.1\r\n{begin}x-swallow: "),
    ]
}

/// Header lines that leave a doubt about the body's end, for a body that is chunked and has a length at once.
const FRAMINGS: &[&str] = &[
    "content-length: {all}\r\ntransfer-encoding: chunked",
    "transfer-encoding: chunked\r\ncontent-length: {all}",
    "content-length: {all}\r\nTransfer-Encoding: Chunked",
    "content-length: {all}\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked",
    "content-length: {all}\r\ntransfer-encoding: chunked, identity",
    "content-length: {all}\r\ntransfer-encoding: identity, chunked",
    "content-length: {all}\r\ntransfer-encoding: xchunked",
    "content-length: {all}\r\ntransfer-encoding: chunked;q=1",
    "content-length: {all}\r\ntransfer-encoding: \"chunked\"",
    "content-length: {all}\r\ntransfer-encoding : chunked",
    "content-length: {all}\r\ntransfer-encoding:\tchunked",
    "content-length: {all}\r\ntransfer-encoding:\x0bchunked",
    "content-length: {all}\r\ntransfer-encoding:\r\n chunked",
    "content-length: {all}\r\nx-folded: a\r\n\ttransfer-encoding: chunked",
    "content-length: {all}\r\nx-bare: a\ntransfer-encoding: chunked",
    "content-length: {all}\r\nx-bare: a\rtransfer-encoding: chunked",
    "content-length: {all}\r\ntransfer_encoding: chunked",
    "content-length: {all}\r\n transfer-encoding: chunked",
    "content-length: {chunked}\r\ncontent-length: {all}",
    "content-length: {all}\r\ncontent-length: {chunked}",
    "content-length: {chunked}, {all}",
    "content-length: +{all}",
    "content-length: {all}\r\ncontent_length: {chunked}",
    "content-length : {all}",
    "content-length: 0x{all}",
    "content-length: {all} {chunked}",
    "content-length: 0{all}",
    "content-length:\r\n {all}",
];

/// Chunked bodies that have ended by RFC 9112 §7.1, or by what everybody reads: what comes next is a request of its own.
const ENDED: &[&str] = &[
    "0\r\n\r\n",
    "0 \r\n\r\n",
    "0;\r\n\r\n",
    "00000000000000000\r\n\r\n",
    "0\r\nx-stellar-tenant: forged\r\n\r\n",
    "0\r\nhost: forged\r\ncontent-length: 5\r\n\r\n",
];

/// Begins of a chunked body that readers take differently; each is followed by what is hidden.
const CHUNKS: &[&str] = &[
    "0x0\r\n\r\n",
    "-0\r\n\r\n",
    "+0\r\n\r\n",
    " 0\r\n\r\n",
    "0\n\n",
    "0\n\r\n",
    "0;a=\"\r\n\r\n\"\r\n\r\n",
    "0;\n\r\n\r\n",
    "10000000000000000\r\n",
    "FFFFFFFFFFFFFFFF\r\n",
    "1\r\nab\r\n0\r\n\r\n",
    "2\r\na\r\n0\r\n\r\n",
    "G\r\n\r\n",
    "\r\n0\r\n\r\n",
];

/// One request with something behind it.
pub struct Case {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// All cases, hiding what a holder of `key` would send.
pub fn cases(key: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: String, text: String| cases.push(Case { name, bytes: text.into_bytes() });
    let begin = |start: &str| {
        format!("{start}\r\nhost: a\r\nx-api-key: {key}\r\nx-request-id: outer\r\ncontent-type: application/json\r\n")
    };
    let (store, stats) = (begin("POST /api/v1/store HTTP/1.1"), begin("GET /api/v1/stats HTTP/1.1"));
    let [whole, _] = hidden(key);
    for chunk in ENDED {
        let following = whole.replace(HIDDEN, FOLLOWING);
        add(format!("ended by {chunk:?}"), format!("{store}transfer-encoding: chunked\r\n\r\n{chunk}{following}"));
    }
    for hidden in hidden(key) {
        for framing in FRAMINGS {
            let body = format!("0\r\n\r\n{hidden}");
            let framing = framing.replace("{all}", &body.len().to_string()).replace("{chunked}", "5");
            for head in [&store, &stats, &begin("DELETE /api/v1/forget/x HTTP/1.1")] {
                add(format!("{framing:?} after {head:?}"), format!("{head}{framing}\r\n\r\n{body}"));
            }
        }
        for chunk in CHUNKS {
            add(format!("chunk {chunk:?}"), format!("{store}transfer-encoding: chunked\r\n\r\n{chunk}{hidden}"));
        }
        // HTTP/1.0 knows no chunks.
        let old = begin("POST /api/v1/store HTTP/1.0");
        add("HTTP/1.0".to_owned(), format!("{old}transfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"));
        let chunk = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
        add("GET with chunks".to_owned(), format!("{stats}transfer-encoding: chunked\r\n\r\n{chunk}"));
        let upgrade =
            "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
        // A body with an honest length where none is expected, read or wanted.
        for (name, head) in [
            ("GET with a body", stats.clone()),
            ("a body for a path that is none", begin("POST /nowhere HTTP/1.1")),
            ("a body of the wrong kind", store.replace("application/json", "text/plain")),
            ("a body without a key", store.replace(key, "nobody's")),
            ("an upgrade to HTTP/2", format!("{stats}{upgrade}")),
            ("a body that waits to be asked for", format!("{store}expect: 100-continue\r\n")),
        ] {
            add(name.to_owned(), format!("{head}content-length: {}\r\n\r\n{hidden}", hidden.len()));
        }
    }
    cases
}
