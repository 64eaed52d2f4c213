//! What goes wrong during the storm.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use slotmesh_slots::NodeId;
use tokio::time::sleep;

use super::voters;
use super::wire::Weather;
use super::world::World;

/// Lets one thing happen.
pub async fn strike(world: &Arc<World>) {
    match world.draw(0..20) {
        0 | 1 => cut_one_way(world),
        2 => part(world),
        3..=5 => cut_leader_off(world),
        6..=8 => heal(world),
        9..=11 => pause(world),
        12 => crash(world).await,
        13..=15 => voters::change(world).await,
        16 => stop_elections(world),
        17 => garbage(world).await,
        _ => turn(world),
    }
}

/// Ends every fault that lasts.
pub fn heal(world: &Arc<World>) {
    world.air.oracle.count("healed");
    world.air.net.lock().cut.clear();
    let paused: Vec<NodeId> = world.air.net.lock().paused.iter().copied().collect();
    paused.into_iter().for_each(|node| world.air.resume(node));
    for node in world.live() {
        world.at(node).inspect(|consensus| consensus.set_elections(true));
    }
}

fn cut_one_way(world: &World) {
    let live = world.live();
    let (Some(from), Some(to)) = (world.pick(&live), world.pick(&live)) else { return };
    if from != to {
        world.air.oracle.count("link cut one way");
        world.air.net.lock().cut.insert((from, to));
    }
}

/// Parts the nodes into two that do not hear each other.
fn part(world: &World) {
    let side: Vec<(NodeId, bool)> =
        world.live().into_iter().map(|node| (node, world.draw(0..2) == 0)).collect();
    let pairs = side.iter().flat_map(|a| side.iter().map(move |b| (a, b)));
    let cut: Vec<_> = pairs.filter(|(a, b)| a.1 != b.1).map(|(a, b)| (a.0, b.0)).collect();
    if !cut.is_empty() {
        world.air.oracle.count("partition");
        world.air.net.lock().cut.extend(cut);
    }
}

fn cut_leader_off(world: &World) {
    let Some(leader) = world.leader() else { return };
    let (deaf, mute, what) = match world.draw(0..3) {
        0 => (true, true, "leader cut off"),
        1 => (true, false, "leader cannot hear"),
        _ => (false, true, "leader cannot be heard"),
    };
    world.air.oracle.count(what);
    let others = world.live().into_iter().filter(|node| *node != leader);
    let mut net = world.air.net.lock();
    for other in others {
        net.cut.extend(deaf.then_some((other, leader)));
        net.cut.extend(mute.then_some((leader, other)));
    }
}

/// Holds what a node sends and receives for a while.
fn pause(world: &Arc<World>) {
    let Some(node) = world.pick(&world.live()) else { return };
    let pause = Duration::from_millis(world.draw(30..1200));
    world.air.oracle.count("voter paused");
    world.air.net.lock().paused.insert(node);
    let world = Arc::clone(world);
    tokio::spawn(async move {
        sleep(pause).await;
        world.air.resume(node);
    });
}

/// Takes a node away for ever, if a majority stays; preferably the leader.
async fn crash(world: &World) {
    let victim = if world.draw(0..2) == 0 { world.leader() } else { None };
    let Some(victim) = victim.or_else(|| world.pick(&world.live())) else { return };
    if world.can_lose(victim) {
        let led = world.leader() == Some(victim);
        world.air.oracle.count(if led { "leader crashed" } else { "voter crashed" });
        world.crash(victim).await;
    }
}

fn stop_elections(world: &World) {
    if let Some(consensus) = world.pick(&world.live()).and_then(|node| world.at(node)) {
        world.air.oracle.count("elections off");
        consensus.set_elections(false);
    }
}

/// Sends a node what is no message: it says so, and nothing changes.
async fn garbage(world: &World) {
    let live = world.live();
    let (Some(from), Some(to)) = (world.pick(&live), world.pick(&live)) else { return };
    let Some(consensus) = world.at(to) else { return };
    world.air.oracle.count("request: garbage");
    let kind = world.draw(0..256) as u8;
    let body: Vec<u8> = (0..world.draw(0..40)).map(|_| world.draw(128..256) as u8).collect();
    let answer = consensus.handle(from, Bytes::from([&[1, kind], &body[..]].concat())).await;
    world.air.oracle.ensure(answer.is_err(), || format!("{to} took garbage for a message"));
}

/// Other weather.
fn turn(world: &World) {
    let rough = world.draw(0..3) as u32;
    let weather = Weather {
        delay_max: [2, 10, 30][world.draw(0..3) as usize],
        straggling: 20 * rough,
        lost: 60 * rough,
        doubled: 50 * rough,
        spoiled: 30 * rough,
    };
    world.air.net.lock().weather = weather;
}
