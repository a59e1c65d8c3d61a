//! Stands between an operator and the API server, in plain HTTP on the one side, and tells a [`Crash`] of every write that was
//! done.

use std::{convert::Infallible, path::PathBuf, sync::Arc};

use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::{Client, client::Body};
use serde_json::json;
use tokio::net::TcpListener;

use crate::crash::Crash;

/// Starts it; the kubeconfig of it.
pub async fn start(client: Client, crash: Arc<Crash>, folder: &std::path::Path) -> PathBuf {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{ "name": "it", "cluster": { "server": server } }],
        "users": [{ "name": "it", "user": {} }],
        "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
    });
    let path = folder.join("proxy.kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (client, crash) = (client.clone(), crash.clone());
            let serve = service_fn(move |request| forward(request, client.clone(), crash.clone()));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), serve));
        }
    });
    path
}

async fn forward(
    request: Request<Incoming>,
    client: Client,
    crash: Arc<Crash>,
) -> Result<Response<Either<Full<Bytes>, Body>>, Infallible> {
    let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(request.method());
    let (mut parts, body) = request.into_parts();
    parts.headers.remove(http::header::HOST);
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    // An event is made or, by an operator that remembers it, counted up.
    let step = match parts.uri.path() {
        events if events.starts_with("/apis/events.k8s.io/") => "an event".to_owned(),
        path => format!("{} {path}", parts.method),
    };
    parts.uri = path.parse().unwrap();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let Ok(answer) = client.send(Request::from_parts(parts, Body::from(body.clone()))).await else {
        return Ok(Response::builder().status(502).body(Either::Left(Full::default())).unwrap());
    };
    if !writes {
        return Ok(answer.map(Either::Right));
    }
    let (parts, answer) = answer.into_parts();
    let answer = answer.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    // The server has done it, unless it refused; whether the operator hears of it is what the crash decides.
    if parts.status.is_success() {
        crash.step(&step, &[path.as_bytes(), &body]);
    }
    Ok(Response::from_parts(parts, Either::Left(Full::new(answer))))
}
