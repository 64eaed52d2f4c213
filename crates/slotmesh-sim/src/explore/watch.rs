//! What must hold in every state of every scope.

use std::collections::BTreeMap;

use super::cluster::{Cluster, NODES, node, slot};

/// The invariants of the design, by its numbers.
pub(super) fn check(cluster: &Cluster<'_>) -> Result<(), String> {
    one_owner(cluster)?;
    copies_equal(cluster)?;
    acknowledged_kept(cluster)?;
    cluster.clients.check()
}

/// I1, I6 and I8: nobody serves beside another.
fn one_owner(cluster: &Cluster<'_>) -> Result<(), String> {
    let serving: Vec<usize> = cluster.serving().collect();
    match serving.len() {
        0 | 1 => Ok(()),
        _ => Err(format!("I1/I6: served by {serving:?}")),
    }
}

/// I7: copies of the same version are the same.
fn copies_equal(cluster: &Cluster<'_>) -> Result<(), String> {
    let mut known = BTreeMap::new();
    for (at, version, digest, entries) in holders(cluster) {
        let first = known.entry(version).or_insert((at, digest, entries));
        if first.1 != digest {
            return Err(format!("I7: {version:?} differs between {at} and {}", first.0));
        }
    }
    Ok(())
}

/// I3: what was acknowledged is in every copy that may become primary.
fn acknowledged_kept(cluster: &Cluster<'_>) -> Result<(), String> {
    let Some(last) = cluster.clients.acknowledged.iter().max() else { return Ok(()) };
    let lacks = |(at, version, ..): &(usize, _, u128, usize)| {
        (version < last).then(|| format!("I3: {at} holds {version:?}, {last:?} was acknowledged"))
    };
    holders(cluster).find_map(|holder| lacks(&holder)).map_or(Ok(()), Err)
}

/// The nodes that the committed table counts, and what they hold.
fn holders<'a>(
    cluster: &'a Cluster<'_>,
) -> impl Iterator<Item = (usize, slotmesh_slots::Version, u128, usize)> + 'a {
    let held = *cluster.decider.state.table().slot(slot());
    (0..NODES).filter_map(move |at| {
        let counts = held.primary == Some(node(at)) || held.in_sync.contains(node(at));
        let node = cluster.nodes[at].as_ref().filter(|_| counts)?;
        let (version, digest, entries) = node.data.inspect(slot());
        Some((at, version, digest, entries))
    })
}
