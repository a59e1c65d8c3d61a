//! The one place where errors become responses. What a client reads, what the log says and what a metric counts are
//! three things: a detail never has a text of Postgres in it.

use std::any::Any;

use axum::{
    Json,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use tenancy::{PROBLEM_JSON, Problem, ProblemType};

use crate::{memory::Invalid, store::StoreError};

const RETRY_AFTER_SECONDS: u32 = 1;

/// Why a request is not answered with what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// A value breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Any other problem, as the client reads it.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
}

impl ApiError {
    /// A problem of a kind.
    pub fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self::Problem(Box::new(Problem::new(kind, detail)))
    }
}

/// The error as the client reads it.
pub(super) fn problem(error: ApiError) -> Problem {
    match error {
        ApiError::Problem(problem) => *problem,
        ApiError::Invalid(invalid) => {
            Problem::new(ProblemType::InvalidRequest, invalid.to_string()).with("field", invalid.field)
        }
        ApiError::Store(error) => store_problem(&error),
    }
}

fn store_problem(error: &StoreError) -> Problem {
    match error {
        StoreError::NotServedHere => {
            Problem::new(ProblemType::NotServedHere, "this engine does not serve the tenant now")
        }
        StoreError::QuotaReached { used, limit, next_tier } => {
            let way_out = match next_tier {
                Some(tier) => format!("forget some, or change to the tier {tier}"),
                None => "forget some first".to_owned(),
            };
            let problem = Problem::new(
                ProblemType::MemoryQuotaReached,
                format!("{used} of {limit} memories are used: {way_out}"),
            )
            .with("used", *used)
            .with("limit", *limit);
            match next_tier {
                Some(tier) => problem.with("next_tier", tier.as_str()),
                None => problem,
            }
        }
        StoreError::KeyReused => Problem::new(
            ProblemType::Conflict,
            "this Idempotency-Key or op_id was used for something else: send a new one, or the same request again",
        ),
        StoreError::IdTaken => {
            Problem::new(ProblemType::Conflict, "there is a memory of that id already: update it, or choose a new id")
        }
        StoreError::Unavailable { doing, .. } => {
            tracing::warn!(error = crate::error_chain(error), doing, "the database is not available");
            let changed =
                if error.is_undecided() { "whether it was carried out is not known" } else { "nothing was changed" };
            Problem::new(
                ProblemType::Unavailable,
                format!("the memory store cannot be reached just now; {changed}, try again"),
            )
        }
        StoreError::IndexTooLarge { limit } => Problem::new(
            ProblemType::IndexLimitReached,
            format!(
                "the memories of this tenant need an index of more than {} MiB, so they cannot be recalled here: forget or \
                 shorten some, or move to a larger tier; they are kept, and lists, exports and writes go on",
                limit >> 20
            ),
        ),
        StoreError::Overloaded => {
            Problem::new(ProblemType::Unavailable, "too many requests of this tenant wait already; try again")
        }
        StoreError::Failed { doing, .. } => {
            tracing::error!(error = crate::error_chain(error), doing, "a statement failed");
            Problem::new(ProblemType::Internal, "the request could not be carried out; the fault is on our side")
        }
        StoreError::Lost(_) => {
            tracing::error!(error = %error, "a task was lost");
            Problem::new(ProblemType::Internal, "the request could not be carried out; the fault is on our side")
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        problem_response(&problem(self))
    }
}

/// A problem as a response, `Retry-After` included where a retry helps.
pub fn problem_response(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(problem)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if problem.kind == ProblemType::Unavailable {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    }
    response
}

pub(super) async fn no_such_route(uri: Uri) -> ApiError {
    // A path is bounded by what hyper accepts as a request line; the first part of it is enough.
    let path: String = uri.path().chars().take(100).collect();
    ApiError::new(ProblemType::NotFound, format!("there is nothing at {path}"))
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(100).collect();
    ApiError::new(ProblemType::MethodNotAllowed, format!("{path} does not take {method}"))
}

pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response {
    tracing::error!("a handler panicked");
    ApiError::new(ProblemType::Internal, "the request could not be carried out; the fault is on our side")
        .into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_client_never_reads_what_postgres_said() {
        let source = Arc::new(sqlx::Error::Protocol("relation stellar.memories, password hunter2".into()));
        for error in [
            StoreError::Failed { doing: "fetch memories", source: source.clone() },
            StoreError::Unavailable { doing: "fetch memories", source },
        ] {
            let text = serde_json::to_string(&problem(error.into())).expect("a problem is JSON");
            assert!(!text.contains("stellar.memories") && !text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn a_quota_problem_names_the_tier_that_would_do() {
        let error = StoreError::QuotaReached { used: 30, limit: 30, next_tier: Some("pro".to_owned()) };
        let problem = problem(error.into());
        assert_eq!(problem.status, 403);
        assert_eq!(problem.extensions["next_tier"], "pro");
    }
}
