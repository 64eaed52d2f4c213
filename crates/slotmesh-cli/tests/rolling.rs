//! Processes that are replaced, added, taken away, stopped and killed while clients work, whose every answer is checked.

#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "support of several tests, not an interface"
)]
mod processes;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use processes::load::Load;
use processes::{
    Answer, Process, Setup, addresses, cluster, cluster_with, doors, is_whole, keys_of, slots_of,
    until,
};
use rustix::process::Signal;

/// Clients at work, two for each of three nodes.
const CLIENTS: usize = 6;

fn controls(nodes: &[Process]) -> Vec<SocketAddr> {
    nodes.iter().map(|node| node.control).collect()
}

/// Sends the clients elsewhere, then has the node leave.
fn take_away(nodes: &mut Vec<Process>, index: usize, load: &Load) {
    let mut leaver = nodes.remove(index);
    load.go_to(doors(nodes));
    leaver.signal(Signal::TERM);
    assert_eq!(leaver.exit_code(), Some(0));
    assert!(leaver.log().contains("left the cluster"), "its slots were not taken in time");
}

fn all_safe(nodes: &[Process]) {
    until("all copies to be in sync", || is_whole(nodes));
}

#[test]
fn five_nodes_are_replaced_one_by_one_and_no_call_fails() {
    let mut nodes = cluster(5);
    let load = Load::start(doors(&nodes), CLIENTS, "rolling");
    for round in 0..5 {
        let began = Instant::now();
        take_away(&mut nodes, 0, &load);
        let left = began.elapsed();
        nodes.push(Process::start(addresses(1)[0], &Setup::new(&controls(&nodes), 5)));
        all_safe(&nodes);
        load.go_to(doors(&nodes));
        println!("node {round} left in {left:.1?}, replaced in {:.1?}", began.elapsed());
    }
    let report = load.finish();
    report.check();
    assert_eq!(report.errors(), 0, "a call failed at a node that lives");
}

#[test]
fn three_become_nine_and_three_again_and_no_call_fails() {
    let mut nodes = cluster(3);
    let load = Load::start(doors(&nodes), CLIENTS, "growing");
    let began = Instant::now();
    let setup = Setup::new(&controls(&nodes), 3);
    nodes.extend(addresses(6).into_iter().map(|addrs| Process::start(addrs, &setup)));
    all_safe(&nodes);
    println!("three became nine in {:.1?}", began.elapsed());
    load.go_to(doors(&nodes));
    load.run_for(Duration::from_secs(1));
    // The founders go first, so that everything of the beginning is gone at the end.
    for _ in 0..6 {
        take_away(&mut nodes, 0, &load);
        all_safe(&nodes);
    }
    println!("three again after {:.1?}", began.elapsed());
    let report = load.finish();
    report.check();
    assert_eq!(report.errors(), 0, "a call failed at a node that lives");
}

#[test]
fn a_primary_that_stops_for_a_while_serves_nothing_stale_afterwards() {
    let nodes = cluster(3);
    let load = Load::start(doors(&nodes), CLIENTS, "stopped");
    for (round, millis) in [500, 1_000, 3_000, 10_000, 30_000].into_iter().enumerate() {
        let stopped = &nodes[round % nodes.len()];
        stopped.signal(Signal::STOP);
        load.run_for(Duration::from_millis(millis));
        stopped.signal(Signal::CONT);
        let resumed = Instant::now();
        all_safe(&nodes);
        println!("safe {:.1?} after a stop of {millis} ms", resumed.elapsed());
    }
    load.finish().check();
}

#[test]
fn a_node_killed_under_load_loses_nothing_with_one_replica() {
    let mut nodes = cluster(3);
    let load = Load::start(doors(&nodes), CLIENTS, "crash");
    load.run_for(Duration::from_millis(500));
    for leads in [false, true] {
        until("a leader", || nodes.iter().any(Process::leads));
        let victim = nodes.iter().position(|node| node.leads() == leads).unwrap();
        nodes.remove(victim).signal(Signal::KILL);
        load.go_to(doors(&nodes));
        load.run_for(Duration::from_secs(2));
        let setup = Setup::new(&controls(&nodes), 3);
        nodes.push(Process::start(addresses(1)[0], &setup));
        all_safe(&nodes);
        load.go_to(doors(&nodes));
    }
    load.finish().check();
}

#[test]
fn the_leader_and_another_primary_killed_at_once_lose_nothing_with_two_replicas() {
    let setup = Setup { replicas: 2, ..Setup::new(&[], 5) };
    let mut nodes = cluster_with(5, &setup);
    until("a leader", || nodes.iter().any(Process::leads));
    let leader = nodes.iter().position(Process::leads).unwrap();
    let leader = nodes.remove(leader);
    let other = nodes.remove(0);
    let mut client = nodes[0].client();
    let mut slots = slots_of(&mut client, leader.resp);
    slots.extend(slots_of(&mut client, other.resp));
    let keys = keys_of(&slots.into_iter().step_by(300).collect::<Vec<_>>());
    assert!(keys.len() > 15, "{keys:?}");
    for key in &keys {
        assert_eq!(client.set(key, key), Answer::Ok);
    }
    let load = Load::start(doors(&nodes), CLIENTS, "killed");
    load.run_for(Duration::from_millis(500));
    leader.signal(Signal::KILL);
    other.signal(Signal::KILL);
    let killed = Instant::now();
    for key in &keys {
        until("a write on a victim's slot", || {
            client.set(&format!("{{{key}}}x"), "1") == Answer::Ok
        });
    }
    println!("all watched slots take writes {:.1?} after the kills; goal 3 s", killed.elapsed());
    for key in &keys {
        assert_eq!(client.get(key), Answer::Value(key.clone()), "an acknowledged write was lost");
    }
    all_safe(&nodes);
    println!("safe {:.1?} after the kills", killed.elapsed());
    load.finish().check();
}

#[test]
fn nodes_that_were_all_killed_at_once_found_a_new_cluster() {
    let nodes = cluster(3);
    let mut client = nodes[0].client();
    assert_eq!(client.set("a", "before"), Answer::Ok);
    nodes.iter().for_each(|node| node.signal(Signal::KILL));
    let addrs: Vec<_> = nodes.iter().map(|node| [node.control, node.resp, node.admin]).collect();
    let setup = Setup::new(&controls(&nodes), 3);
    drop(nodes);
    let nodes: Vec<_> = addrs.into_iter().map(|addrs| Process::start(addrs, &setup)).collect();
    all_safe(&nodes);
    let load = Load::start(doors(&nodes), CLIENTS, "a");
    assert_eq!(nodes[1].client().get("a"), Answer::Nothing, "memory only: nothing comes back");
    load.run_for(Duration::from_secs(1));
    let report = load.finish();
    report.check();
    assert_eq!(report.errors(), 0, "a call failed in a healthy cluster");
}

/// Those that are started first still meet a member of the cluster, which then ends as well; they must not wait for it for ever.
#[test]
fn three_that_are_restarted_one_after_the_other_without_waiting_found_a_new_cluster() {
    let mut nodes = cluster(3);
    let setup = Setup::new(&controls(&nodes), 3);
    let restart = |nodes: &mut Vec<Process>, count: usize| {
        let ended: Vec<[SocketAddr; 3]> = nodes
            .drain(..count)
            .map(|node| {
                node.signal(Signal::KILL);
                [node.control, node.resp, node.admin]
            })
            .collect();
        nodes.extend(ended.into_iter().map(|addrs| Process::start(addrs, &setup)));
    };
    restart(&mut nodes, 2);
    // The last one is a minority, and the others have met it.
    until("both to have found the cluster", || {
        nodes[1..].iter().all(|node| node.log().contains("JoinedGeneration"))
    });
    restart(&mut nodes, 1);
    all_safe(&nodes);
    let mut client = nodes[0].client();
    assert_eq!(client.set("key", "value"), Answer::Ok);
}
