use std::time::Duration;

use bytes::Bytes;
use slotmesh_core::{Function, Op, Reply, Value};
use slotmesh_slots::Slot;
use slotmesh_store::{ByteRange, Condition, ExpireCondition};

use super::Node;
use crate::client::{CallOptions, PutOptions};
use crate::error::OpError;

impl Node {
    /// Reads an entry from its slot's primary; linearizable. On the primary itself it neither waits nor leaves the
    /// thread, unless the entry's write is not yet acknowledged.
    ///
    /// Cancellation safe.
    ///
    /// # Errors
    /// When no primary answers within the node's call timeout.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Value>, OpError> {
        let reply = match self.inner.router.get_now(key) {
            Some(reply) => reply,
            None => {
                self.execute(Op::Get { key: Bytes::copy_from_slice(key) }, CallOptions::default())
                    .await?
            }
        };
        Ok(found(reply))
    }

    /// As [`Node::get`] where this node is the primary and can answer without waiting; `None` where not.
    #[must_use]
    pub fn get_now(&self, key: &[u8]) -> Option<Option<Value>> {
        self.inner.router.get_now(key).map(found)
    }

    /// Reads a part of a value, as [`Node::get`] reads all of it: from one byte to another, `(0, -1)` being the whole.
    ///
    /// # Errors
    /// As for [`Node::get`].
    pub async fn get_range(
        &self,
        key: impl Into<Bytes>,
        range: impl Into<ByteRange>,
    ) -> Result<Option<Value>, OpError> {
        let op = Op::GetRange { key: key.into(), range: range.into() };
        let reply = match op.read_key().and_then(|key| self.inner.router.get_now(key)) {
            Some(reply) => op.answer(reply),
            None => self.execute(op, CallOptions::default()).await?,
        };
        Ok(found(reply))
    }

    /// Whether there is an entry, which counts as a use of it; its value is not sent.
    ///
    /// # Errors
    /// As for [`Node::get`].
    pub async fn touch(&self, key: impl Into<Bytes>) -> Result<bool, OpError> {
        let reply = self.execute(Op::Touch { key: key.into() }, CallOptions::default()).await?;
        Ok(matches!(reply, Reply::Touched { existed: true }))
    }

    /// Writes an entry; the reply says whether the condition held, the entry's version and how many nodes hold it.
    ///
    /// Dropping the future leaves open whether the write happens.
    ///
    /// # Errors
    /// See [`OpError`]: only `Ambiguous` leaves open whether the write happened.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        options: PutOptions,
    ) -> Result<Reply, OpError> {
        let (key, value) = (key.into(), value.into());
        let class = options.class();
        let PutOptions { ttl, keep_ttl, condition, call, .. } = options;
        self.execute(Op::Put { key, value, ttl, keep_ttl, condition, class }, call).await
    }

    /// Removes an entry; true when there was one.
    ///
    /// # Errors
    /// As for [`Node::put`].
    pub async fn delete(
        &self,
        key: impl Into<Bytes>,
        options: CallOptions,
    ) -> Result<bool, OpError> {
        let op = Op::Delete { key: key.into(), condition: Condition::Always };
        Ok(matches!(self.execute(op, options).await?, Reply::Delete { existed: true, .. }))
    }

    /// Gives an entry a new lifetime from now on, or none; true when that changed something: there is such an entry, and it
    /// had a lifetime if it is to have none.
    ///
    /// # Errors
    /// As for [`Node::put`].
    pub async fn expire(
        &self,
        key: impl Into<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<bool, OpError> {
        self.expire_if(key, ttl, ExpireCondition::Always).await
    }

    /// As [`Node::expire`], if a condition holds of the lifetime that the entry has.
    ///
    /// # Errors
    /// As for [`Node::put`].
    pub async fn expire_if(
        &self,
        key: impl Into<Bytes>,
        ttl: Option<Duration>,
        condition: ExpireCondition,
    ) -> Result<bool, OpError> {
        let op = Op::Expire { key: key.into(), ttl, condition };
        let reply = self.execute(op, CallOptions::once()).await?;
        Ok(matches!(reply, Reply::Expire { applied: true }))
    }

    /// Writes an entry and returns what was there before, in one step; also when the condition failed.
    ///
    /// # Errors
    /// As for [`Node::put`].
    pub async fn get_and_put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        options: PutOptions,
    ) -> Result<Option<Value>, OpError> {
        let (key, value) = (key.into(), value.into());
        let class = options.class();
        let PutOptions { ttl, keep_ttl, condition, call, .. } = options;
        let op = Op::GetAndPut { key, value, ttl, keep_ttl, condition, class };
        previous(self.execute(op, call).await?)
    }

    /// Removes an entry and returns it, in one step: of several that ask, one gets it.
    ///
    /// # Errors
    /// As for [`Node::put`]. When the outcome is `Ambiguous` all the same the value may be lost.
    pub async fn get_and_delete(&self, key: impl Into<Bytes>) -> Result<Option<Value>, OpError> {
        let op = Op::GetAndDelete { key: key.into() };
        previous(self.execute(op, CallOptions::once()).await?)
    }

    /// Reads an entry and gives it a new lifetime from now on, or none, in one step; it is returned with the one it had.
    ///
    /// # Errors
    /// As for [`Node::put`].
    pub async fn get_and_expire(
        &self,
        key: impl Into<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<Option<Value>, OpError> {
        let op = Op::GetAndExpire { key: key.into(), ttl };
        previous(self.execute(op, CallOptions::once()).await?)
    }

    /// Adds bytes at the end of a value and returns its length; a missing one counts as empty. Its lifetime stays.
    ///
    /// # Errors
    /// As for [`Node::put`].
    pub async fn append(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<u64, OpError> {
        let op = Op::Append { key: key.into(), value: value.into() };
        length(&self.execute(op, CallOptions::once()).await?)
    }

    /// Writes bytes over a part of a value and returns its length; zeros fill what is missing before them. Its lifetime
    /// stays, and no bytes change nothing.
    ///
    /// # Errors
    /// As for [`Node::put`].
    pub async fn set_range(
        &self,
        key: impl Into<Bytes>,
        offset: u64,
        value: impl Into<Bytes>,
    ) -> Result<u64, OpError> {
        let op = Op::SetRange { key: key.into(), offset, value: value.into() };
        length(&self.execute(op, CallOptions::once()).await?)
    }

    /// Adds to a decimal integer and returns the sum; a missing entry counts as zero. Applied once, also when it is retried because
    /// the primary died: see [`CallOptions::once`].
    ///
    /// # Errors
    /// As for [`Node::put`], and when the value is no integer or the sum does not fit 64 bits.
    pub async fn increment(&self, key: impl Into<Bytes>, delta: i64) -> Result<i64, OpError> {
        let op = Op::Increment { key: key.into(), delta };
        match self.execute(op, CallOptions::once()).await? {
            Reply::Integer { value, .. } => Ok(value),
            _ => Err(unexpected()),
        }
    }

    /// Carries out one operation wherever its slot lives, with redirects and retries until the deadline.
    ///
    /// # Errors
    /// As for [`Node::put`].
    pub async fn execute(&self, op: Op, options: CallOptions) -> Result<Reply, OpError> {
        if *self.inner.stop.borrow() {
            return Err(OpError::Stopped);
        }
        self.inner.router.run(op, options).await
    }

    /// Carries out many operations, those for one owner in one frame, and answers in their order. Each succeeds or fails
    /// alone; there is no order between them.
    pub async fn execute_many(
        &self,
        ops: Vec<Op>,
        options: CallOptions,
    ) -> Vec<Result<Reply, OpError>> {
        if *self.inner.stop.borrow() {
            return ops.iter().map(|_| Err(OpError::Stopped)).collect();
        }
        self.inner.router.run_many(ops, options).await
    }

    /// Has calls of this function ([`Op::Call`]) run here, where this node is the key's primary; see [`DataPlane::register`] on what it may
    /// do. Register it on all nodes at their start; a second one of the same name and version replaces the first.
    ///
    /// [`DataPlane::register`]: slotmesh_core::DataPlane::register
    pub fn register(&self, name: impl Into<Bytes>, version: u32, function: Box<Function>) {
        self.inner.router.register(name.into(), version, function);
    }

    /// Empties every slot of the cluster.
    ///
    /// # Errors
    /// The first one met; other slots may be empty then.
    pub async fn clear(&self) -> Result<(), OpError> {
        let ops = Slot::all().map(|slot| Op::Clear { slot }).collect();
        let options = CallOptions { retry_ambiguous: true, ..CallOptions::default() };
        self.execute_many(ops, options).await.into_iter().try_for_each(|answer| answer.map(|_| ()))
    }
}

fn found(reply: Reply) -> Option<Value> {
    if let Reply::Value(value) = reply { Some(value) } else { None }
}

fn previous(reply: Reply) -> Result<Option<Value>, OpError> {
    if let Reply::Previous { previous, .. } = reply { Ok(previous) } else { Err(unexpected()) }
}

fn length(reply: &Reply) -> Result<u64, OpError> {
    if let Reply::Length { bytes, .. } = reply { Ok(*bytes) } else { Err(unexpected()) }
}

fn unexpected() -> OpError {
    OpError::Ambiguous { why: "the owner answered something else".to_owned() }
}
