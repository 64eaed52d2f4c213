//! Redis or Valkey servers as the second tier of caches, in place of a slotmesh cluster, and coherent through client tracking.
//!
//! [`Redis`] makes caches as a node does ([`Caches`]), and they do what those do: local tier within `max_staleness`, one load at a time of a
//! key among all processes, conditional writes, tags, guards. For teams that run such servers already.
//!
//! What differs, because servers differ:
//! * writes are acknowledged by the primary alone ([`Written::copies`](slotmesh_cache::Written::copies) is 1): a failover of theirs loses the last of them, and
//!   while a primary that was cut off does not know it yet, who is on its side sees what it has;
//! * nothing is carried out once though it is retried: a conditional write whose answer was lost is
//!   [`Ambiguous`](slotmesh_node::OpError::Ambiguous);
//! * what a process writes leaves its local tier at once, as the server tells it of that as of any write, and is read again;
//! * keys with braces are kept in the local tier for `max_staleness` only.
//!
//! Keys are named `space{cache:version:key}`, and behind that an `l` for who loads them. Each operation is one script, so a user of the server
//! needs `HELLO`, `ROLE`, `CLIENT TRACKING`, `EVAL`, `EVALSHA`, the commands in the scripts (`GET`, `GETRANGE`, `SET`, `DEL`, `PTTL`, `TIME`), and for a cluster
//! `CLUSTER SLOTS`, `CLUSTER INFO` and `ASKING`. Redis 7 or Valkey 7 and later, over TCP without TLS, or a Unix socket. Of evictions `volatile-ttl` might
//! take leases first, and two then load.
//!
//! ```no_run
//! use slotmesh_cache::{CacheError, Caches};
//! use slotmesh_redis::Redis;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let redis = Redis::open("redis://127.0.0.1:6379")?;
//! let users = redis.cache::<u64, String>("users").build()?;
//! let name = users.get_or_load(&7, |id| async move { Ok::<_, CacheError>(Some(format!("user {id}"))) });
//! assert_eq!(name.await?.as_deref().map(String::as_str), Some("user 7"));
//! # Ok(())
//! # }
//! ```

mod answer;
mod hearing;
mod names;
mod script;
mod server;
mod servers;
mod tier;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};
use slotmesh_cache::{CacheBuilder, CacheKey, Caches, Remote};
use slotmesh_node::{CallOptions, Op, OpError};
use slotmesh_slots::NodeId;

use crate::hearing::Hearing;
use crate::names::Names;
use crate::tier::Tier;

/// Calls take so long at most, unless that is set.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A longer one is taken for this.
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// Servers that caches are kept on. Cheap to clone; connections live as long as a clone, or a cache made from one, does.
///
/// It connects with the first call, in whose tokio runtime the connections live from then on, and again whenever one is lost. Where a server is down reads fail at
/// once, so that loaders are asked without waiting, and writes wait for it until their time is up.
#[derive(Clone)]
pub struct Redis {
    tier: Arc<Tier>,
}

/// How servers are reached.
#[derive(Clone, Debug)]
#[must_use]
pub struct RedisBuilder {
    space: String,
    timeout: Duration,
}

/// What servers cannot be reached with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is no address of a server.
    #[error("the address of a server, number {number} of those given: {why}")]
    Address {
        /// Which one, from 1; addresses may have passwords.
        number: usize,
        /// What is wrong with it.
        why: String,
    },
    /// No address was given.
    #[error("no address of a server")]
    NoAddress,
    /// The name space is empty, has more than 64 bytes, or braces.
    #[error("a name space has 1 to 64 bytes and no braces")]
    Namespace,
    /// Calls would have no time at all.
    #[error("the timeout must not be zero")]
    Timeout,
}

impl Redis {
    /// One server, by an address like `redis://user:password@host:6379/0`. It is not connected to yet.
    ///
    /// # Errors
    /// When the address is none.
    pub fn open(address: &str) -> Result<Self, OpenError> {
        Self::builder().open(address)
    }

    /// The servers of a cluster, some of which are at these addresses.
    ///
    /// # Errors
    /// When one of the addresses is none, or there are none.
    pub fn open_cluster<'a>(
        addresses: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, OpenError> {
        Self::builder().open_cluster(addresses)
    }

    /// Other settings than the usual ones.
    pub fn builder() -> RedisBuilder {
        RedisBuilder { space: "slotmesh".to_owned(), timeout: TIMEOUT }
    }

    /// Whether a server answers, the one that has a certain slot in a cluster.
    ///
    /// Cancellation safe.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn ping(&self) -> Result<(), OpError> {
        let key = bytes::Bytes::from_static(b"ping:0:");
        self.tier.execute(Op::Get { key }, CallOptions::default()).await.map(drop)
    }

    /// Waits until what caches are yet to write to their sources is written ([`CacheBuilder::write_behind`]), so long at most; whether it was. To be called before
    /// the process ends, as a node's `leave` is.
    pub async fn flush(&self, within: Duration) -> bool {
        let works: Vec<_> = self.tier.closing.lock().iter().map(|work| work()).collect();
        tokio::time::timeout(within, join_all(works)).await.is_ok()
    }
}

impl Caches for Redis {
    fn cache<K: CacheKey, V>(&self, name: &str) -> CacheBuilder<K, V> {
        CacheBuilder::over(Arc::clone(&self.tier) as Arc<dyn Remote>, name)
    }
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

impl RedisBuilder {
    /// What the names of all keys begin with, `slotmesh` by default. Applications that share servers need different ones. Somebody who chooses
    /// keys and knows it could choose ones that fall together in local tiers, which makes those worse.
    pub fn namespace(mut self, space: &str) -> Self {
        space.clone_into(&mut self.space);
        self
    }

    /// How long a call may take, a second by default; questions before a load take no longer than
    /// [`cluster_timeout`](CacheBuilder::cluster_timeout).
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// As [`Redis::open`].
    ///
    /// # Errors
    /// When the address is none, or a setting cannot work.
    pub fn open(self, address: &str) -> Result<Redis, OpenError> {
        self.build([address], false)
    }

    /// As [`Redis::open_cluster`].
    ///
    /// # Errors
    /// When one of the addresses is none, or there are none, or a setting cannot work.
    pub fn open_cluster<'a>(
        self,
        addresses: impl IntoIterator<Item = &'a str>,
    ) -> Result<Redis, OpenError> {
        self.build(addresses, true)
    }

    fn build<'a>(
        self,
        addresses: impl IntoIterator<Item = &'a str>,
        is_cluster: bool,
    ) -> Result<Redis, OpenError> {
        let names = Names::new(&self.space).ok_or(OpenError::Namespace)?;
        if self.timeout.is_zero() {
            return Err(OpenError::Timeout);
        }
        let numbered = addresses.into_iter().zip(1..);
        let seeds: Box<[_]> =
            numbered.map(|it| parsed(it, is_cluster)).collect::<Result<_, _>>()?;
        if seeds.is_empty() {
            return Err(OpenError::NoAddress);
        }
        let timeout = self.timeout.min(TIMEOUT_MAX);
        Ok(Redis { tier: Arc::new(Tier::new(seeds, is_cluster, names, timeout)) })
    }
}

/// Takes bytes for anything that a server may send: for the fuzz target.
#[doc(hidden)]
pub fn read_anything(input: &[u8]) {
    let names = Names::new("space").map(|names| Hearing::new(names, NodeId::from_random(1)));
    names.iter().for_each(|hearing| hearing.hear(input));
    let Ok(answer) = redis::parse_redis_value(input) else { return };
    let _get = answer::get(answer.clone());
    let _put = answer::put(answer.clone());
    let _exchange = answer::get_and_put(answer.clone());
    let _delete = answer::delete(answer.clone());
    let _load = answer::load(answer.clone());
    let _end = answer::end_load(&answer);
    let _map = servers::parse(answer, "localhost");
}

fn parsed((address, number): (&str, usize), is_cluster: bool) -> Result<ConnectionInfo, OpenError> {
    let wrong = |why: &str| OpenError::Address { number, why: why.to_owned() };
    let info = address.into_connection_info().map_err(|error| wrong(&error.to_string()))?;
    if is_cluster && matches!(info.addr(), ConnectionAddr::Unix(_)) {
        return Err(wrong("servers of a cluster have hosts and ports"));
    }
    // Only this one tells of writes and answers on the same connection.
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Ok(info.set_redis_settings(settings))
}
