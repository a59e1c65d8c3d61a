//! What rooms need from the program that serves them.

use std::{net::IpAddr, time::Duration};

use serde_json::{Map, Value, value::RawValue};
use tenancy::TenantId;

use crate::{Changes, Hello};

/// Who may enter, and how a tenant's log is read and written.
pub trait Service: Send + Sync + 'static {
    /// A client that was admitted.
    type Member: Clone + Send + Sync + 'static;

    /// Decides on the first frame of a socket.
    fn admit(
        &self,
        hello: Hello,
        client: IpAddr,
    ) -> impl Future<Output = Result<Admission<Self::Member>, Refusal>> + Send;

    /// Whether a client may still be here. Asked before each piece that it is sent, and once a second; must not wait, and
    /// costs no more than a look-up.
    fn standing(&self, member: &Self::Member) -> Standing;

    /// The limits that count for a tenant's client now. Must not wait.
    fn limits(&self, member: &Self::Member) -> Limits;

    /// What the log has after `since`, at most a page. Nothing there: waits for it, up to `wait`. Without `since`: only
    /// where the log ends now.
    fn changes(
        &self,
        tenant: TenantId,
        since: Option<i64>,
        wait: Duration,
    ) -> impl Future<Output = Result<Changes, Unavailable>> + Send;

    /// Carries out operations in order and answers each, in their order. Repeating it repeats nothing: every operation has
    /// an `op_id`.
    fn carry_out(
        &self,
        member: &Self::Member,
        operations: &[Box<RawValue>],
    ) -> impl Future<Output = Result<Vec<Outcome>, Failure>> + Send;
}

/// A client that is let in.
pub struct Admission<M> {
    /// Who it is.
    pub member: M,
    /// Whose room.
    pub tenant: TenantId,
    /// The agent that it acts as.
    pub agent: String,
}

/// What one tenant's clients may use of this program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Sockets and event streams of the tenant at one time, together; `None` for no limit.
    pub sockets: Option<u32>,
    /// Operations a second of one socket; at least 1.
    pub operations_per_second: u32,
}

/// Why a client is not let in, as it reads it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// A problem's kind, such as `invalid-api-key`.
    pub error: &'static str,
    /// A sentence that says what to do.
    pub detail: String,
    /// How the socket is closed.
    pub code: u16,
}

/// Whether a client may stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It may.
    Good,
    /// Its key was revoked, has expired, or its tenant is gone.
    KeyEnded,
    /// The platform team suspended the tenant.
    Suspended,
    /// It is not known just now: another server may know it.
    Unknown,
}

/// What became of one operation.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// Whether it was refused.
    pub refused: bool,
    /// The further fields of the answer, without `type` and `op_id`.
    pub fields: Map<String, Value>,
}

/// Reads one result of `POST /batch`.
///
/// # Errors
/// [`Unavailable`] for one that may be given otherwise later: then the whole batch is to be tried again, and what was carried
/// out is not repeated.
pub fn outcome(mut fields: Map<String, Value>) -> Result<Outcome, Unavailable> {
    let status = fields.remove("status").and_then(|status| status.as_u64()).unwrap_or(0);
    fields.remove("op_id");
    if may_pass(status) || matches!(status, 502..=504) {
        return Err(Unavailable(format!("an operation was answered with {status}")));
    }
    Ok(match fields.remove("problem") {
        Some(Value::Object(problem)) => Outcome { refused: true, fields: refused_with(problem) },
        _ => Outcome { refused: false, fields },
    })
}

/// Why no operation of a batch was carried out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// Trying again may help.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The batch is refused as a whole, and would be again: the fields of an answer, as of an [`Outcome`].
    #[error("the batch is refused")]
    Refused(Map<String, Value>),
}

/// Reads an answer to a whole batch that is not 200, and its body.
pub fn failure(status: u16, body: &[u8]) -> Failure {
    if !(400..500).contains(&status) || may_pass(status.into()) {
        return Unavailable(format!("a batch was answered with {status}")).into();
    }
    let mut problem: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    problem.entry("type").or_insert_with(|| Value::from("invalid-request"));
    problem.entry("detail").or_insert_with(|| Value::from(format!("the memory engine refuses it with {status}")));
    Failure::Refused(refused_with(problem))
}

/// An answer of the client's side that is another one later.
fn may_pass(status: u64) -> bool {
    matches!(status, 408 | 421 | 429)
}

/// The fields of a frame that tells a problem.
fn refused_with(mut problem: Map<String, Value>) -> Map<String, Value> {
    let kind = problem.remove("type").and_then(|kind| Some(kind.as_str()?.rsplit('/').next()?.to_owned()));
    problem.remove("title");
    problem.remove("status");
    problem.insert("error".to_owned(), Value::from(kind.unwrap_or_else(|| "internal".to_owned())));
    problem
}

/// Log and writes cannot be reached just now; trying again may help. Its text is for the log.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    fn result(json: &str) -> Result<Outcome, Unavailable> {
        outcome(serde_json::from_str(json).expect("JSON"))
    }

    #[test]
    fn results_become_acks_and_errors() {
        let done = result(r#"{"op_id":"a","status":201,"id":"x","seq":7,"applied":true}"#).expect("an answer");
        assert_eq!((done.refused, &done.fields["seq"]), (false, &Value::from(7)));
        let refused = result(
            r#"{"op_id":"b","status":403,"problem":{"type":"https://stellar-memory.dev/problems/memory-quota-reached",
            "title":"t","status":403,"detail":"d","used":5}}"#,
        )
        .expect("an answer");
        assert_eq!((refused.refused, &refused.fields["error"]), (true, &Value::from("memory-quota-reached")));
        assert_eq!(refused.fields["used"], 5);
        assert!(["status", "title", "op_id"].iter().all(|name| !refused.fields.contains_key(*name)));
    }

    #[test]
    fn results_that_may_change_are_tried_again() {
        for status in [408, 421, 429, 502, 503, 504] {
            assert!(result(&format!(r#"{{"op_id":"a","status":{status},"problem":{{}}}}"#)).is_err(), "{status}");
        }
    }

    #[test]
    fn refusals_of_a_batch_are_final_unless_they_pass() {
        let problem =
            br#"{"type":"https://stellar-memory.dev/problems/conflict","title":"t","status":409,"detail":"d"}"#;
        for status in [400, 401, 403, 404, 409, 413, 415, 422] {
            let Failure::Refused(fields) = failure(status, problem) else { panic!("{status} is tried again") };
            assert_eq!((&fields["error"], &fields["detail"]), (&Value::from("conflict"), &Value::from("d")));
        }
        for status in [408, 421, 429, 500, 502, 503, 504] {
            assert!(matches!(failure(status, problem), Failure::Unavailable(_)), "{status} is final");
        }
        let Failure::Refused(fields) = failure(400, b"no JSON") else { panic!("400 is tried again") };
        assert_eq!(fields["error"], "invalid-request");
        assert!(fields["detail"].as_str().is_some_and(|detail| detail.contains("400")));
    }
}
