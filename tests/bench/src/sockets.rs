//! What a socket at rest costs the gateway.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use harness::{DataPlane, Memory, TenantSpec};
use serde_json::json;

use crate::{
    crowd::{Crowd, Door},
    table::figure,
};

const TENANTS: usize = 100;
const SOCKETS_A_TENANT: usize = 100;
const SOCKETS: f64 = (TENANTS * SOCKETS_A_TENANT) as f64;
const AIM_KIB: f64 = 32.0;
/// What a broadcast to those at rest holds.
const CHANGES: usize = 20;

pub async fn measure() -> Result<()> {
    let limits = ["--max-connections", "16000", "--max-connections-per-client", "16000"];
    let plane = DataPlane::start_with(&[], &limits).await?;
    let making = (0..TENANTS).map(|n| {
        let plane = &plane;
        async move { plane.tenant(&format!("crowd-{n}"), TenantSpec::default()).await }
    });
    let tenants: Vec<_> = stream::iter(making).buffer_unordered(4).try_collect().await?;
    let doors: Vec<Door> = tenants.iter().map(|tenant| Door::Room(plane.gateway.port, tenant.key.clone())).collect();
    for tenant in &tenants {
        plane.client(tenant).opens().await;
    }
    // One socket a room beforehand: rooms and the connections to the engine are not what a socket costs.
    let _first = Crowd::enter(&doors, 1).await?;
    let before = settled(plane.gateway.pid()).await?;
    let crowd = Crowd::enter(&doors, SOCKETS_A_TENANT).await?;
    let after = settled(plane.gateway.pid()).await?;
    let resident = (after.resident - before.resident) / SOCKETS;
    figure(&format!("memory of the gateway per idle socket, of {SOCKETS} (aim at most {AIM_KIB})"), resident, "KiB");
    let proportional = (after.proportional - before.proportional) / SOCKETS;
    figure("the same as proportional set size", proportional, "KiB");

    crowd.expect(CHANGES);
    let change = json!({ "op": "store", "content": "A change that everybody in the room is told of. ".repeat(20) });
    for tenant in &tenants {
        let batch = json!({ "operations": vec![&change; CHANGES] });
        let answer = plane.client(tenant).post("/batch", &batch).await?;
        ensure!(answer.status == 200, "{}", answer.text);
    }
    crowd.complete().await?;
    let told = settled(plane.gateway.pid()).await?;
    let resident = (told.resident - before.resident) / SOCKETS;
    figure(&format!("the same after each was sent {CHANGES} changes"), resident, "KiB");
    Ok(())
}

/// The memory of a process once the last handshake's remains are gone.
async fn settled(pid: u32) -> Result<Memory> {
    tokio::time::sleep(Duration::from_secs(3)).await;
    Memory::of(pid)
}
