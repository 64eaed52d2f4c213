//! Who leads, what a leader may claim, and what happens when it is cut off.

#![allow(missing_docs, clippy::unwrap_used)]

mod fabric;

use std::time::Duration;

use fabric::{Cluster, node, until};
use slotmesh_consensus::ConsensusConfig;
use slotmesh_control::log::ProposeError;
use slotmesh_slots::NodeId;
use tokio::time::{Instant, sleep};

fn config() -> ConsensusConfig {
    ConsensusConfig::default()
}

#[tokio::test(start_paused = true)]
async fn a_cut_off_leader_is_replaced_and_its_claim_stands_still() {
    let cluster = Cluster::founded(3, config()).await;
    cluster.commit(b"before").await;
    let old = cluster.leader().await;
    cluster.cut(old);
    let cut_at = cluster.now();

    let started = Instant::now();
    let deadline = Duration::from_millis(500);
    let refused = cluster.at(old).propose(b"lost".to_vec(), deadline).await.unwrap_err();
    assert!(started.elapsed() <= Duration::from_millis(510), "{:?}", started.elapsed());
    assert!(matches!(refused, ProposeError::Timeout | ProposeError::NotLeader { .. }), "{refused}");

    let new = cluster.leader().await;
    assert_ne!(new, old);
    cluster.commit(b"after").await;
    let claim = cluster.at(old).status();
    assert!(claim.is_leader, "nobody told it");
    assert!(claim.quorum_acked.unwrap() <= cut_at);
    assert!(
        cluster.at(new).status().leader_since.unwrap()
            > claim.quorum_acked.unwrap() + config().election_max
    );
    let refused =
        cluster.at(old).propose(b"lost".to_vec(), Duration::from_secs(9)).await.unwrap_err();
    assert_eq!(refused, ProposeError::NoQuorum);

    cluster.heal();
    until("the old leader to follow", || cluster.at(old).status().leader == Some(new)).await;
    let all = [node(1), node(2), node(3)];
    cluster.applied(&all, &[b"before".to_vec(), b"after".to_vec()]).await;
    assert_eq!(cluster.at(old).status().quorum_acked, None);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_no_answer_reaches_is_replaced_although_all_hear_it() {
    let cluster = Cluster::founded(3, config()).await;
    let old = cluster.leader().await;
    let others = [node(1), node(2), node(3)].into_iter().filter(|id| *id != old);
    others.clone().for_each(|other| cluster.cut_link(other, old));
    let started = Instant::now();
    let leads = |id: NodeId| cluster.at(id).status().is_leader;
    until("another leader", || others.clone().any(leads)).await;
    assert!(started.elapsed() <= Duration::from_secs(2), "{:?}", started.elapsed());
    cluster.heal();
    until("the old leader to follow", || !leads(old)).await;
    cluster.commit(b"after").await;
}

#[tokio::test(start_paused = true)]
async fn the_claim_of_a_leader_advances_while_a_majority_answers() {
    let cluster = Cluster::founded(3, config()).await;
    let leader = cluster.leader().await;
    let others: Vec<_> =
        [node(1), node(2), node(3)].into_iter().filter(|id| *id != leader).collect();
    let claim = || cluster.at(leader).status().quorum_acked.unwrap();
    let stands_still = async || {
        // What is on its way may still arrive.
        sleep(config().heartbeat).await;
        let before = claim();
        sleep(Duration::from_secs(1)).await;
        claim() == before
    };

    assert!(!stands_still().await);
    cluster.cut(others[0]);
    assert!(!stands_still().await, "two of three are a majority");
    // The leader's messages arrive, the answers do not.
    cluster.cut_link(others[1], leader);
    assert!(stands_still().await);
    assert!(cluster.now() - claim() > Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn the_claim_is_as_old_as_the_sending_not_as_the_answer() {
    let delay = Duration::from_millis(10);
    let cluster = Cluster::founded_with_delay(3, config(), delay).await;
    let leader = cluster.at(cluster.leader().await);
    let mut claims = std::collections::BTreeSet::new();
    for _ in 0..500 {
        sleep(Duration::from_millis(1)).await;
        let claim = leader.status().quorum_acked.unwrap();
        assert!(cluster.now() - claim >= 2 * delay);
        claims.insert(claim);
    }
    assert!(claims.len() >= 5, "{claims:?}");
}

#[tokio::test(start_paused = true)]
async fn no_two_nodes_claim_leadership_at_once() {
    let cluster = Cluster::founded(5, config()).await;
    let all: Vec<_> = (1..=5).map(node).collect();
    let mut leaders = 0;
    for round in 0..6 {
        let leader = cluster.leader().await;
        cluster.cut(leader);
        if round % 2 == 0 {
            cluster.cut_link(all[round % 5], all[(round + 1) % 5]);
        }
        for _ in 0..1500 {
            sleep(Duration::from_millis(1)).await;
            let now = cluster.now();
            let claims = |id: &&NodeId| {
                let acked = cluster.at(**id).status().quorum_acked;
                acked.is_some_and(|at| now - at < config().election_min)
            };
            let claiming: Vec<_> = all.iter().filter(claims).collect();
            assert!(claiming.len() <= 1, "{claiming:?} at {now:?}");
            leaders += usize::from(claiming.len() == 1 && *claiming[0] != leader);
        }
        cluster.heal();
    }
    assert!(leaders > 1000, "new leaders claimed in {leaders} of 9000 samples");
}

#[tokio::test(start_paused = true)]
async fn a_follower_refuses_and_names_the_leader() {
    let cluster = Cluster::founded(3, config()).await;
    let leader = cluster.leader().await;
    let follower = [node(1), node(2)].into_iter().find(|id| *id != leader).unwrap();
    until("the follower to know", || cluster.at(follower).status().leader == Some(leader)).await;
    let refused = cluster.at(follower).propose(b"x".to_vec(), Duration::from_secs(9)).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(leader) }));
    let refused = cluster.at(follower).set_voters(vec![node(1)]).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(leader) }));
    assert_eq!(cluster.at(follower).status().quorum_acked, None);
}

/// Cuts a follower off for two seconds; returns whether the leader kept its term through the rejoin.
async fn leader_survives_rejoin(gated: bool) -> bool {
    let cluster = Cluster::founded(3, config()).await;
    let leader = cluster.leader().await;
    let term = cluster.at(leader).status().term;
    let follower = [node(1), node(2)].into_iter().find(|id| *id != leader).unwrap();
    cluster.cut(follower);
    cluster.at(follower).set_elections(!gated);
    sleep(Duration::from_secs(2)).await;
    cluster.heal();
    sleep(Duration::from_millis(150)).await;
    cluster.at(follower).set_elections(true);
    sleep(Duration::from_secs(2)).await;
    cluster.commit(b"after").await;
    cluster.at(cluster.leader().await).status().term == term
}

#[tokio::test(start_paused = true)]
async fn a_rejoining_follower_with_elections_off_deposes_nobody() {
    for _ in 0..5 {
        assert!(leader_survives_rejoin(true).await);
    }
    // Else the test above would show nothing.
    assert!(!leader_survives_rejoin(false).await);
}

#[tokio::test(start_paused = true)]
async fn a_sole_voter_leads_and_answers_for_itself() {
    let cluster = Cluster::founded(1, config()).await;
    cluster.commit(b"alone").await;
    sleep(Duration::from_secs(3)).await;
    let status = cluster.at(node(1)).status();
    assert_eq!(status.quorum_acked, Some(cluster.now()));
    assert_eq!(status.voters, [node(1)]);
}

#[tokio::test(start_paused = true)]
async fn watchers_hear_of_a_new_leader_but_not_of_heartbeats() {
    let cluster = Cluster::founded(3, config()).await;
    let leader = cluster.leader().await;
    cluster.commit(b"x").await;
    let mut watch = cluster.at(leader).watch();
    sleep(Duration::from_secs(1)).await;
    watch.mark_unchanged();
    sleep(Duration::from_secs(1)).await;
    assert!(!watch.has_changed().unwrap());
    let other = [node(1), node(2)].into_iter().find(|id| *id != leader).unwrap();
    let mut watch = cluster.at(other).watch();
    cluster.crash(leader).await;
    let new = watch.wait_for(|status| status.leader.is_some_and(|id| id != leader)).await;
    assert!(new.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_stopped_node_claims_nothing_and_refuses() {
    let cluster = Cluster::founded(1, config()).await;
    let consensus = cluster.at(node(1));
    consensus.shutdown().await;
    let status = consensus.status();
    assert!(!status.is_leader && status.leader.is_none() && status.quorum_acked.is_none());
    assert!(consensus.propose(Vec::new(), Duration::from_secs(1)).await.is_err());
    assert!(consensus.initialize(vec![node(1)]).await.is_err());
}

/// One leader's entry reaches a single voter, the next leader has it taken back, and a third finds it at that voter.
#[tokio::test(start_paused = true)]
async fn what_was_taken_back_here_may_yet_be_applied() {
    let delay = Duration::from_millis(10);
    let cluster = Cluster::founded_with_delay(5, config(), delay).await;
    cluster.commit(b"before").await;
    let first = cluster.leader().await;
    let others: Vec<_> = (1..=5).map(node).filter(|id| *id != first).collect();
    let [heir, keeper] = [others[0], others[1]];
    until("all to have it", || others.iter().all(|id| cluster.commands(*id).len() == 1)).await;
    for id in others.iter().filter(|id| **id != heir) {
        cluster.at(*id).set_elections(false);
    }

    // Only the keeper hears of the entry.
    cluster.cut(heir);
    others[2..].iter().for_each(|id| cluster.cut_link(first, *id));
    let leader = cluster.at(first);
    let proposal =
        tokio::spawn(
            async move { leader.propose(b"lost?".to_vec(), Duration::from_secs(9)).await },
        );
    sleep(5 * delay).await;

    // The heir is elected by the last two. Its first entry reaches only the old leader.
    cluster.heal();
    cluster.cut(keeper);
    others[2..].iter().for_each(|id| cluster.cut_link(first, *id));
    cluster.cut_link(first, heir);
    let term = cluster.at(heir).status().term;
    until("the heir to stand", || cluster.at(heir).status().term > term).await;
    sleep(delay * 3 / 2).await;
    cluster.heal();
    cluster.cut(keeper);
    others[2..].iter().for_each(|id| cluster.cut_link(heir, *id));
    let outcome = proposal.await.unwrap();

    // It is gone before the others have it, and the keeper's log is the longest among those that are left.
    cluster.crash(heir).await;
    cluster.heal();
    cluster.at(first).set_elections(false);
    cluster.at(keeper).set_elections(true);
    let applied = [b"before".to_vec(), b"lost?".to_vec()];
    cluster.applied(&[first, keeper, others[2], others[3]], &applied).await;
    assert_eq!(outcome, Err(ProposeError::LeadershipLost));
}
