//! Sockets and event streams of local mode: the room `__local__`, in which everybody on this machine is.

use std::{net::IpAddr, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use serde_json::{Value, value::RawValue};
use sync::{
    Admission, Changes, EventsRefused, Failure, Hello, Limits, Outcome, Refusal, Rooms, Service, Standing, Unavailable,
    WebSocketUpgrade,
};
use tenancy::{ProblemType, TenantId};

use super::{Api, ApiError, batch, changes, error::problem, params::Params};
use crate::{memory::Invalid, store::Caller};

/// The name that everybody acts under.
pub(super) const AGENT: &str = "local";
/// No tier bounds whoever runs this machine; these keep a mistake small.
const LIMITS: Limits = Limits { sockets: Some(1_000), operations_per_second: 1_000 };
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// The rooms of local mode: one.
pub struct LocalRooms {
    api: Api,
    caller: Caller,
}

impl LocalRooms {
    /// Over this API, as this caller.
    pub(super) fn new(api: Api, caller: Caller) -> Self {
        Self { api, caller }
    }
}

impl Service for LocalRooms {
    type Member = ();

    async fn admit(&self, hello: Hello, _client: IpAddr) -> Result<Admission<()>, Refusal> {
        // A key means nothing here; a client that has one may send it all the same.
        let agent = hello.agent.filter(|agent| (1..=64).contains(&agent.len())).unwrap_or_else(|| AGENT.to_owned());
        Ok(Admission { member: (), tenant: self.caller.tenant, agent })
    }

    fn standing(&self, (): &()) -> Standing {
        Standing::Good
    }

    fn limits(&self, (): &()) -> Limits {
        LIMITS
    }

    async fn changes(&self, _tenant: TenantId, since: Option<i64>, wait: Duration) -> Result<Changes, Unavailable> {
        changes::read_or_wait(&self.api, &self.caller, since, wait).await.map_err(|error| unavailable(&error))
    }

    async fn carry_out(&self, (): &(), operations: &[Box<RawValue>]) -> Result<Vec<Outcome>, Failure> {
        let results = batch::carry_out(&self.api, &self.caller, operations, None).await.map_err(failure)?;
        Ok(results.into_outcomes().into_iter().map(outcome).collect::<Result<_, _>>()?)
    }
}

fn outcome(result: Value) -> Result<Outcome, Unavailable> {
    let Value::Object(fields) = result else { return Err(Unavailable("an operation has no answer".to_owned())) };
    sync::outcome(fields)
}

/// A refusal of a whole batch, as the gateway reads it from an engine.
fn failure(error: ApiError) -> Failure {
    let problem = problem(error);
    sync::failure(problem.status, &serde_json::to_vec(&problem).unwrap_or_default())
}

fn unavailable(error: &ApiError) -> Unavailable {
    Unavailable(error.to_string())
}

/// `GET /sync`
pub(super) async fn socket(State(rooms): State<Rooms<LocalRooms>>, mut request: Request<Body>) -> Response {
    match WebSocketUpgrade::of(&mut request) {
        Ok(upgrade) => {
            let response = upgrade.response();
            rooms.serve(upgrade, HERE, ());
            response
        }
        Err(error) => {
            let mut response = ApiError::new(ProblemType::UpgradeRequired, error.to_string()).into_response();
            response.headers_mut().extend(error.headers());
            response
        }
    }
}

/// `GET /events`
pub(super) async fn events(
    State(rooms): State<Rooms<LocalRooms>>,
    headers: axum::http::HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    let since = params.number("since", 0, i64::MAX)?;
    params.nothing_else()?;
    let resumed = sync::resumed_from(&headers)
        .map_err(|_| Invalid::new("Last-Event-ID", "must be the id of an event of this stream"))?;
    let tenant = tenancy::LOCAL_TENANT;
    let stream = rooms.events(tenant, (), resumed.or(since)).await;
    stream.map_err(|refused| {
        let kind = match refused {
            EventsRefused::NoLog => ProblemType::Unavailable,
            EventsRefused::Full(_) => ProblemType::TooManySockets,
        };
        ApiError::new(kind, refused.to_string())
    })
}

/// What a room is called where everybody is in it.
pub(super) const ROOM: &str = "__local__";
