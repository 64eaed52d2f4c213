//! Functions of a cache, which run where a key's value is.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use slotmesh_node::{Call, CallEffect, Called, Op, OpError, Reply};

use crate::builder::Settings;
use crate::cache::{Cache, odd_reply};
use crate::change::{ATTEMPTS, Attempt};
use crate::codec::{Bincode, Codec, CodecError};
use crate::envelope;
use crate::error::CacheError;
use crate::key::CacheKey;
use crate::known::{Known, Lifetime};
use crate::load::message;
use crate::write::Writing;

/// A function of a cache: [`Cache::function`]. Cheap to clone; holds its cache.
pub struct Function<K: CacheKey, V, I, O> {
    cache: Cache<K, V>,
    name: Bytes,
    version: u32,
    step: Arc<Step<V>>,
    types: PhantomData<fn(&I) -> O>,
}

/// What there was becomes what there is, given the encoded input; answers the encoded output.
type Run<V> = dyn Fn(&mut Option<V>, &[u8]) -> Result<Vec<u8>, String> + Send + Sync;

/// A function, and all that it takes to run it without its cache.
struct Step<V> {
    run: Box<Run<V>>,
    codec: Arc<dyn Codec<V>>,
    settings: Settings,
}

/// What a function makes of a value.
enum Outcome<V> {
    Same,
    Set(V),
    Removed,
}

impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// A function that changes a value where it is: at the primary of its key, in one round trip, however many nodes call it at once.
    ///
    /// It is given the value, if there is a fresh one, and an input, and leaves what there is to be: `None` removes it. What it returns the
    /// caller gets. A value that comes out as it went in is not written; another one lives as long as the cache's `ttl` says. What it decided
    /// is replicated, so it may look at the time or draw random numbers.
    ///
    /// Call this on every node at its start, with the same name and version; another version when what it does, or its types, change. Where a primary has it
    /// not, as during a deployment, the caller runs it by itself, on condition that nobody changes the value meanwhile, as
    /// [`Cache::update`] does. So it is in caches with [`tags`](crate::CacheBuilder::tags), and over Redis.
    ///
    /// It runs under the lock of the key's slot, on a thread that serves others: it must not wait, and should take microseconds. After one that
    /// took more than [`FUNCTION_BUDGET`](slotmesh_node::FUNCTION_BUDGET) nothing is changed there, and callers run it by themselves for a
    /// second. A panic changes nothing, and is an error for the caller.
    ///
    /// ```
    /// # use slotmesh_cache::{CacheError, Caches};
    /// # use slotmesh_node::Node;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), CacheError> {
    /// # let node = Node::local(16 << 20);
    /// let carts = node.cache::<u64, Vec<String>>("carts").build()?;
    /// let add = carts.function("add", 1, |cart: &mut Option<Vec<String>>, item: String| {
    ///     let cart = cart.get_or_insert_default();
    ///     cart.push(item);
    ///     cart.len()
    /// });
    /// assert_eq!(add.call(&7, &"a book".to_owned()).await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn function<I, O, F>(&self, name: &str, version: u32, function: F) -> Function<K, V, I, O>
    where
        F: Fn(&mut Option<V>, I) -> O + Send + Sync + 'static,
        I: Serialize + DeserializeOwned,
        O: Serialize + DeserializeOwned,
    {
        let inner = &*self.inner;
        let run = move |value: &mut Option<V>, input: &[u8]| {
            let input = Bincode.decode(input).map_err(|error| format!("its input: {error}"))?;
            encoded(&Bincode, &function(value, input)).map_err(|error| error.to_string())
        };
        let (codec, settings) = (inner.codec(), inner.settings.clone());
        let step = Arc::new(Step { run: Box::new(run), codec, settings });
        let name = [inner.prefix(), name.as_bytes()].concat().into();
        let function = Function { cache: self.clone(), name, version, step, types: PhantomData };
        let step = Arc::clone(&function.step);
        let run = Box::new(move |call: Call<'_>| step.run_on(call));
        inner.backing.register(function.name.clone(), version, run);
        function
    }
}

impl<K, V, I, O> Function<K, V, I, O>
where
    K: CacheKey,
    V: Send + Sync + 'static,
    I: Serialize + DeserializeOwned,
    O: Serialize + DeserializeOwned,
{
    /// Runs the function on the value of a key. This process sees the change from the return on, other nodes' L1 after at most their
    /// [`max_staleness`](crate::L1::max_staleness).
    ///
    /// Dropping the future leaves open whether it runs. It runs once though it is retried.
    ///
    /// # Errors
    /// [`CacheError::Cluster`], with [`OpError::FunctionFailed`] where the function panicked or cannot read its input;
    /// [`CacheError::Encode`]; where the caller runs it also [`CacheError::Contended`].
    pub async fn call(&self, key: &K, input: &I) -> Result<O, CacheError> {
        let inner = &*self.cache.inner;
        let input: Bytes = encoded(&Bincode, input).map_err(CacheError::Encode)?.into();
        inner.admit(key).await?;
        let there = match inner.marks.is_none() && inner.backing.runs_functions() {
            true => self.call_there(key, input.clone()).await?,
            false => None,
        };
        let output = match there {
            Some(output) => output,
            None => self.call_here(key, &input).await?,
        };
        // It may have changed something, and what it answers is lost.
        Bincode.decode(&output).map_err(|_| odd_reply())
    }

    /// At the primary; `None` where that does not run it.
    async fn call_there(&self, key: &K, input: Bytes) -> Result<Option<Bytes>, CacheError> {
        let inner = &*self.cache.inner;
        let cluster_key = inner.cluster_key(key);
        let writing = Writing::begin(inner, key, &cluster_key);
        let (function, version) = (self.name.clone(), self.version);
        let (key, class) = (cluster_key, inner.settings.class);
        let op = Op::Call { key, function, version, input, class };
        let reply = match inner.backing.execute(op, inner.once_options()).await {
            Err(OpError::NoFunction) => return Ok(None),
            reply => inner.answered(reply)?,
        };
        writing.end(None);
        if let Reply::Called { output, .. } = reply { Ok(Some(output)) } else { Err(odd_reply()) }
    }

    /// In this process.
    async fn call_here(&self, key: &K, input: &[u8]) -> Result<Bytes, CacheError> {
        let inner = &*self.cache.inner;
        let mut current = inner.current(key).await?;
        for _ in 0..ATTEMPTS {
            let (version, value) = match current {
                Some(current) => (Some(current.version), current.value),
                None => (None, None),
            };
            // Nobody else has what was just read.
            let run = || self.step.run(value.and_then(Arc::into_inner), input);
            let ran = catch_unwind(AssertUnwindSafe(run));
            let ran = ran.unwrap_or_else(|panic| Err(message(&*panic).to_owned()));
            let (outcome, output) = ran.map_err(|why| OpError::FunctionFailed { why })?;
            let attempt = match (outcome, version) {
                (Outcome::Set(value), version) => {
                    inner.replace(key, Arc::new(value), version, inner.settings.ttl).await?
                }
                (Outcome::Removed, Some(version)) => inner.remove(key, version).await?,
                (Outcome::Same | Outcome::Removed, _) => Attempt::Done(None),
            };
            match attempt {
                Attempt::Done(_) => return Ok(output),
                Attempt::TooLate(now) => current = now,
            }
        }
        Err(CacheError::Contended { attempts: ATTEMPTS })
    }
}

impl<V: 'static> Step<V> {
    /// On what a key holds.
    fn run_on(&self, call: Call<'_>) -> Result<Called, String> {
        let Settings { schema, ttl, .. } = self.settings;
        let fresh = call.entry.and_then(|entry| {
            let opened = envelope::open(&*self.codec, schema, &entry.value)?;
            let (version, left, times) = (entry.version, entry.ttl, opened.times);
            let known = Known::<V> { value: None, version, left, times, bytes: 0, stamp: None };
            opened.value.filter(|_| known.age(&self.settings).is_fresh())
        });
        let (outcome, output) = self.run(fresh, call.input)?;
        let effect = match outcome {
            Outcome::Same => CallEffect::Keep,
            Outcome::Removed => CallEffect::Delete,
            Outcome::Set(value) => {
                let Lifetime { kept, times } = Lifetime::new(ttl, &self.settings);
                let sealed = envelope::seal(&*self.codec, schema, Some(&value), times, None);
                let sealed = sealed.map_err(|error| error.to_string())?;
                CallEffect::Put { value: sealed.into(), ttl: kept }
            }
        };
        Ok(Called { effect, output })
    }

    fn run(&self, mut value: Option<V>, input: &[u8]) -> Result<(Outcome<V>, Bytes), String> {
        let encode = |value: &V| encoded(&*self.codec, value).map_err(|error| error.to_string());
        let before = value.as_ref().map(encode).transpose()?;
        let output = (self.run)(&mut value, input)?.into();
        let outcome = match (before, value) {
            (None, None) => Outcome::Same,
            (Some(_), None) => Outcome::Removed,
            (Some(before), Some(value)) if encode(&value)? == before => Outcome::Same,
            (_, Some(value)) => Outcome::Set(value),
        };
        Ok((outcome, output))
    }
}

fn encoded<T, C: Codec<T> + ?Sized>(codec: &C, value: &T) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    codec.encode(value, &mut out)?;
    Ok(out)
}

impl<K: CacheKey, V, I, O> Clone for Function<K, V, I, O> {
    fn clone(&self) -> Self {
        let (cache, name, step) = (self.cache.clone(), self.name.clone(), Arc::clone(&self.step));
        Self { cache, name, version: self.version, step, types: PhantomData }
    }
}

impl<K: CacheKey, V, I, O> std::fmt::Debug for Function<K, V, I, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, version, .. } = self;
        f.debug_struct("Function")
            .field("name", name)
            .field("version", version)
            .finish_non_exhaustive()
    }
}
