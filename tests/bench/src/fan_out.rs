//! What reaches a room of a thousand, beside a plain loopback server that writes the very same bytes to as many.

use anyhow::Result;
use harness::{DataPlane, TenantSpec};

use crate::{
    crowd::{Crowd, Door},
    plain::Plain,
    speaker::Speaker,
    table::{figure, median, ratio},
    text::Words,
};

const SOCKETS: usize = 1_000;
const ROUNDS: usize = 7;
/// Changes in one broadcast, and broadcasts in one round.
const SHAPES: [(usize, usize); 3] = [(1, 30), (16, 15), (128, 5)];

pub async fn measure() -> Result<()> {
    let plane = DataPlane::start().await?;
    let tenant = plane.tenant("room", TenantSpec { max_memories: -1, ..TenantSpec::default() }).await?;
    plane.client(&tenant).opens().await;
    let speaker = Speaker::new(plane.client(&tenant), SHAPES[2].0).await?;
    let mut plain = Plain::start(&plane.workdir).await?;
    let room = Crowd::enter(&[Door::Room(plane.gateway.port, tenant.key.clone())], SOCKETS).await?;
    let beside = Crowd::enter(&[Door::Plain(plain.port)], SOCKETS).await?;
    let mut words = Words::new(11);
    for (changes, broadcasts) in SHAPES {
        let (mut rates, mut speeds) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let (mut through, mut plainly) = (0.0, 0.0);
            for _ in 0..broadcasts {
                room.expect(changes);
                speaker.say((0..changes).map(|_| words.sentence(24)).collect()).await?;
                through += room.spread().await?;
                let bytes = room.copy();
                beside.expect(changes);
                plain.broadcast(&bytes).await?;
                plainly += beside.spread().await?;
            }
            // The first round fills caches and kernel buffers.
            if round > 0 {
                rates.push((SOCKETS * changes * broadcasts) as f64 / through / 1e3);
                speeds.push(plainly / through);
            }
        }
        let what = format!("a room of {SOCKETS}, {changes} changes a broadcast");
        figure(&format!("frames delivered to {what}"), median(&rates), "thousand/s");
        ratio(&format!("speed of {what}, to a plain server (aim 0.8)"), median(&speeds));
    }
    Ok(())
}
