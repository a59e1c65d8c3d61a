//! Sockets and event streams: who may enter a room, and how its log is read and written, which is by the tenant's engine.
//! The engine may be replaced, killed or moved meanwhile: questions and operations are ordinary requests to whichever
//! serves the tenant then.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::{Body, to_bytes};
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use sync::{Admission, Changes, Failure, Hello, Limits, Outcome, Refusal, Service, Standing, Unavailable};
use tenancy::{ApiKey, ApiKeyHash, TenantId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    auth::{self, Caller},
    client_address::FailureLimits,
    directory::{Directory, Tenant},
    error::{Error, chain},
    key_use::KeyUses,
    presence::Presence,
    proxy::{Passing, Proxy},
    router::{Answer, Handler, Repeat, Route, RouteTime, Weight},
};

/// The engine's log, which no client's request reaches.
static CHANGES: Route = Route {
    method: Method::GET,
    template: "/internal/v1/changes",
    handler: Handler::Engine,
    time: RouteTime::Follow,
    body_limit: 0,
    repeat: Repeat::Always,
    answer: Answer::Followed,
    weight: Weight::Request,
};
/// Where the operations of sockets go: as those of a client's batch, and bounded by the rooms.
static OPERATIONS: Route = Route {
    method: Method::POST,
    template: "/api/v1/batch",
    handler: Handler::Engine,
    time: RouteTime::Store,
    body_limit: ANSWER_MOST,
    repeat: Repeat::WithKey,
    answer: Answer::Whole,
    weight: Weight::Request,
};
const ANSWER_MOST: usize = 64 * 1024 * 1024;

/// What rooms ask.
pub struct Engines {
    /// Who is who, and where.
    pub directory: Arc<Directory>,
    /// The way to the engines.
    pub proxy: Arc<Proxy>,
    /// With how many gateways a tenant's sockets are shared.
    pub presence: Arc<Presence>,
    /// Which keys were used.
    pub key_uses: Arc<KeyUses>,
    /// Who fails to authenticate too often.
    pub failures: Arc<FailureLimits>,
    /// The start, from which limiters count.
    pub started: Instant,
}

impl Service for Engines {
    type Member = Caller;

    async fn admit(&self, hello: Hello, client: IpAddr) -> Result<Admission<Caller>, Refusal> {
        let Hello { api_key, since: _, agent } = hello;
        let shown = api_key.ok_or(Error::MissingKey);
        let shown = shown.and_then(|key| ApiKey::parse(key.trim()).map_err(|_| Error::InvalidKey));
        let caller = auth::caller(shown, client, &self.directory, &self.failures, self.started.elapsed()).await;
        let caller = caller.map_err(|error| refusal(&error))?;
        if caller.tenant.suspended {
            return Err(refusal(&Error::Suspended));
        }
        if let Some(agent) = agent.filter(|agent| *agent != *caller.agent) {
            // As short as an agent's name may be; longer ones are none.
            let agent: String = agent.chars().take(64).collect();
            let detail = format!("the key belongs to the agent {}, not to {agent}", caller.agent);
            return Err(Refusal { error: "invalid-api-key", detail, code: 1008 });
        }
        self.key_uses.note(&caller, OffsetDateTime::now_utc());
        Ok(Admission { tenant: caller.tenant.id, agent: caller.agent.to_string(), member: caller })
    }

    fn standing(&self, caller: &Caller) -> Standing {
        match self.directory.find_key(&caller.key_hash) {
            _ if self.directory.is_too_old() => Standing::Unknown,
            Some((tenant, _)) if tenant.suspended => Standing::Suspended,
            Some((_, holder)) if holder.expires_at.is_none_or(|end| end > OffsetDateTime::now_utc()) => Standing::Good,
            _ => Standing::KeyEnded,
        }
    }

    fn limits(&self, caller: &Caller) -> Limits {
        let tenant = self.directory.find(caller.tenant.id).unwrap_or_else(|| caller.tenant.clone());
        Limits {
            // An equal part, rounded up: together the gateways never refuse what the tier allows.
            sockets: tenant.max_sockets.map(|most| most.div_ceil(self.presence.live().max(1))),
            operations_per_second: tenant.socket_messages_per_second,
        }
    }

    async fn changes(&self, tenant: TenantId, since: Option<i64>, wait: Duration) -> Result<Changes, Unavailable> {
        let tenant = self.directory.find(tenant).ok_or_else(gone)?;
        let uri = match since {
            Some(since) => format!("{}?since={since}&wait_ms={}", CHANGES.template, wait.as_millis()),
            None => CHANGES.template.to_owned(),
        };
        let (status, answer) = self.ask(as_room(tenant), &CHANGES, &uri, Body::empty()).await?;
        if status != StatusCode::OK {
            return Err(Unavailable(format!("the engine answered {status}")));
        }
        let text =
            std::str::from_utf8(&answer).map_err(|_| Unavailable("the engine's answer is no text".to_owned()))?;
        Changes::from_json(text, since).map_err(|error| Unavailable(format!("the engine's page of changes: {error}")))
    }

    async fn carry_out(&self, caller: &Caller, operations: &[Box<RawValue>]) -> Result<Vec<Outcome>, Failure> {
        let tenant = self.directory.find(caller.tenant.id).ok_or_else(gone)?;
        let caller = Caller { tenant, ..caller.clone() };
        self.key_uses.note(&caller, OffsetDateTime::now_utc());
        let mut body = String::from(r#"{"operations":["#);
        for (n, operation) in operations.iter().enumerate() {
            if n > 0 {
                body.push(',');
            }
            body.push_str(operation.get());
        }
        body.push_str("]}");
        match self.ask(caller, &OPERATIONS, OPERATIONS.template, Body::from(body)).await? {
            (StatusCode::OK, answer) => Ok(outcomes(&answer, operations.len())?),
            (status, answer) => Err(sync::failure(status.as_u16(), &answer)),
        }
    }
}

impl Engines {
    /// Sends a request to whichever engine serves the tenant now. Returns its answer, whatever it says.
    async fn ask(
        &self,
        caller: Caller,
        route: &'static Route,
        uri: &str,
        body: Body,
    ) -> Result<(StatusCode, bytes::Bytes), Unavailable> {
        let unavailable = |error: &dyn std::error::Error| Unavailable(chain(error));
        let mut request = Request::new(body);
        *request.method_mut() = route.method.clone();
        *request.uri_mut() = uri.parse().map_err(|error: http::uri::InvalidUri| unavailable(&error))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request_id = HeaderValue::try_from(Uuid::new_v4().to_string()).map_err(|error| unavailable(&error))?;
        let (parts, body) = request.into_parts();
        let passed =
            self.proxy.pass(Passing { caller, route, parts, body, request_id: &request_id, carried: None }).await;
        let answer: Response<Body> = passed.map_err(|error| unavailable(&error))?;
        let (parts, body) = answer.into_parts();
        let bytes = to_bytes(body, ANSWER_MOST).await.map_err(|error| unavailable(&error))?;
        Ok((parts.status, bytes))
    }
}

/// A room reads for all who are in it: in no agent's name and with nobody's key.
fn as_room(tenant: Arc<Tenant>) -> Caller {
    Caller { tenant, agent: "".into(), key_id: Uuid::nil(), key_hash: ApiKeyHash::from_bytes([0; 32]) }
}

fn gone() -> Unavailable {
    Unavailable("the tenant is not served".to_owned())
}

fn refusal(error: &Error) -> Refusal {
    let code = match error {
        Error::Suspended => 4002,
        // Another time it may be let in: a client that takes this for final would be gone for good.
        Error::NotLoaded | Error::DirectoryTooOld | Error::TooManyFailures(_) => 1013,
        _ => 1008,
    };
    Refusal { error: error.kind(), detail: error.detail(), code }
}

#[derive(Deserialize)]
struct Answered {
    results: Vec<Map<String, Value>>,
}

/// The answers to a batch, in its order. One that may be given otherwise later makes the whole batch one to try again:
/// what was carried out is not repeated.
fn outcomes(answer: &[u8], asked: usize) -> Result<Vec<Outcome>, Unavailable> {
    let Answered { results } = serde_json::from_slice(answer)
        .map_err(|error| Unavailable(format!("the engine's answer to a batch: {error}")))?;
    if results.len() != asked {
        return Err(Unavailable(format!("the engine answered {} of {asked} operations", results.len())));
    }
    results.into_iter().map(sync::outcome).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(results: &str, asked: usize) -> Result<Vec<Outcome>, Unavailable> {
        outcomes(format!(r#"{{"results":[{results}]}}"#).as_bytes(), asked)
    }

    #[test]
    fn each_operation_of_a_batch_needs_its_answer() {
        let done = r#"{"op_id":"a","status":201,"id":"x","seq":7,"applied":true}"#;
        let refused =
            r#"{"op_id":"b","status":400,"problem":{"type":"https://stellar-memory.dev/problems/invalid-request"}}"#;
        let both = read(&format!("{done},{refused}"), 2).expect("answers");
        assert_eq!(both.iter().map(|outcome| outcome.refused).collect::<Vec<_>>(), [false, true]);
        assert!(read(done, 2).is_err(), "an answer is missing");
        assert!(read(r#"{"op_id":"a","status":503,"problem":{}}"#, 1).is_err(), "it may be answered otherwise later");
    }

    #[test]
    fn largest_batch_of_a_socket_fits_the_engines_bound() {
        let batch =
            crate::router::ROUTES.iter().find(|route| route.template == OPERATIONS.template).expect("the route");
        assert!(sync::BATCH_BYTES + r#"{"operations":[]}"#.len() < batch.body_limit);
    }

    #[test]
    fn refusals_that_may_pass_end_no_client_for_good() {
        let wait = std::time::Duration::from_secs(1);
        let code = |error: Error| refusal(&error).code;
        assert_eq!((code(Error::NotLoaded), code(Error::TooManyFailures(wait))), (1013, 1013));
        assert_eq!(code(Error::DirectoryTooOld), 1013);
        assert_eq!((code(Error::MissingKey), code(Error::InvalidKey), code(Error::Suspended)), (1008, 1008, 4002));
    }
}
