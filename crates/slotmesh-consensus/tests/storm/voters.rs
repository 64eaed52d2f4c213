//! Changes of voters, one at a time, during the storm and after it.

use std::collections::BTreeSet;
use std::sync::Arc;

use slotmesh_control::log::ProposeError;
use slotmesh_slots::NodeId;
use tokio::time::{Duration, sleep};

use super::oracle::Voters;
use super::world::World;

/// Lets the leader begin a change, unless one is under way, and goes on.
pub async fn change(world: &Arc<World>) {
    let Ok(turn) = Arc::clone(&world.changing).try_lock_owned() else { return };
    let Some((wanted, what)) = plan(world).await else { return };
    let world = Arc::clone(world);
    tokio::spawn(async move {
        match world.set_voters(&wanted).await {
            Some(Ok(())) => {
                world.air.oracle.count(what);
                dismiss(&world, &wanted).await;
            }
            Some(Err(ProposeError::BadVoters { .. })) => world.air.oracle.count("newcomer refused"),
            _ => {}
        }
        drop(turn);
    });
}

/// Who should vote: the dead are replaced, and one more comes, goes, or gives way, perhaps the leader.
async fn plan(world: &World) -> Option<(Voters, &'static str)> {
    let leader = world.leader()?;
    let now: Voters = world.at(leader)?.status().voters.into_iter().collect();
    let live: Voters = world.live().into_iter().collect();
    let mut wanted: Voters = now.intersection(&live).copied().collect();
    let (size, what) = match world.draw(0..6) {
        0 | 1 if now.len() < 5 => (now.len() + 1 + world.draw(0..2) as usize, "voters grown"),
        2 if now.len() > 1 => (now.len() - 1, "voters shrunk"),
        3 => {
            wanted.remove(&leader);
            (now.len(), "leader left")
        }
        _ => {
            let victim = world.pick(&wanted.iter().copied().collect::<Vec<NodeId>>());
            victim.filter(|victim| *victim != leader).map(|victim| wanted.remove(&victim));
            (now.len(), "voters replaced")
        }
    };
    while wanted.len() > size {
        let last = *wanted.last()?;
        wanted.remove(&last);
    }
    while wanted.len() < size.min(5) {
        wanted.insert(world.start().await);
    }
    Some((wanted, what))
}

/// Nodes that vote no more end, some at once and some later, as members that left do.
async fn dismiss(world: &World, voters: &Voters) {
    sleep(Duration::from_millis(world.draw(1..300))).await;
    for node in world.live().into_iter().filter(|node| !voters.contains(node)) {
        world.crash(node).await;
    }
}

/// Makes the live voters, and three at least, the only ones.
pub async fn settle(world: &Arc<World>, tries: u32) -> Result<(), String> {
    let _turn = world.changing.lock().await;
    let mut last = None;
    for _ in 0..tries {
        let Some(wanted) = survivors(world).await else { continue };
        last = world.set_voters(&wanted).await;
        if last == Some(Ok(())) {
            dismiss(world, &wanted).await;
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    Err(format!("the voters cannot be settled: {last:?}"))
}

async fn survivors(world: &World) -> Option<Voters> {
    let Some(leader) = world.leader() else {
        sleep(Duration::from_millis(500)).await;
        return None;
    };
    let live: BTreeSet<NodeId> = world.live().into_iter().collect();
    let voters = world.at(leader)?.status().voters;
    let mut wanted: Voters = voters.into_iter().filter(|voter| live.contains(voter)).collect();
    while wanted.len() < 3 {
        wanted.insert(world.start().await);
    }
    Some(wanted)
}
