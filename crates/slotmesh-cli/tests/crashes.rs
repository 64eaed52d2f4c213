//! How soon the others notice that a process has ended. Times are compared with what silence would take to be noticed, and of
//! several crashes one that is in time is enough: the machine may have other things to do.

#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "support of several tests, not an interface"
)]
mod processes;

use std::time::{Duration, Instant};

use processes::{Answer, Client, Process, Setup, cluster_with, keys_of, slots_of, until};
use rustix::process::Signal;

/// A replica that is merely silent is taken out after 250 ms at the soonest.
const SILENCE: Duration = Duration::from_millis(200);

/// A lease that was granted just before a crash lasts longer than this.
const LEASE: Duration = Duration::from_millis(650);

const CRASHES: usize = 4;

/// Has a process killed that does not lead, `CRASHES` times; how long each time `wait` took, which gets a client of the leader and
/// keys of slots that the leader and the victim owned.
fn after_crashes(setup: &Setup, wait: impl Fn(&mut Client, &[String], &[String])) -> Vec<Duration> {
    let mut nodes = cluster_with(3, setup);
    let seeds = nodes.iter().map(|node| node.control).collect();
    let setup = Setup { seeds, ..setup.clone() };
    let mut took = Vec::new();
    for _ in 0..CRASHES {
        until("a safe cluster with a leader", || {
            nodes.iter().all(Process::is_safe) && nodes.iter().any(Process::leads)
        });
        let leader = nodes.iter().position(Process::leads).unwrap_or_default();
        let victim = (leader + 1) % nodes.len();
        let mut client = nodes[leader].client();
        let mut keys = |node: &Process| {
            let slots = slots_of(&mut client, node.resp);
            keys_of(&slots.into_iter().step_by(200).collect::<Vec<_>>())
        };
        let (kept, lost) = (keys(&nodes[leader]), keys(&nodes[victim]));
        nodes[victim].signal(Signal::KILL);
        let killed = Instant::now();
        wait(&mut client, &kept, &lost);
        took.push(killed.elapsed());
        let dead = nodes.remove(victim);
        let addrs = [dead.control, dead.resp, dead.admin];
        drop(dead);
        nodes.push(Process::start(addrs, &setup));
    }
    println!("{took:?}");
    took
}

#[test]
fn where_a_refused_port_proves_a_death_no_lease_is_waited_for() {
    let setup = Setup { refused_is_death: true, ..Setup::new(&[], 3) };
    let took = after_crashes(&setup, |client, _, lost| {
        until("a write on the victim's slots", || client.set(&lost[0], "1") == Answer::Ok);
    });
    assert!(took.iter().any(|took| *took < LEASE), "{took:?}");
}

#[test]
fn writes_do_not_wait_for_the_silence_of_a_replica_that_crashed() {
    let took = after_crashes(&Setup::new(&[], 3), |client, kept, _| {
        assert!(kept.len() > 10, "half of them have a copy on the victim: {kept:?}");
        // Some may be on their way to the victim, which has just joined.
        for key in kept {
            until("a write on the survivor's slots", || client.set(key, "1") == Answer::Ok);
        }
    });
    assert!(took.iter().any(|took| *took < SILENCE), "{took:?}");
}
