//! From an HTTP request to a socket: the opening handshake of RFC 6455 §4.2.

use axum::body::Body;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// Why a request cannot become a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoUpgrade {
    /// It does not ask for one.
    #[error("this is a WebSocket: connect with a WebSocket client (HTTP/1.1, Upgrade: websocket)")]
    NotAsked,
    /// It asks for an earlier draft.
    #[error("only version 13 of the WebSocket protocol is spoken here (RFC 6455)")]
    Version,
    /// Its Sec-WebSocket-Key is not 16 bytes in base64.
    #[error("Sec-WebSocket-Key is missing or malformed")]
    Key,
}

/// A request that becomes a socket once it is answered.
pub struct WebSocketUpgrade {
    upgrade: OnUpgrade,
    accept: HeaderValue,
}

impl WebSocketUpgrade {
    /// Checks the request's side of the handshake.
    ///
    /// # Errors
    /// [`NoUpgrade`].
    pub fn of(request: &mut Request<Body>) -> Result<Self, NoUpgrade> {
        let headers = request.headers();
        let asks = names(headers, &CONNECTION, "upgrade") && names(headers, &UPGRADE, "websocket");
        if !asks || request.method() != Method::GET || request.version() != Version::HTTP_11 {
            return Err(NoUpgrade::NotAsked);
        }
        if headers.get(SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
            return Err(NoUpgrade::Version);
        }
        let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
        let key = keys.next().filter(|key| keys.next().is_none() && is_key(key.as_bytes())).ok_or(NoUpgrade::Key)?;
        // Base64 is always a valid value.
        let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|_| NoUpgrade::Key)?;
        Ok(Self { upgrade: hyper::upgrade::on(request), accept })
    }

    /// 101, after which the connection is the socket's.
    pub fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, WEBSOCKET);
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept.clone());
        response
    }

    pub(crate) async fn socket(self) -> hyper::Result<TokioIo<Upgraded>> {
        self.upgrade.await.map(TokioIo::new)
    }
}

impl NoUpgrade {
    /// What the answer says besides.
    pub fn headers(self) -> [(HeaderName, HeaderValue); 2] {
        [(UPGRADE, WEBSOCKET), (SEC_WEBSOCKET_VERSION, VERSION)]
    }
}

/// Whether a header's list has the word, in any case.
fn names(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(word))
}

/// 16 bytes in base64: 22 digits and two signs of equality.
fn is_key(key: &[u8]) -> bool {
    let digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key[..22].iter().all(digit) && key.ends_with(b"==")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(changes: &[(&'static str, Option<&'static str>)]) -> Result<WebSocketUpgrade, NoUpgrade> {
        let mut request = Request::new(Body::empty());
        let usual = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value) in usual {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        for (name, value) in changes {
            request.headers_mut().remove(*name);
            if let Some(value) = value {
                request.headers_mut().insert(*name, HeaderValue::from_static(value));
            }
        }
        WebSocketUpgrade::of(&mut request)
    }

    #[test]
    fn the_sample_of_the_rfc_is_accepted() {
        let upgrade = asked(&[]).expect("a handshake");
        assert_eq!(upgrade.response().headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_no_handshake_is_told_why() {
        let refused = |name, value| asked(&[(name, value)]).err();
        assert_eq!(refused("connection", Some("close")), Some(NoUpgrade::NotAsked));
        assert_eq!(refused("upgrade", None), Some(NoUpgrade::NotAsked));
        assert_eq!(refused("sec-websocket-version", Some("8")), Some(NoUpgrade::Version));
        for key in [None, Some(""), Some("dGhlIHNhbXBsZSBub25jZQ"), Some("AAAAAAAAAAAAAAAAAAAAAAA=")] {
            assert_eq!(refused("sec-websocket-key", key), Some(NoUpgrade::Key), "{key:?}");
        }
    }
}
