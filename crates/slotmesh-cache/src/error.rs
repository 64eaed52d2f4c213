use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use slotmesh_node::OpError;
use slotmesh_slots::Version;

use crate::codec::CodecError;

/// Why a cache did not do what it was asked for; [`is_transient`](Self::is_transient) tells whether a retry makes sense. Cloneable,
/// because all waiters of a load get the same.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The cluster refused or did not answer; see [`OpError`] on whether a write happened and whether a retry helps.
    /// The outcome of [`get_or_load`](crate::Cache::get_or_load) only where the cache is [strict](crate::CacheBuilder::strict).
    #[error("the cluster: {0}")]
    Cluster(#[from] OpError),
    /// The loader returned this; nothing was cached. The next call loads again.
    #[error("the loader failed: {0}")]
    Load(#[source] Arc<dyn Error + Send + Sync>),
    /// The loader of another node failed with this message, for which this one waited, or a moment ago, and it is not to be tried again
    /// yet ([`CacheBuilder::error_backoff`](crate::CacheBuilder::error_backoff)).
    #[error("the loader of another node failed: {0}")]
    LoadElsewhere(Arc<str>),
    /// The loader panicked with this message; nothing was cached. The next call loads again.
    #[error("the loader panicked: {0}")]
    LoadPanicked(Arc<str>),
    /// The loader (and the wait for its turn) took longer than the cache's `load_timeout` and was dropped.
    #[error("the loader took longer than {0:?}")]
    LoadTimeout(Duration),
    /// The value did not come within the cache's `hard_timeout`. What was begun goes on; a retry joins it.
    #[error("no value within {0:?}")]
    TimedOut(Duration),
    /// The loader said that what is known is right still, but nothing is known.
    #[error("the loader says that nothing was modified where nothing was known")]
    NothingKnown,
    /// The cache was built without a loader, so there is none to call.
    #[error("the cache has no loader")]
    NoLoader,
    /// The writer returned this; the source has not got the change, as far as that says, and the cluster has forgotten the key.
    #[error("the writer failed: {0}")]
    Store(#[source] Arc<dyn Error + Send + Sync>),
    /// The writer panicked with this message. Whether the source has the change is unknown; the cluster has forgotten the key.
    #[error("the writer panicked: {0}")]
    StorePanicked(Arc<str>),
    /// The writer took longer than the cache's `load_timeout` and was dropped. Whether the source has the change is unknown; the cluster has forgotten
    /// the key.
    #[error("the writer took longer than {0:?}")]
    StoreTimeout(Duration),
    /// So many changes wait for the source, and none of them was written within the cache's `load_timeout`. Nothing was changed.
    #[error("{max} changes wait for the source")]
    TooManyUnwritten {
        /// The bound.
        max: usize,
    },
    /// The cache was built without a writer, so it cannot change the source.
    #[error("the cache has no writer")]
    NoWriter,
    /// The cache was built without [`tags`](crate::CacheBuilder::tags), so its values cannot be invalidated together.
    #[error("the cache was built without tags")]
    NoTags,
    /// The cache was built without a [`guard`](crate::CacheBuilder::guard), so there is none to fill.
    #[error("the cache was built without a guard")]
    NoGuard,
    /// Another call began to fill the guard, on some node, while this one did. What that one was told counts.
    #[error("another call fills the guard")]
    GuardReplaced,
    /// The runtime that carried the load was shut down, or there is none around this call. Nothing was cached. After a
    /// [`store`](crate::Cache::store) it is unknown what was written.
    #[error("no runtime carries it to its end")]
    LoadAborted,
    /// The key does not have the version on which it was to be written, but this one, if it has a value. Nothing was written; read it and
    /// try again.
    #[error("the key has another version")]
    Conflict {
        /// What it has.
        version: Option<Version>,
    },
    /// Others changed the key each time in between. Nothing was written; a retry may help.
    #[error("the key changed {attempts} times while it was being updated")]
    Contended {
        /// How often it was tried.
        attempts: u32,
    },
    /// The loader of a key asked for the same key. It would wait for itself.
    #[error("a loader loads its own key")]
    Recursive,
    /// So many loads are under way or wait for their turn; nothing was started. A retry after a pause helps.
    #[error("{max} loads are under way")]
    TooManyLoads {
        /// The bound.
        max: usize,
    },
    /// The value cannot be encoded; nothing was written, and a retry cannot help.
    #[error(transparent)]
    Encode(CodecError),
    /// The settings given to the builder cannot work.
    #[error("invalid settings of the cache: {}", .problems.join("; "))]
    Settings {
        /// Every problem found.
        problems: Vec<String>,
    },
}

impl CacheError {
    /// Whether the same call may succeed after a pause, with nothing changed by the caller. Look at
    /// [`may_have_happened`](Self::may_have_happened) before a write is repeated.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Cluster(error) => error.is_transient(),
            Self::Load(_)
            | Self::LoadElsewhere(_)
            | Self::LoadPanicked(_)
            | Self::LoadTimeout(_)
            | Self::TimedOut(_)
            | Self::Store(_)
            | Self::StorePanicked(_)
            | Self::StoreTimeout(_)
            | Self::TooManyUnwritten { .. }
            | Self::Contended { .. }
            | Self::TooManyLoads { .. } => true,
            // Another version has to be read first, or the code or the settings be mended.
            Self::Conflict { .. }
            | Self::NothingKnown
            | Self::NoLoader
            | Self::NoWriter
            | Self::NoTags
            | Self::NoGuard
            | Self::GuardReplaced
            | Self::LoadAborted
            | Self::Recursive
            | Self::Encode(_)
            | Self::Settings { .. } => false,
        }
    }

    /// Whether a write that failed so may have happened all the same, in the cluster or in the source.
    #[must_use]
    pub const fn may_have_happened(&self) -> bool {
        match self {
            Self::Cluster(error) => error.may_have_happened(),
            Self::StorePanicked(_) | Self::StoreTimeout(_) | Self::LoadAborted => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_whether_a_retry_helps_and_whether_it_may_do_harm() {
        let why = || "x".to_owned();
        let told = |error: CacheError| (error.is_transient(), error.may_have_happened());
        assert_eq!(told(OpError::Unavailable { why: why() }.into()), (true, false));
        assert_eq!(told(OpError::Ambiguous { why: why() }.into()), (true, true));
        assert_eq!(told(OpError::Overflow.into()), (false, false));
        assert_eq!(told(CacheError::TooManyLoads { max: 1 }), (true, false));
        assert_eq!(told(CacheError::StoreTimeout(Duration::ZERO)), (true, true));
        assert_eq!(told(CacheError::LoadAborted), (false, true));
        assert_eq!(told(CacheError::Conflict { version: None }), (false, false));
    }
}
