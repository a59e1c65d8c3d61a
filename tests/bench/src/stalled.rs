//! What one socket that does not read costs the others of its room.

use std::{net::Ipv4Addr, time::Instant};

use anyhow::Result;
use harness::{DataPlane, TenantSpec};

use crate::{
    crowd::{Crowd, Door, enter},
    speaker::Speaker,
    table::{Sample, median, ratio, row},
};

const SOCKETS: usize = 100;
const ROUNDS: usize = 7;
const BROADCASTS: usize = 80;
/// As long as a memory may be. Four of them a broadcast.
const CONTENT: usize = 10_000;
const CHANGES: usize = 4;
/// Before a round is measured: more than the kernel takes for one that does not read (4 MiB for the sender).
const FILLING: usize = 150;
const RECEIVES: u32 = 4 * 1024;

pub async fn measure() -> Result<()> {
    let plane = DataPlane::start().await?;
    let tenant = plane.tenant("room", TenantSpec { max_memories: -1, ..TenantSpec::default() }).await?;
    plane.client(&tenant).opens().await;
    let speaker = Speaker::new(plane.client(&tenant), CHANGES).await?;
    let door = Door::Room(plane.gateway.port, tenant.key.clone());
    let room = Crowd::enter(std::slice::from_ref(&door), SOCKETS).await?;
    let (mut without, mut with, mut moved) = (Sample::default(), Sample::default(), Vec::new());
    for round in 0..=ROUNDS {
        let alone = deliveries(&speaker, &room).await?;
        let stalled = enter(&door, Ipv4Addr::new(127, 0, 1, 200), Some(RECEIVES)).await?;
        let beside = deliveries(&speaker, &room).await?;
        drop(stalled);
        if round > 0 {
            moved.push(beside.quantile(0.99) / alone.quantile(0.99));
            without.add(alone);
            with.add(beside);
        }
    }
    row(&format!("from a store to each of {SOCKETS} sockets, all read"), &without);
    row("the same beside one that does not read", &with);
    ratio("p99 beside one that does not read, to without (aim 1.1)", median(&moved));
    Ok(())
}

/// From the beginning of a request to the last of its frames at each socket.
async fn deliveries(speaker: &Speaker, room: &Crowd) -> Result<Sample> {
    let mut sample = Sample::default();
    for n in 0..FILLING + BROADCASTS {
        room.expect(CHANGES);
        let began = Instant::now();
        speaker.say(vec![format!("{n:0CONTENT$}"); CHANGES]).await?;
        let each = room.complete().await?;
        if n >= FILLING {
            sample.wall += began.elapsed().as_secs_f64();
            sample.seconds.extend(each.iter().map(|at| (*at - began).as_secs_f64()));
        }
    }
    Ok(sample)
}
