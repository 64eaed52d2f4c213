//! Sans-IO SWIM membership: probes, indirect probes, suspicion, incarnations and dissemination. It produces evidence, never decisions.
//!
//! Written from the papers: SWIM (Das, Gupta, Motivala, DSN 2002) for probing and dissemination, Lifeguard (Dadgar,
//! Phillips, Currey, 2017) for the local health multiplier, nacks and suspicion that confirmations shorten.
//!
//! [`Gossip`] knows no socket, clock or thread. Its driver feeds datagrams, evidence and time, then drains
//! [`Gossip::poll_transmit`] and [`Gossip::poll_event`] until both are empty, and calls [`Gossip::handle_timeout`] at
//! [`Gossip::poll_timeout`], *after* it has handed over every datagram that already waits in the socket. The same
//! seed and the same inputs give the same outputs.
//!
//! ```
//! use bytes::Bytes;
//! use slotmesh_gossip::{Event, Gossip, GossipConfig};
//! use slotmesh_slots::{MonoTime, NodeId};
//!
//! let now = MonoTime::from_micros(1);
//! let (left, right) = ("10.0.0.1:7600".parse()?, "10.0.0.2:7600".parse()?);
//! let config = GossipConfig::default();
//! let mut a = Gossip::new(config.clone(), NodeId::from_random(1), left, Bytes::new(), 7, now);
//! let mut b = Gossip::new(config, NodeId::from_random(2), right, Bytes::new(), 8, now);
//! a.add_seeds([right]);
//! a.handle_timeout(now);
//! while let Some(transmit) = a.poll_transmit() {
//!     b.handle_datagram(left, &transmit.bytes, now)?;
//! }
//! assert!(matches!(b.poll_event(), Some(Event::Joined(member)) if member.addr == left));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How conflicts end
//! A claim carries the incarnation of the node it speaks of; only that node raises it. A higher incarnation wins; at
//! equal ones dead beats suspect beats alive. So nobody but the node itself can bring it back from the dead, and a
//! node that hears of its own suspicion or death answers with the next incarnation. A death told by anti-entropy (not
//! by a fresh rumour) only starts a suspicion: after a partition both sides hold stale deaths of each other.
//!
//! # What is missing
//! Anti-entropy compares 64 bucket hashes, then sends whole buckets; it has no finer level. A transport hint
//! ([`Evidence::ConnectionLost`], [`Evidence::Refused`]) starts a suspicion at once but does not shorten it beyond what
//! confirmations do. The local health multiplier hears of failed probes, missing nacks, refutations and late timers,
//! not of queueing delay measured by the driver. Not measured above 1,000 nodes.

mod config;
mod digest;
mod error;
mod gossip;
mod health;
mod member;
mod relay;
mod roster;
mod rumor;
mod seed;
mod suspicion;
pub mod testing;
mod wire;

pub use config::GossipConfig;
pub use error::GossipError;
pub use gossip::{EVENTS_MAX, Gossip, TRANSMITS_MAX};
pub use member::{Event, Evidence, Member, MemberState, Transmit};
pub use roster::MEMBERS_MAX;
pub use seed::SEEDS_MAX;
pub use wire::{DATAGRAM_MAX, META_MAX};
