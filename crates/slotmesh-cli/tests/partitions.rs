//! What real processes do on a network that fails in parts: one way only, between two of them only, late, lossy, out of order.
//!
//! Each process runs in a network namespace of its own, which needs root; without, these tests say that they were skipped.

#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "support of several tests, not an interface"
)]
mod processes;

use std::time::{Duration, Instant};

use processes::load::Load;
use processes::network::{Network, Way};
use processes::{Answer, Client, Process, until};
use rustix::process::Signal;

/// Longer than a lease and all that a failover waits for.
const PARTITION: Duration = Duration::from_secs(4);

/// A cluster of three under load while the network is in this state, and after it has healed.
fn under_load(name: &str, disturb: impl Fn(&Network)) {
    let Some(network) = Network::new(3) else { return };
    let nodes = network.cluster();
    let load = Load::start(nodes.iter().map(Process::door).collect(), 6, name);
    load.run_for(Duration::from_secs(1));
    disturb(&network);
    load.run_for(PARTITION);
    network.heal();
    let healed = Instant::now();
    until("the cluster to heal", || nodes.iter().all(Process::is_safe));
    println!("{name}: safe {:.1?} after the network was", healed.elapsed());
    load.run_for(Duration::from_secs(1));
    load.finish().check();
}

#[test]
fn a_node_that_is_cut_off_serves_nothing_stale() {
    under_load("cut-off", |network| {
        network.mute(2);
        network.deafen(2);
    });
}

#[test]
fn a_node_that_nobody_hears_serves_nothing_stale() {
    under_load("mute", |network| network.mute(1));
}

#[test]
fn a_node_that_hears_nobody_serves_nothing_stale() {
    under_load("deaf", |network| network.deafen(0));
}

#[test]
fn two_nodes_that_lose_only_each_other_agree_nevertheless() {
    under_load("triangle", |network| {
        let cut = Way { cut: true, ..Way::default() };
        network.set(0, 1, cut);
        network.set(1, 0, cut);
    });
}

#[test]
fn one_direction_between_two_nodes_may_fail() {
    under_load("one-way", |network| network.set(2, 0, Way { cut: true, ..Way::default() }));
}

/// A third of the keys is on the node that does not hear its leader, which hears all of them.
#[test]
fn the_others_serve_for_a_node_that_does_not_hear_its_leader() {
    goes_on("unheard", |network, leader| {
        network.set(leader, (leader + 1) % 3, Way { cut: true, ..Way::default() });
        (leader + 2) % 3
    });
}

/// All hear it, so nobody would elect another.
#[test]
fn a_leader_that_hears_nobody_is_replaced() {
    goes_on("deaf leader", |network, leader| {
        network.deafen(leader);
        (leader + 1) % 3
    });
}

/// Has one way fail, and all keys written meanwhile through the node that `disturb` names.
fn goes_on(name: &str, disturb: impl Fn(&Network, usize) -> usize) {
    let Some(network) = Network::new(3) else { return };
    let nodes = network.cluster();
    until("a leader", || nodes.iter().any(Process::leads));
    let leader = nodes.iter().position(Process::leads).unwrap_or_default();
    let door = nodes[disturb(&network, leader)].door();
    let disturbed = Instant::now();
    let mut client = None;
    for number in 0..24 {
        until("a write", || {
            let mut now = client.take().or_else(|| Client::connect(&door).ok());
            let words = ["SET", &format!("{name}-{number}"), "value"];
            let answer = now.as_mut().and_then(|client| client.try_ask(&words).ok());
            client = now.filter(|_| answer.is_some());
            answer == Some(Answer::Ok)
        });
    }
    println!("{name}: all keys written {:.1?} after", disturbed.elapsed());
    network.heal();
    until("the cluster to heal", || nodes.iter().all(Process::is_safe));
}

/// Two who vote could not elect anybody without the third, so somebody else votes in the place of one.
#[test]
fn what_says_safe_goes_on_without_its_leader_while_two_others_do_not_reach_each_other() {
    let Some(network) = Network::new(4) else { return };
    let mut nodes = network.cluster();
    until("a leader", || nodes.iter().any(Process::leads));
    let leader = nodes.iter().position(Process::leads).unwrap_or_default();
    let others: Vec<usize> = (1..4).map(|step| (leader + step) % 4).collect();
    let load = Load::start(nodes.iter().map(Process::door).collect(), 6, "estranged");
    let cut = Way { cut: true, ..Way::default() };
    let votes = |&other: &usize| nodes[leader].counts_as_voter(&nodes[other]);
    let pair: Vec<usize> = others.iter().copied().filter(votes).collect();
    network.set(pair[0], pair[1], cut);
    network.set(pair[1], pair[0], cut);
    // Until it is noticed they say what was before.
    load.run_for(Duration::from_secs(6));
    until("one to say that the leader may go", || {
        others.iter().any(|&other| nodes[other].is_safe())
    });
    nodes.remove(leader).signal(Signal::KILL);
    load.go_to(nodes.iter().map(Process::door).collect());
    let killed = Instant::now();
    until("another leader", || nodes.iter().any(Process::leads));
    println!("estranged: another leader {:.1?} after", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(10));
    network.heal();
    until("the cluster to heal", || nodes.iter().all(Process::is_safe));
    load.run_for(Duration::from_secs(1));
    load.finish().check();
}

#[test]
fn packets_come_late_and_out_of_order_or_not_at_all() {
    under_load("lossy", |network| {
        network.set_all(Way {
            cut: false,
            lost_per_mille: 30,
            delay: Duration::from_millis(10),
            jitter: Duration::from_millis(20),
        });
    });
}
