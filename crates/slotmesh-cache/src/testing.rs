//! A stand-in for the cluster, for unit tests of code that uses caches; and clusters of real nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use slotmesh_coherence::Subscriber;
pub use slotmesh_node::testing::{Cluster, ClusterError};
use slotmesh_node::{CallOptions, CoarseClock, Node, Op, OpError, Reply};
use slotmesh_slots::NodeId;
use tokio::time::sleep;

use crate::backing::{Answer, Remote, Work};
use crate::builder::{CacheBuilder, Caches};
use crate::key::CacheKey;

/// What a mock keeps at most.
const MEMORY_BYTES: usize = 64 << 20;

/// How long calls may take that do not say so.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A map in this process where the cluster would be: with all that a cache does, no network, and failures at will. Clones are the same map.
///
/// Made while tokio's clock is paused it lives by that clock. For tests with several nodes there is
/// [`Cluster`].
///
/// ```
/// use slotmesh_cache::testing::Mock;
/// use slotmesh_cache::{CacheError, Caches};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), CacheError> {
/// let mock = Mock::new();
/// let users = mock.cache::<u64, String>("users").no_l1().build()?;
/// users.put(&7, "Ada".to_owned()).await?;
/// mock.cut_off();
/// assert!(users.get(&7).await.is_err());
/// let loaded = users.get_or_load(&7, |_| async { Ok::<_, CacheError>(Some("from the database".to_owned())) });
/// assert_eq!(loaded.await?.as_deref().map(String::as_str), Some("from the database"));
/// mock.heal();
/// assert_eq!(users.get(&7).await?.as_deref().map(String::as_str), Some("Ada"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Mock {
    map: Arc<Map>,
}

#[derive(Debug)]
struct Map {
    node: Node,
    is_cut_off: AtomicBool,
    delay_micros: AtomicU64,
    calls: AtomicU64,
}

impl Mock {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            map: Arc::new(Map {
                node: Node::local(MEMORY_BYTES),
                is_cut_off: AtomicBool::new(false),
                delay_micros: AtomicU64::new(0),
                calls: AtomicU64::new(0),
            }),
        }
    }

    /// From now on every call fails at once, as if no node could be reached. What L1 has it still shows; caches without one
    /// ([`CacheBuilder::no_l1`]) fail.
    pub fn cut_off(&self) {
        self.map.is_cut_off.store(true, Ordering::SeqCst);
    }

    /// Ends what [`Mock::cut_off`] began. What was there still is.
    pub fn heal(&self) {
        self.map.is_cut_off.store(false, Ordering::SeqCst);
    }

    /// From now on calls take so long. Those that may not are given up: reads fail, and writes happen without being known to have.
    pub fn delay(&self, by: Duration) {
        let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.map.delay_micros.store(micros, Ordering::SeqCst);
    }

    /// Calls so far: what caches asked for that they did not find in L1, and their writes.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.map.calls.load(Ordering::SeqCst)
    }
}

impl Default for Mock {
    fn default() -> Self {
        Self::new()
    }
}

impl Caches for Mock {
    fn cache<K: CacheKey, V>(&self, name: &str) -> CacheBuilder<K, V> {
        CacheBuilder::over(Arc::clone(&self.map) as Arc<dyn Remote>, name)
    }
}

impl Map {
    async fn carry_out(&self, mut op: Op, options: CallOptions) -> Result<Reply, OpError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let delay = Duration::from_micros(self.delay_micros.load(Ordering::SeqCst));
        let timeout = options.timeout.unwrap_or(TIMEOUT);
        if !delay.is_zero() {
            sleep(delay.min(timeout)).await;
        }
        let (is_late, is_read) = (delay > timeout, op.is_read());
        if self.is_cut_off.load(Ordering::SeqCst) || (is_late && is_read) {
            return Err(OpError::Unavailable { why: "the test wants it so".to_owned() });
        }
        if let Op::Watch { by, .. } = &mut op {
            *by = Some(self.node.subscriber().own());
        }
        let reply = self.node.execute(op, options).await;
        match is_late {
            true => Err(OpError::Ambiguous { why: "the test wants it so".to_owned() }),
            false => reply,
        }
    }
}

impl Remote for Map {
    fn id(&self) -> NodeId {
        self.node.id()
    }

    fn key_seed(&self) -> u64 {
        self.node.key_seed()
    }

    fn clock(&self) -> CoarseClock {
        self.node.clock()
    }

    fn subscriber(&self) -> &Arc<Subscriber> {
        self.node.subscriber()
    }

    fn execute(&self, op: Op, options: CallOptions) -> Answer<'_> {
        Box::pin(self.carry_out(op, options))
    }

    fn before_closing(&self, work: Work) {
        self.node.before_leaving(work);
    }
}
