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

    /// Whether a client may still be here. Asked once a second for each; must not wait.
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

    /// Carries out operations in order and answers each. Repeating it repeats nothing: every operation has an `op_id`.
    fn carry_out(
        &self,
        member: &Self::Member,
        operations: &[Box<RawValue>],
    ) -> impl Future<Output = Result<Vec<Outcome>, Unavailable>> + Send;
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
    /// Sockets of the tenant at one time; `None` for no limit.
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
}

/// What became of one operation.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// `None` when the operation had none that could be read.
    pub op_id: Option<String>,
    /// Whether it was refused.
    pub refused: bool,
    /// The further fields of the answer, without `type` and `op_id`.
    pub fields: Map<String, Value>,
}

/// What one result of `POST /batch` says.
///
/// # Errors
/// [`Unavailable`] for one that may be given otherwise later: then the whole batch is to be tried again, and what was carried
/// out is not repeated.
pub fn outcome(mut fields: Map<String, Value>) -> Result<Outcome, Unavailable> {
    let status = fields.remove("status").and_then(|status| status.as_u64()).unwrap_or(0);
    let op_id = match fields.remove("op_id") {
        Some(Value::String(op_id)) => Some(op_id),
        _ => None,
    };
    if matches!(status, 421 | 429 | 502..=504) {
        return Err(Unavailable(format!("an operation was answered with {status}")));
    }
    let Some(Value::Object(mut problem)) = fields.remove("problem") else {
        return Ok(Outcome { op_id, refused: false, fields });
    };
    let kind = problem.remove("type").and_then(|kind| Some(kind.as_str()?.rsplit('/').next()?.to_owned()));
    problem.remove("title");
    problem.remove("status");
    problem.insert("error".to_owned(), Value::from(kind.unwrap_or_else(|| "internal".to_owned())));
    Ok(Outcome { op_id, refused: true, fields: problem })
}

/// Log and writes cannot be reached just now; trying again may help. Its text is for the log.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);
