//! Who is told that a tenant's log has moved.

use tenancy::TenantId;

/// Told after each commit of this process that moved a tenant's log, whatever wrote: a request, a batch, a move between
/// zones. It is a hint that comes early, not the truth: a commit of another process, and one whose answer was lost, is
/// told to nobody.
pub trait Committed: Send + Sync {
    /// The tenant's log holds all changes up to `seq`. Called between two writes of a lane: it must not wait. Calls for
    /// one tenant may come in another order than the commits.
    fn committed(&self, tenant: TenantId, seq: i64);
}
