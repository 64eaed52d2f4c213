//! Which loads the current task is inside of, so that a loader that asks for its own key gets an error instead of waiting
//! for itself. Loads that wait for each other across tasks (A loads B while B loads A) are not seen here: their
//! `load_timeout` ends them.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

tokio::task_local! {
    static CHAIN: Chain;
}

/// A load, and the load whose loader asked for it.
#[derive(Clone)]
pub(crate) struct Chain(Arc<Link>);

struct Link {
    /// Tells caches of one name apart.
    cache: usize,
    key: Bytes,
    outer: Option<Chain>,
}

impl Chain {
    /// The load whose loader runs on this task.
    pub(crate) fn current() -> Option<Self> {
        CHAIN.try_with(Self::clone).ok()
    }

    /// The load of a key, asked for by the loader of `outer`.
    pub(crate) fn new(outer: Option<Self>, cache: usize, key: Bytes) -> Self {
        Self(Arc::new(Link { cache, key, outer }))
    }

    pub(crate) fn contains(&self, cache: usize, key: &Bytes) -> bool {
        let mut next = Some(self);
        while let Some(Self(link)) = next {
            if link.cache == cache && link.key == *key {
                return true;
            }
            next = link.outer.as_ref();
        }
        false
    }

    /// Whether a loader asked for this load.
    pub(crate) fn is_nested(&self) -> bool {
        self.0.outer.is_some()
    }

    /// Runs a loader inside of this load.
    pub(crate) async fn scope<T>(self, loader: impl Future<Output = T>) -> T {
        CHAIN.scope(self, loader).await
    }
}
