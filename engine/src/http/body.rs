//! JSON bodies, refused with a reason that names what is wrong.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request, rejection::BytesRejection},
    http::{StatusCode, header},
};
use serde::de::DeserializeOwned;
use tenancy::ProblemType;

use super::{ApiError, members::fault};

/// A body that is sent as JSON: its bytes. [`JsonBody::read`] parses it.
pub(super) struct JsonBody(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !content_type.is_some_and(is_json) {
            return Err(ApiError::new(
                ProblemType::UnsupportedMediaType,
                "send the body with Content-Type: application/json",
            ));
        }
        Bytes::from_request(request, state).await.map(Self).map_err(|rejection| refused(&rejection))
    }
}

impl JsonBody {
    /// Parses an object.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let invalid = |what: String| ApiError::new(ProblemType::InvalidRequest, what);
        let first = self.0.iter().find(|byte| !byte.is_ascii_whitespace());
        match first {
            None => return Err(invalid("the body is empty: a JSON object is needed".to_owned())),
            // Serde would take an array for a struct.
            Some(byte) if *byte != b'{' => return Err(invalid("the body must be a JSON object".to_owned())),
            Some(_) => {}
        }
        let text = std::str::from_utf8(&self.0).map_err(|_| invalid("the body is not UTF-8".to_owned()))?;
        serde_json::from_str(text).map_err(|error| {
            let (fault, line, column) = (fault(text, &error), error.line(), error.column());
            invalid(format!("the body is not valid: {fault} at line {line} column {column}"))
        })
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn refused(rejection: &BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        ApiError::new(ProblemType::PayloadTooLarge, "the body is larger than is taken here")
    } else {
        ApiError::new(ProblemType::InvalidRequest, "the body could not be read to its end")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Draft;

    fn detail(body: &str) -> String {
        JsonBody(Bytes::copy_from_slice(body.as_bytes())).read::<Draft>().expect_err("refused").to_string()
    }

    #[test]
    fn a_refusal_names_what_is_wrong() {
        assert!(detail(r#"{"content":"x","tenant":"y"}"#).starts_with("the body is not valid: unknown field `tenant`"));
        assert!(detail("{}").contains("missing field `content`"));
        assert!(detail(r#"{"content":"x","content":"y"}"#).contains("duplicate field `content`"));
        assert!(detail(r#"{"content":"x","importance":[]}"#).contains("`importance`: invalid type"));
        assert!(detail(r#"{"content":7}"#).contains("`content`: invalid type"));
        assert!(detail(r#"["x"]"#).contains("object"));
        assert!(detail("  ").contains("empty"));
        assert!(detail(r#"{"content":"\ud800"}"#).contains("not valid"));
    }
}
