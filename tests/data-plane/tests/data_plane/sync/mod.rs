//! Sync: what `docs/sync.md` promises to a client, on real servers.

mod conformance;
mod events;
mod handshake;
mod movement;
mod resume;
mod room;
mod writes;

use harness::{DataPlane, Socket, Tenant, TenantSpec};
use serde_json::Value;

use crate::shared;

/// Limits that no test meets by chance.
const ROOMY: TenantSpec = TenantSpec {
    tier: "free",
    max_memories: -1,
    requests_per_minute: 1_000_000,
    max_agents: -1,
    max_api_keys: -1,
    max_sockets: -1,
    socket_messages_per_second: 10_000,
};

async fn roomy(name: &str) -> Tenant {
    roomy_at(shared().await, name).await
}

async fn roomy_at(plane: &DataPlane, name: &str) -> Tenant {
    plane.tenant(name, ROOMY).await.unwrap()
}

async fn enter(plane: &DataPlane, tenant: &Tenant, since: Option<i64>) -> (Socket, i64) {
    Socket::enter(&plane.url(), &tenant.key, since).await.unwrap()
}

/// Changes up to the number, which must come in order and without a gap from `from` on.
async fn changes_to(socket: &mut Socket, from: i64, to: i64) -> Vec<Value> {
    let mut changes = Vec::new();
    while changes.len() as i64 + from < to {
        let change = socket.frame_of("change").await.unwrap();
        assert_eq!(change["seq"].as_i64(), Some(from + changes.len() as i64 + 1), "in order, without a gap: {change}");
        changes.push(change);
    }
    changes
}
