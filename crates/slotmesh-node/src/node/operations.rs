use std::time::Duration;

use bytes::Bytes;
use slotmesh_core::{Op, Reply, Value};
use slotmesh_slots::Slot;
use slotmesh_store::Condition;

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
        match reply {
            Reply::Value(value) => Ok(Some(value)),
            _ => Ok(None),
        }
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
        let PutOptions { ttl, keep_ttl, condition, call } = options;
        self.execute(Op::Put { key, value, ttl, keep_ttl, condition }, call).await
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

    /// Gives an entry a new lifetime from now on, or none; true when there is such an entry.
    ///
    /// # Errors
    /// As for [`Node::put`].
    pub async fn expire(
        &self,
        key: impl Into<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<bool, OpError> {
        let op = Op::Expire { key: key.into(), ttl };
        let reply = self.execute(op, CallOptions::default()).await?;
        Ok(matches!(reply, Reply::Expire { applied: true }))
    }

    /// Adds to a decimal integer and returns the sum; a missing entry counts as zero.
    ///
    /// # Errors
    /// As for [`Node::put`], and when the value is no integer or the sum does not fit 64 bits.
    pub async fn increment(&self, key: impl Into<Bytes>, delta: i64) -> Result<i64, OpError> {
        let op = Op::Increment { key: key.into(), delta };
        match self.execute(op, CallOptions::default()).await? {
            Reply::Integer { value, .. } => Ok(value),
            _ => Err(OpError::Ambiguous { why: "the owner answered something else".to_owned() }),
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
