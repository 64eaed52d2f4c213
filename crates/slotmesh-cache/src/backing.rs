//! What is behind L1: a node of the cluster, or something in its place that carries out the same operations.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use slotmesh_coherence::Subscriber;
use slotmesh_node::{CallOptions, CoarseClock, Function, Node, Op, OpError, Reply, Value};
use slotmesh_slots::{NodeId, Slot};

/// What an operation comes to.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Reply, OpError>> + Send + 'a>>;

/// Work to be done before something is closed.
pub type Work = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A second tier that is no node.
///
/// It carries out [`Op::Get`], [`Op::Watch`], [`Op::Load`], [`Op::EndLoad`], [`Op::Put`], [`Op::GetAndPut`] and [`Op::Delete`] as a slot's
/// primary does, with two differences: it says which stream tells of a slot by itself, whatever an operation names; and on
/// [`FillSince`](slotmesh_node::Condition::FillSince) it puts only what a lease of [`Op::Load`] was given for that nothing has ended since.
pub trait Remote: Send + Sync + 'static {
    /// What this process is called there.
    fn id(&self) -> NodeId;

    /// The seed of [`slotmesh_coherence::key_hash`].
    fn key_seed(&self) -> u64;

    /// The clock by which its subscriber measures.
    fn clock(&self) -> CoarseClock;

    /// What is heard of others' writes.
    fn subscriber(&self) -> &Arc<Subscriber>;

    /// Carries out an operation.
    fn execute(&self, op: Op, options: CallOptions) -> Answer<'_>;

    /// Has this done before it is closed.
    fn before_closing(&self, work: Work);
}

/// What a cache is built over.
#[derive(Clone)]
pub(crate) enum Backing {
    Node(Node),
    Remote(Arc<dyn Remote>),
}

macro_rules! either {
    ($backing:expr, $it:ident => $action:expr) => {
        match $backing {
            Self::Node($it) => $action,
            Self::Remote($it) => $action,
        }
    };
}

impl Backing {
    pub(crate) fn id(&self) -> NodeId {
        either!(self, it => it.id())
    }

    pub(crate) fn key_seed(&self) -> u64 {
        either!(self, it => it.key_seed())
    }

    pub(crate) fn clock(&self) -> CoarseClock {
        either!(self, it => it.clock())
    }

    pub(crate) fn subscriber(&self) -> &Arc<Subscriber> {
        either!(self, it => it.subscriber())
    }

    /// Whether this process is the slot's primary.
    pub(crate) fn owns(&self, slot: Slot) -> bool {
        matches!(self, Self::Node(node) if node.owner(slot) == Some(node.id()))
    }

    /// What there is, if this process is the key's primary and can tell without waiting.
    pub(crate) fn get_now(&self, key: &[u8]) -> Option<Option<Value>> {
        match self {
            Self::Node(node) => node.get_now(key),
            Self::Remote(_) => None,
        }
    }

    /// Has itself told of the writes to a slot, if it is the slot's primary.
    pub(crate) fn watch_own(&self, slot: Slot) -> bool {
        match self {
            Self::Node(node) => node.watch_own(slot),
            Self::Remote(_) => false,
        }
    }

    /// How long a question waits for another process' load before it is asked again.
    pub(crate) const fn patience(&self) -> Duration {
        match self {
            // So long it may not be noticed that nobody answers.
            Self::Node(_) => Duration::from_millis(100),
            // It looks again and again by itself, and remembers meanwhile what it waits for.
            Self::Remote(_) => Duration::from_secs(2),
        }
    }

    /// Whether it answers a get with a version on which a later fill can rest, and speaks for what this process writes itself.
    pub(crate) const fn dates_gets(&self) -> bool {
        matches!(self, Self::Node(_))
    }

    /// Whether it may run what was given to [`Backing::register`].
    pub(crate) const fn runs_functions(&self) -> bool {
        matches!(self, Self::Node(_))
    }

    pub(crate) fn register(&self, name: Bytes, version: u32, function: Box<Function>) {
        if let Self::Node(node) = self {
            node.register(name, version, function);
        }
    }

    pub(crate) async fn execute(&self, op: Op, options: CallOptions) -> Result<Reply, OpError> {
        either!(self, it => it.execute(op, options).await)
    }

    pub(crate) async fn execute_many(
        &self,
        ops: Vec<Op>,
        options: CallOptions,
    ) -> Vec<Result<Reply, OpError>> {
        match self {
            Self::Node(node) => node.execute_many(ops, options).await,
            Self::Remote(remote) => {
                join_all(ops.into_iter().map(|op| remote.execute(op, options))).await
            }
        }
    }

    pub(crate) fn before_closing(&self, work: Work) {
        match self {
            Self::Node(node) => node.before_leaving(work),
            Self::Remote(remote) => remote.before_closing(work),
        }
    }
}
