//! What a cluster of members promises, each in virtual time with twenty seeds.

use std::time::Duration;

use bytes::Bytes;
use slotmesh_gossip::testing::{Network, NetworkConfig};
use slotmesh_gossip::{Event, Evidence, GossipConfig, MemberState};
use slotmesh_slots::NodeId;

const SEEDS: u64 = 20;

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Runs a scenario on a settled cluster of `count` nodes, once per seed.
fn check(count: usize, scenario: impl Fn(&mut Network)) {
    check_with(count, &NetworkConfig { loss: 0.01, ..NetworkConfig::default() }, scenario);
}

fn check_with(count: usize, config: &NetworkConfig, scenario: impl Fn(&mut Network)) {
    for seed in 1..=SEEDS {
        let config = NetworkConfig { seed, check: true, ..config.clone() };
        let mut network = Network::settled(config, count);
        network.clear_log();
        println!("seed {seed}");
        scenario(&mut network);
    }
}

fn deaths(network: &Network, of: NodeId) -> usize {
    network.events().filter(|(_, _, event)| **event == Event::Died(of)).count()
}

fn all_deaths(network: &Network) -> usize {
    network.events().filter(|(_, _, event)| matches!(event, Event::Died(_))).count()
}

#[track_caller]
fn expect(network: &mut Network, limit: f64, what: &str, holds: impl FnMut(&Network) -> bool) {
    let took = network.run_until(secs(limit), holds);
    assert!(took.is_some(), "{what} did not happen within {limit} s");
}

#[test]
fn a_joiner_is_soon_known_to_all_and_knows_all() {
    check(12, |network| {
        let joiner = network.spawn(&[0, 1]);
        expect(network, 1.5, "join", Network::all_know_all);
        let joined = network
            .events()
            .filter(|(host, _, e)| *host != joiner && matches!(e, Event::Joined(_)));
        assert_eq!(joined.count(), 12, "told once to each");
        let me = network.node(joiner);
        let told = network.gossip(3).and_then(|gossip| gossip.member(me)).expect("known");
        assert_eq!(told.meta, Bytes::from(format!("host {joiner}")));
    });
}

#[test]
fn a_cluster_forms_when_all_start_at_once_and_when_the_seed_starts_late() {
    for seed in 1..=SEEDS {
        let mut network =
            Network::new(NetworkConfig { seed, check: true, ..NetworkConfig::default() });
        network.spawn(&[]);
        network.crash(0);
        for _ in 1..8 {
            network.spawn(&[0]);
        }
        network.run_for(secs(60.0));
        assert!(network.running().all(|gossip| gossip.alive_count() == 1), "nobody to find");
        network.restart(0, &[]);
        expect(&mut network, 14.0, "late seed", Network::all_know_all);
    }
}

#[test]
fn a_crash_is_known_to_all_within_the_bound_and_nobody_else_dies() {
    check(12, |network| {
        let victim = network.node(5);
        network.crash(5);
        expect(network, 15.0, "detection", |net| net.believers(victim, MemberState::Dead) == 11);
        assert_eq!(deaths(network, victim), 11);
        assert_eq!(all_deaths(network), 11);
    });
}

#[test]
fn no_loss_below_five_percent_kills_a_healthy_member() {
    let config = NetworkConfig { loss: 0.05, ..NetworkConfig::default() };
    check_with(10, &config, |network| {
        network.run_for(secs(60.0));
        assert_eq!(all_deaths(network), 0);
        expect(network, 5.0, "agreement", Network::all_know_all);
    });
}

#[test]
fn a_wrong_suspicion_is_refuted_with_a_higher_incarnation() {
    check(8, |network| {
        let victim = network.node(3);
        network
            .input(1, |gossip, now| gossip.handle_evidence(victim, Evidence::ConnectionLost, now));
        let suspected = network.gossip(1).and_then(|g| g.member(victim)).map(|m| m.state);
        assert_eq!(suspected, Some(MemberState::Suspect), "suspicion starts at once");
        expect(network, 1.5, "refutation", Network::all_know_all);
        assert_eq!(all_deaths(network), 0, "a hint never kills");
        let own = network.gossip(3).expect("runs").me().incarnation;
        assert!(own > 1);
        let refuted =
            |(host, _, e): &(usize, _, &Event)| *host == 1 && **e == Event::Refuted(victim);
        assert!(network.events().any(|event| refuted(&event)));
    });
}

#[test]
fn replies_count_as_answers_to_the_probe() {
    // Host 0 gets no datagram from host 1 and there is nobody to ask; only the application's traffic shows its life.
    let config = NetworkConfig { loss: 0.0, ..NetworkConfig::default() };
    check_with(2, &config, |network| {
        let quiet = network.node(1);
        network.cut(1, 0);
        for _ in 0..100 {
            network.run_for(secs(0.1));
            network.input(0, |gossip, now| gossip.handle_evidence(quiet, Evidence::Replied, now));
        }
        let events = network.events().filter(|(host, ..)| *host == 0).count();
        assert_eq!(events, 0, "no suspicion while it replies");
        network.run_for(secs(6.0));
        assert_eq!(deaths(network, quiet), 1, "and death when it no longer does");
    });
}

#[test]
fn indirect_probes_save_a_node_with_one_broken_path() {
    let config = NetworkConfig { loss: 0.0, ..NetworkConfig::default() };
    check_with(6, &config, |network| {
        network.cut(0, 1);
        network.cut(1, 0);
        network.run_for(secs(60.0));
        assert_eq!(network.events().count(), 0, "not even a suspicion");
    });
    let config = NetworkConfig {
        gossip: GossipConfig { indirect_probes: 0, ..GossipConfig::default() },
        ..config
    };
    check_with(6, &config, |network| {
        network.cut(0, 1);
        network.cut(1, 0);
        network.run_for(secs(60.0));
        assert!(network.events().count() > 0, "without them there would be");
    });
}

#[test]
fn a_two_sided_partition_is_seen_and_heals() {
    check(10, |network| {
        network.partition(4);
        network.run_for(secs(30.0));
        let alive: Vec<_> = network.running().map(|gossip| gossip.alive_count()).collect();
        assert_eq!(alive, [4, 4, 4, 4, 6, 6, 6, 6, 6, 6]);
        network.clear_log();
        network.heal();
        expect(network, 10.0, "healing", Network::all_know_all);
        network.run_for(secs(20.0));
        assert!(network.all_know_all(), "and stays healed");
        assert_eq!(all_deaths(network), 0, "old deaths kill nobody again");
    });
}

#[test]
fn a_paused_node_kills_nobody_and_says_that_it_was_paused() {
    check(8, |network| {
        for pause in [0.7, 1.2, 1.6] {
            network.pause(2);
            network.run_for(secs(pause));
            network.resume(2);
            network.run_for(secs(8.0));
        }
        assert_eq!(all_deaths(network), 0);
        let pauses =
            network.events().filter(|(host, _, e)| *host == 2 && matches!(e, Event::Paused(_)));
        assert!(pauses.count() >= 2);
        let others =
            network.events().filter(|(host, _, e)| *host != 2 && matches!(e, Event::Paused(_)));
        assert_eq!(others.count(), 0);
    });
}

#[test]
fn a_node_paused_for_long_judges_nobody_and_comes_back() {
    check(8, |network| {
        let sleeper = network.node(2);
        network.pause(2);
        network.run_for(secs(30.0));
        assert_eq!(network.believers(sleeper, MemberState::Dead), 7);
        network.resume(2);
        expect(network, 15.0, "return", Network::all_know_all);
        network.run_for(secs(10.0));
        assert_eq!(all_deaths(network), deaths(network, sleeper), "it killed nobody");
    });
}

#[test]
fn a_flapping_node_ends_known_to_all_and_harms_nobody() {
    check(8, |network| {
        let flapper = network.node(4);
        for _ in 0..6 {
            network.stall(4);
            network.run_for(secs(3.0));
            network.resume(4);
            network.run_for(secs(1.0));
        }
        expect(network, 20.0, "agreement", Network::all_know_all);
        let victims = network.events().filter(|(host, _, e)| {
            *host != 4 && matches!(e, Event::Died(node) if *node != flapper)
        });
        assert_eq!(victims.count(), 0);
    });
}

#[test]
fn a_leaving_node_is_left_everywhere_not_dead() {
    check(10, |network| {
        let leaver = network.node(3);
        network.input(3, |gossip, now| gossip.leave(now));
        network.run_for(secs(0.3));
        network.crash(3);
        expect(network, 1.5, "leave", |net| net.believers(leaver, MemberState::Left) == 9);
        network.run_for(secs(20.0));
        assert_eq!(all_deaths(network), 0);
        let left = network.events().filter(|(_, _, e)| **e == Event::Left(leaver)).count();
        assert_eq!(left, 9);
    });
}

#[test]
fn a_departure_seen_by_one_is_told_to_all_and_refuted_when_wrong() {
    check(8, |network| {
        let node = network.node(3);
        network.input(1, |gossip, now| gossip.handle_evidence(node, Evidence::Departed, now));
        let state = network.gossip(1).and_then(|g| g.member(node)).map(|m| m.state);
        assert_eq!(state, Some(MemberState::Left));
        expect(network, 3.0, "refutation", Network::all_know_all);
    });
}

#[test]
fn a_restart_at_the_same_address_replaces_the_old_identity_at_once() {
    check(8, |network| {
        let old = network.node(3);
        network.restart(3, &[0, 1]);
        let new = network.node(3);
        // Far below the suspicion time-out of 2 s.
        expect(network, 1.5, "replacement", Network::all_know_all);
        assert_ne!(old, new);
        network.run_for(secs(20.0));
        assert_eq!(deaths(network, old), 7);
        assert_eq!(all_deaths(network), 7, "nobody else, the new one least");
    });
}

#[test]
fn metadata_reaches_all_and_the_newest_wins() {
    check(10, |network| {
        for text in ["first", "second", "third"] {
            network.input(6, |gossip, now| gossip.set_meta(Bytes::from(text), now).expect("fits"));
            network.run_for(secs(0.05));
        }
        let node = network.node(6);
        expect(network, 2.0, "third", |net| {
            let mut others = net.running().filter_map(|gossip| gossip.member(node));
            others.all(|member| member.meta == "third")
        });
    });
}

#[test]
fn anti_entropy_repairs_what_rumours_missed() {
    // With a single transmission per rumour and heavy loss most nodes miss the news, and without probes nobody meets
    // the node that it is about.
    let gossip = GossipConfig {
        retransmit_multiplier: 1,
        gossip_fanout: 1,
        probe_interval: secs(5_000.0),
        ..GossipConfig::default()
    };
    let config = NetworkConfig { loss: 0.3, gossip, ..NetworkConfig::default() };
    check_with(10, &config, |network| {
        network.input(6, |gossip, now| gossip.set_meta(Bytes::from("new"), now).expect("fits"));
        let node = network.node(6);
        expect(network, 200.0, "repair", |net| {
            let mut others = net.running().filter_map(|gossip| gossip.member(node));
            others.all(|member| member.meta == "new")
        });
    });
}

#[test]
fn a_partition_heals_without_any_seed() {
    check(9, |network| {
        let seed = network.node(0);
        network.crash(0);
        expect(network, 20.0, "detection", |net| net.believers(seed, MemberState::Dead) == 8);
        network.partition(5);
        network.run_for(secs(30.0));
        assert!(!network.all_know_all());
        network.heal();
        expect(network, 15.0, "healing", Network::all_know_all);
    });
}

#[test]
fn the_dead_are_forgotten_after_their_retention() {
    let gossip = GossipConfig { dead_retention: secs(30.0), ..GossipConfig::default() };
    let config = NetworkConfig { gossip, ..NetworkConfig::default() };
    check_with(5, &config, |network| {
        let victim = network.node(4);
        network.crash(4);
        expect(network, 10.0, "detection", |net| net.believers(victim, MemberState::Dead) == 4);
        network.run_for(secs(15.0));
        assert!(network.running().all(|gossip| gossip.member(victim).is_some()), "remembered");
        expect(network, 40.0, "oblivion", |net| net.running().all(|g| g.member(victim).is_none()));
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let config = NetworkConfig { seed, loss: 0.05, ..NetworkConfig::default() };
        let mut network = Network::settled(config, 12);
        network.crash(3);
        network.pause(4);
        network.run_for(secs(5.0));
        network.resume(4);
        network.run_for(secs(20.0));
        network.trace()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
