//! What three real processes do when one is killed, stopped, cut off or misconfigured.

#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "support of several tests, not an interface"
)]
mod processes;

use std::io::Read;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use processes::{Answer, Process, Setup, addresses, cluster, keys_of, slots_of, until};
use rustix::process::Signal;

#[test]
fn kill_nine_loses_no_acknowledged_write_and_leaves_other_slots_alone() {
    let mut nodes = cluster(3);
    let mut client = nodes[0].client();
    let victims: Vec<u16> = slots_of(&mut client, nodes[1].resp).into_iter().step_by(250).collect();
    let others: Vec<u16> = slots_of(&mut client, nodes[2].resp).into_iter().step_by(250).collect();
    assert!(victims.len() > 15 && others.len() > 15, "{victims:?} {others:?}");
    let (theirs, kept) = (keys_of(&victims), keys_of(&others));
    for key in theirs.iter().chain(&kept) {
        assert_eq!(client.set(key, key), Answer::Ok);
    }
    nodes.remove(1).signal(Signal::KILL);
    let killed = Instant::now();
    let mut client = nodes[0].client();
    for key in &kept {
        assert_eq!(client.set(key, "new"), Answer::Ok, "a slot of a survivor was disturbed");
    }
    for key in &theirs {
        until("a write on the victim's slots", || {
            client.set(&format!("{{{key}}}x"), "1") == Answer::Ok
        });
    }
    println!("first writes on all watched slots {:?} after the kill", killed.elapsed());
    for key in &theirs {
        assert_eq!(client.get(key), Answer::Value(key.clone()), "an acknowledged write was lost");
    }
    until("copies to be made again", || nodes.iter().all(Process::is_safe));
}

#[test]
fn two_nodes_and_a_witness_survive_the_loss_of_either() {
    let addrs = addresses(3);
    let seeds: Vec<_> = addrs.iter().map(|addrs| addrs[0]).collect();
    let usual = Setup::new(&seeds, 3);
    let voting = Setup { witness: true, ..usual.clone() };
    let witness = Process::start(addrs[2], &voting);
    let mut nodes: Vec<_> = addrs[..2].iter().map(|&addrs| Process::start(addrs, &usual)).collect();
    until("a safe cluster", || nodes.iter().chain([&witness]).all(Process::is_safe));
    let mut client = witness.client();
    assert_eq!(slots_of(&mut client, witness.resp), [0u16; 0], "a witness holds nothing");
    let keys = keys_of(&(0..16_384).step_by(800).collect::<Vec<u16>>());
    for key in &keys {
        assert_eq!(client.set(key, "0"), Answer::Ok, "written through the witness");
    }
    for (round, victim) in [0, 1].into_iter().enumerate() {
        nodes[victim].signal(Signal::KILL);
        let survivor = &nodes[1 - victim];
        for key in &keys {
            let mut client = survivor.client();
            until("a write without the one that died", || {
                client.set(&format!("{{{key}}}{round}"), "1") == Answer::Ok
            });
            assert_eq!(client.get(key), Answer::Value(round.to_string()), "a write was lost");
            assert_eq!(client.set(key, &(round + 1).to_string()), Answer::Ok);
        }
        nodes[victim] = Process::start(addrs[victim], &usual);
        until("copies on both again", || nodes.iter().chain([&witness]).all(Process::is_safe));
    }
    assert!(witness.http_whole("/api/status").contains("\"witness\": true"));
    assert_eq!(slots_of(&mut witness.client(), witness.resp), [0u16; 0]);
}

#[test]
fn of_two_one_survives_alone_and_the_other_one_when_it_is_told_to() {
    let mut nodes = cluster(2);
    let keys = keys_of(&(0..16_384).step_by(400).collect::<Vec<u16>>());
    until("a leader", || nodes.iter().any(Process::leads));
    let voter = nodes.iter().position(Process::leads).unwrap();
    let mut client = nodes[voter].client();
    for key in &keys {
        assert_eq!(client.set(key, key), Answer::Ok);
    }
    nodes.remove(1 - voter).signal(Signal::KILL);
    for key in &keys {
        let written = || client.set(&format!("{{{key}}}x"), "1") == Answer::Ok;
        until("a write without the one that does not vote", written);
        assert_eq!(client.get(key), Answer::Value(key.clone()), "a write was lost");
    }
    let seeds = [nodes[0].control];
    nodes.push(Process::start(addresses(1)[0], &Setup::new(&seeds, 2)));
    until("copies on both", || nodes.iter().all(Process::is_safe));
    nodes.remove(0).signal(Signal::KILL);
    let mut client = nodes[0].client();
    let refuses = |answer: Answer| matches!(answer, Answer::Error(_));
    // Each is refused only when its time is over.
    let some = &keys[..3];
    until("the lease to be over", || some.iter().all(|key| refuses(client.set(key, "lost"))));
    assert!(some.iter().all(|key| refuses(client.get(key))), "it may not know the latest");
    until("the voter to be out of sight", || nodes[0].command("reform").0);
    for key in &keys {
        until("reads again", || client.get(key) == Answer::Value(key.clone()));
    }
}

#[test]
fn slots_of_which_no_copy_is_left_begin_empty_and_are_counted() {
    let addrs = addresses(3);
    let seeds: Vec<_> = addrs.iter().map(|addrs| addrs[0]).collect();
    let setup = Setup { replicas: 0, ..Setup::new(&seeds, 3) };
    let mut nodes: Vec<_> = addrs.into_iter().map(|it| Process::start(it, &setup)).collect();
    until("a safe cluster", || nodes.iter().all(Process::is_safe));
    let lost_of = |node: &Process| {
        let status = node.http_whole("/api/status").replace(' ', "");
        let count = status.split("\"lost_slots\":").nth(1).and_then(|it| it.split(',').next());
        count.and_then(|count| count.parse::<usize>().ok())
    };
    assert_eq!(lost_of(&nodes[0]), Some(0));
    until("a leader", || nodes.iter().any(Process::leads));
    let victim = nodes.iter().position(|node| !node.leads()).unwrap();
    let mut client = nodes[(victim + 1) % 3].client();
    let gone = slots_of(&mut client, nodes[victim].resp);
    let key = &keys_of(&gone[..1])[0];
    assert_eq!(client.set(key, "lost"), Answer::Ok);
    nodes.remove(victim).signal(Signal::KILL);
    until("the slots to be served again", || client.get(key) == Answer::Nothing);
    assert_eq!(client.set(key, "anew"), Answer::Ok);
    until("it to be told", || nodes.iter().all(|node| lost_of(node) == Some(gone.len())));
    let counted = format!("slotmesh_lost_slots_total {}", gone.len());
    assert!(nodes.iter().all(|node| node.http_whole("/metrics").contains(&counted)));
    assert!(nodes.iter().any(|node| node.log().contains("empty")), "no log says so");
}

#[test]
fn a_lost_majority_is_given_up_and_who_comes_back_joins_anew() {
    let mut nodes = cluster(3);
    let mut client = nodes[0].client();
    let own = keys_of(&slots_of(&mut client, nodes[0].resp)[..40]);
    for key in &own {
        assert_eq!(client.set(key, "before"), Answer::Ok);
    }
    let (refused, why) = nodes[0].command("reform");
    assert!(!refused && why.contains("a majority of the voters answers"), "{why}");
    nodes[1].signal(Signal::STOP);
    nodes.remove(2).signal(Signal::KILL);
    until("the majority to be out of sight", || nodes[0].command("reform").0);
    until("writes again", || client.set(&own[0], "after") == Answer::Ok);
    for key in &own[1..] {
        assert_eq!(client.get(key), Answer::Value("before".into()), "its own copy survives");
    }
    nodes[0].says("goes on without the majority");
    nodes[1].signal(Signal::CONT);
    nodes[1].says("starts again as another node");
    until("the two to be whole again", || nodes.iter().all(Process::is_safe));
    assert_eq!(nodes[1].client().get(&own[0]), Answer::Value("after".into()));
    assert_eq!(nodes[1].client().get(&own[1]), Answer::Value("before".into()));
}

#[test]
fn a_stopped_process_is_replaced_and_serves_nothing_stale_when_it_goes_on() {
    let nodes = cluster(3);
    let mut client = nodes[0].client();
    let slots: Vec<u16> = slots_of(&mut client, nodes[2].resp).into_iter().step_by(500).collect();
    let keys = keys_of(&slots);
    for key in &keys {
        assert_eq!(client.set(key, "old"), Answer::Ok);
    }
    let mut stopped = nodes[2].client();
    nodes[2].signal(Signal::STOP);
    let at = Instant::now();
    for key in &keys {
        until("a write on the stopped node's slots", || client.set(key, "new") == Answer::Ok);
    }
    until("five seconds to pass", || at.elapsed() >= Duration::from_secs(5));
    let asked = ["/safez", "/readyz"].map(|path| nodes[2].ask_http(path).unwrap());
    nodes[2].signal(Signal::CONT);
    for mut question in asked {
        let mut answer = String::new();
        question.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("503"), "what was so before it was stopped is told: {answer}");
    }
    for key in &keys {
        // It may refuse until it has heard what happened; it must not answer from before.
        let answer = stopped.get(key);
        assert!(
            answer == Answer::Value("new".into()) || matches!(answer, Answer::Error(_)),
            "{answer:?}"
        );
    }
    until("the stopped node to be back", || nodes.iter().all(Process::is_safe));
    assert_eq!(nodes[2].client().get(&keys[0]), Answer::Value("new".into()));
}

#[test]
fn a_minority_refuses_writes_says_so_and_heals() {
    let nodes = cluster(3);
    let mut client = nodes[0].client();
    let own = keys_of(&slots_of(&mut client, nodes[0].resp)[..1]);
    assert_eq!(client.set(&own[0], "before"), Answer::Ok);
    nodes[1].signal(Signal::STOP);
    nodes[2].signal(Signal::STOP);
    until("writes to be refused", || matches!(client.set(&own[0], "cut off"), Answer::Error(_)));
    until("the minority to say that it is not ready", || nodes[0].http("/readyz").contains("503"));
    assert!(nodes[0].http("/healthz").contains("200"), "alive all the same");
    let refused = client.set(&own[0], "cut off");
    assert!(
        matches!(&refused, Answer::Error(why) if why.starts_with("CLUSTERDOWN")),
        "{refused:?}"
    );
    nodes[1].signal(Signal::CONT);
    nodes[2].signal(Signal::CONT);
    until("the cluster to heal", || nodes.iter().all(Process::is_safe));
    until("writes again", || client.set(&own[0], "healed") == Answer::Ok);
    assert_eq!(nodes[1].client().get(&own[0]), Answer::Value("healed".into()));
}

#[test]
fn strangers_are_told_why_and_change_nothing() {
    let nodes = cluster(3);
    let seeds: Vec<_> = nodes.iter().map(|node| node.control).collect();
    let addrs = addresses(2);
    let usual = Setup::new(&seeds, 3);
    let other_secret = Setup { secret: "another secret of enough bytes", ..usual.clone() };
    let other_cluster = Setup { cluster: "production", ..usual };
    let thief = Process::start(addrs[0], &other_secret);
    let lost = Process::start(addrs[1], &other_cluster);
    thief.says("does not share this cluster's secret");
    lost.says("belongs to the cluster \"test\"");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..2_000u32 {
        let garbage: Vec<u8> =
            (0..1_200).map(|at| (number.wrapping_mul(2_654_435_761) >> (at % 24)) as u8).collect();
        socket.send_to(&garbage, nodes[number as usize % 3].control).unwrap();
    }
    let mut client = nodes[0].client();
    for number in 0..200 {
        assert_eq!(client.set(&format!("k{number}"), "v"), Answer::Ok);
    }
    assert!(nodes.iter().all(Process::is_safe));
    assert!(thief.http("/readyz").contains("503") && lost.http("/readyz").contains("503"));
}

#[test]
fn sigterm_under_load_fails_no_write_and_a_newcomer_is_filled() {
    let mut nodes = cluster(3);
    let mut client = nodes[0].client();
    let mut leaver = nodes.remove(1);
    leaver.signal(Signal::TERM);
    let left = std::thread::spawn(move || leaver.exit_code());
    let mut number = 0;
    while !left.is_finished() || number < 500 {
        assert_eq!(
            client.set(&format!("k{number}"), &number.to_string()),
            Answer::Ok,
            "write {number}"
        );
        number += 1;
    }
    assert_eq!(left.join().unwrap(), Some(0));
    // A dead seed beside a live one.
    let addrs = addresses(1);
    let seeds = ["127.0.0.1:9".parse().unwrap(), nodes[0].control];
    nodes.push(Process::start(addrs[0], &Setup::new(&seeds, 3)));
    let filled = |client: &mut processes::Client| slots_of(client, addrs[0][1]).len() > 5_000;
    until("the newcomer to hold its share", || {
        filled(&mut client) && nodes.iter().all(Process::is_safe)
    });
    let mut newcomer = nodes[2].client();
    for written in 0..number {
        assert_eq!(newcomer.get(&format!("k{written}")), Answer::Value(written.to_string()));
    }
}

#[test]
fn two_that_are_told_to_leave_at_once_do_so_one_after_the_other() {
    for _ in 0..3 {
        let mut nodes = cluster(2);
        let mut client = nodes[0].client();
        for number in 0..500 {
            assert_eq!(client.set(&format!("k{number}"), "v"), Answer::Ok);
        }
        nodes.iter().for_each(|node| node.signal(Signal::TERM));
        for node in &mut nodes {
            assert_eq!(node.exit_code(), Some(0));
        }
        // The one that leaves first gives all it has to the other, which has nobody to give to.
        nodes.iter().for_each(|node| node.says("left the cluster"));
    }
}

#[test]
fn a_reform_that_the_majority_overtakes_changes_nothing() {
    let mut nodes = cluster(3);
    let mut client = nodes[0].client();
    for number in 0..500 {
        assert_eq!(client.set(&format!("k{number}"), "v"), Answer::Ok);
    }
    nodes[1..].iter().for_each(|node| node.signal(Signal::STOP));
    let (reformed, why) = std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            loop {
                let answer = nodes[0].command("reform");
                // Refused as long as a majority may still be there.
                if !answer.1.contains("a majority of the voters answers") {
                    return answer;
                }
            }
        });
        nodes[0].says("asks the others to go on without it");
        nodes[1..].iter().for_each(|node| node.signal(Signal::CONT));
        asked.join().unwrap()
    });
    assert!(!reformed && why.contains("nothing was reformed"), "{why}");
    nodes[0].says("goes on as before");
    until("all to be safe", || nodes.iter().all(Process::is_safe));
    // All three vote as before: any of them may go.
    nodes.remove(2).signal(Signal::KILL);
    let mut client = nodes[0].client();
    for number in 0..500 {
        let (key, expected) = (format!("k{number}"), Answer::Value("v".to_owned()));
        until("every key to be read", || client.get(&key) == expected);
    }
    assert!(!nodes[0].log().contains("without the majority"));
}

#[test]
fn a_node_that_cannot_write_its_log_works_and_leaves() {
    let addrs = addresses(1);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut node = Process::start_logging_to(full.into(), addrs[0], &Setup::new(&[], 1));
    until("a node alone", || node.is_safe());
    assert_eq!(node.client().set("a", "1"), Answer::Ok);
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0));
}

#[test]
fn a_full_budget_evicts_and_the_node_lives() {
    let addrs = addresses(1);
    let setup = Setup { memory: "4MiB", ..Setup::new(&[], 1) };
    let node = Process::start(addrs[0], &setup);
    until("a node alone", || node.is_safe());
    let mut client = node.client();
    let value = "x".repeat(4_000);
    for number in 0..8_000 {
        assert_eq!(client.set(&format!("k{number}"), &value), Answer::Ok);
    }
    let Answer::Value(memory) = client.ask(&["INFO", "memory"]) else { panic!("no INFO") };
    let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let used: u64 = used.trim().parse().unwrap();
    assert!((1 << 20..5 << 20).contains(&used), "{used} bytes of 4 MiB after writing 32 MB");
    assert_eq!(client.get("k7999"), Answer::Value(value));
}
