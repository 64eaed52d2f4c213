use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crate::error::CacheError;

/// What a loader found. A value becomes one by itself, and so does an `Option` of one: the value, or that there is none.
#[derive(Clone, Debug)]
#[must_use]
pub struct Loaded<V> {
    pub(crate) what: What<V>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) stored: bool,
    pub(crate) tags: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) enum What<V> {
    Value(V),
    Missing,
    /// The cache itself has it.
    Shared(Option<Arc<V>>),
    NotModified,
    Failed(CacheError),
}

impl<V> Loaded<V> {
    /// A value.
    pub const fn value(value: V) -> Self {
        Self::new(What::Value(value))
    }

    /// There is no such value. It is kept for [`negative_ttl`](crate::CacheBuilder::negative_ttl), or for [`Loaded::ttl`].
    pub const fn missing() -> Self {
        Self::new(What::Missing)
    }

    /// What the loader was told to be known already ([`Cache::get_or_reload`](crate::Cache::get_or_reload)) is right still, and begins a new
    /// lifetime.
    pub const fn not_modified() -> Self {
        Self::new(What::NotModified)
    }

    /// Loading this one failed: for loaders of many values, of which others may have been found.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(What::Failed(CacheError::Load(Arc::from(error.into()))))
    }

    /// How long it lives, in place of what the cache's settings say. With zero it is not stored.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// More tags beside those that [`tags`](crate::CacheBuilder::tags) gives; without that setting there are none.
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// Only for those who wait for it; neither L1 nor the cluster keeps it, and other nodes that wait load it themselves.
    pub const fn no_store(mut self) -> Self {
        self.stored = false;
        self
    }

    pub(crate) const fn shared(value: Option<Arc<V>>) -> Self {
        Self::new(What::Shared(value))
    }

    const fn new(what: What<V>) -> Self {
        Self { what, ttl: None, stored: true, tags: Vec::new() }
    }
}

impl<V> From<V> for Loaded<V> {
    fn from(value: V) -> Self {
        Self::value(value)
    }
}

impl<V> From<Option<V>> for Loaded<V> {
    fn from(found: Option<V>) -> Self {
        found.map_or_else(Self::missing, Self::value)
    }
}
