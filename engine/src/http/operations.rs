//! Operations, told to the gateway: by their number it charges for a request that has many.

use axum::{
    http::{HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};
use tenancy::OPERATIONS_HEADER;

const OPERATIONS: HeaderName = HeaderName::from_static(OPERATIONS_HEADER);

/// Says in an answer how many operations it was asked for.
pub(super) fn counted(operations: u64, answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    response.headers_mut().insert(OPERATIONS, HeaderValue::from(operations));
    response
}
