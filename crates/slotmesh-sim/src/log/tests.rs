use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use slotmesh_control::Command;
use slotmesh_core::{ELECTION_MIN, wire};
use slotmesh_slots::{Generation, MonoTime, NodeId};

use super::{LogEvent, LogNode, NodeSet};

/// Three logs whose messages arrive at once, unless one of the two is cut off.
struct Logs {
    nodes: BTreeMap<NodeId, LogNode>,
    cut_off: Option<NodeId>,
    /// Nothing reaches it.
    deaf: Option<NodeId>,
    commands: BTreeMap<NodeId, Vec<Bytes>>,
    now: MonoTime,
}

impl Logs {
    fn new() -> Self {
        let ids: Vec<NodeId> = (1..=3).map(NodeId::from_random).collect();
        let generation = Generation { cluster: 1, reform: 0 };
        let now = MonoTime::from_micros(1);
        let log =
            |id: NodeId| LogNode::new(id, generation, StdRng::seed_from_u64(id.get() * 5), now);
        let mut nodes: BTreeMap<NodeId, LogNode> = ids.iter().map(|&id| (id, log(id))).collect();
        let founder = nodes.get_mut(&ids[0]).unwrap();
        founder.found(ids.iter().copied().collect(), now);
        Self { nodes, cut_off: None, deaf: None, commands: BTreeMap::new(), now }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(5);
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                let node = self.nodes.get_mut(&id).unwrap();
                if node.poll_timeout() <= self.now {
                    node.handle_timeout(self.now);
                }
            }
            while self.deliver() {}
        }
    }

    fn deliver(&mut self) -> bool {
        let mut busy = false;
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            while let Some(event) = self.nodes.get_mut(&id).unwrap().poll_event() {
                busy = true;
                match event {
                    LogEvent::Send(to, message)
                        if self.cut_off != Some(id)
                            && self.cut_off != Some(to)
                            && self.deaf != Some(to) =>
                    {
                        self.nodes.get_mut(&to).unwrap().handle(id, message, self.now);
                    }
                    LogEvent::Command(_, command) => {
                        self.commands.entry(id).or_default().push(command)
                    }
                    _ => {}
                }
            }
        }
        busy
    }

    fn leaders(&self) -> Vec<NodeId> {
        let leads = |node: &&LogNode| node.status(self.now).is_leader;
        self.nodes.values().filter(leads).map(|node| node.me).collect()
    }
}

#[test]
fn a_cut_off_leader_believes_on_but_its_quorum_stops_at_once() {
    let mut logs = Logs::new();
    logs.run(Duration::from_secs(1));
    let old = logs.leaders()[0];
    assert_eq!(logs.leaders(), [old]);
    logs.cut_off = Some(old);
    let cut = logs.now;
    logs.run(Duration::from_secs(1));
    assert_eq!(logs.leaders().len(), 2, "the others elected one, the old one does not know");
    let status = logs.nodes[&old].status(logs.now);
    assert!(status.is_leader && status.quorum_acked.is_some_and(|acked| acked <= cut));
    let new = *logs.leaders().iter().find(|&&node| node != old).unwrap();
    let status = logs.nodes[&new].status(logs.now);
    assert!(status.caught_up && status.leader_since.is_some_and(|since| since > cut));
    assert!(
        status.leader_since.unwrap().saturating_since(cut) + Duration::from_millis(50)
            >= ELECTION_MIN
    );
    logs.cut_off = None;
    logs.run(Duration::from_secs(1));
    assert_eq!(logs.leaders().len(), 1, "the old one heard of it");
}

#[test]
fn a_leader_that_hears_nobody_is_replaced_although_all_hear_it() {
    let mut logs = Logs::new();
    logs.run(Duration::from_secs(1));
    let old = logs.leaders()[0];
    logs.deaf = Some(old);
    logs.run(Duration::from_secs(2));
    assert_eq!(logs.leaders().len(), 2, "the others elected one");
    logs.deaf = None;
    logs.run(Duration::from_secs(1));
    assert!(logs.leaders().len() == 1 && logs.leaders() != [old]);
}

#[test]
fn what_commits_is_the_same_everywhere_and_nothing_commits_alone() {
    let mut logs = Logs::new();
    logs.run(Duration::from_secs(1));
    let leader = logs.leaders()[0];
    let now = logs.now;
    logs.nodes.get_mut(&leader).unwrap().propose(Bytes::from_static(b"one"), now);
    logs.run(Duration::from_millis(200));
    assert!(logs.commands.values().all(|commands| commands == &[Bytes::from_static(b"one")]));
    assert_eq!(logs.commands.len(), 3);
    logs.cut_off = Some(leader);
    let now = logs.now;
    logs.nodes.get_mut(&leader).unwrap().propose(Bytes::from_static(b"lost"), now);
    logs.run(Duration::from_secs(1));
    assert_eq!(logs.commands[&leader].len(), 1);
    logs.cut_off = None;
    logs.run(Duration::from_secs(1));
    assert!(
        logs.commands.values().all(|commands| commands.len() == 1),
        "overwritten by the new leader"
    );
}

#[test]
fn voters_change_in_two_steps() {
    let mut logs = Logs::new();
    logs.run(Duration::from_secs(1));
    let leader = logs.leaders()[0];
    let wanted = NodeSet::from([leader]);
    let now = logs.now;
    logs.nodes.get_mut(&leader).unwrap().set_voters(wanted.clone(), now);
    assert!(logs.nodes[&leader].status(now).voters_changing);
    logs.run(Duration::from_millis(500));
    let status = logs.nodes[&leader].status(logs.now);
    assert!(!status.voters_changing);
    assert_eq!(status.voters, wanted.into_iter().collect::<Vec<_>>());
}

#[test]
fn who_lacks_what_is_kept_no_more_takes_the_state_over() {
    let mut logs = Logs::new();
    logs.nodes.values_mut().for_each(|log| log.keeps = 3);
    logs.run(Duration::from_secs(1));
    let leader = logs.leaders()[0];
    let late = *logs.nodes.keys().find(|&&node| node != leader).unwrap();
    let found = Command::Found {
        generation: Generation { cluster: 1, reform: 0 },
        replicas: 1,
        expect: 3,
        members: vec![],
    };
    let proposals = |logs: &mut Logs, rounds: std::ops::Range<u32>| {
        for round in rounds {
            let now = logs.now;
            let command = match round {
                0 => found.clone(),
                _ => Command::SetReplicas { replicas: (round % 3) as u8, round },
            };
            logs.nodes.get_mut(&leader).unwrap().propose(wire::encode(&command), now);
            logs.run(Duration::from_millis(20));
        }
    };
    proposals(&mut logs, 0..2);
    logs.cut_off = Some(late);
    proposals(&mut logs, 2..20);
    logs.cut_off = None;
    proposals(&mut logs, 20..22);
    logs.run(Duration::from_secs(1));
    let state = |node: NodeId| logs.nodes[&node].state().clone();
    assert!(logs.nodes[&late].installed > 0);
    assert!(logs.commands[&late].len() < logs.commands[&leader].len());
    assert!(state(late).replicas_round() >= 20, "what was decided while it was cut off");
    assert_eq!(state(late), state(logs.leaders()[0]));
}
