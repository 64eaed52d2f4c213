use std::collections::BTreeMap;
use std::sync::Arc;

use slotmesh_core::{OPS_MAX, Op, Reply};
use slotmesh_slots::NodeId;
use tokio::task::JoinSet;

use super::CallOptions;
use super::router::{Failure, Limits, READ_ATTEMPT, Router, prepared, retries, unavailable};
use crate::error::OpError;

/// Bytes of operations in one frame; below the transport's limit of 8 MiB by a wide margin.
const FRAME_BYTES: usize = 1 << 20;

/// Operations of one batch that are carried out one by one at a time.
const TOGETHER_MAX: usize = 256;

/// The place of an operation in the caller's batch, and itself.
type Placed = (usize, Op);

impl Router {
    /// Carries operations out, those for one owner in one frame, and answers in their order. Each succeeds or fails alone;
    /// those that do not succeed at the first attempt are tried again one by one.
    pub(crate) async fn run_many(
        self: &Arc<Self>,
        ops: Vec<Op>,
        options: CallOptions,
    ) -> Vec<Result<Reply, OpError>> {
        let count = ops.len();
        let limits = self.limits(options);
        let ops = ops.into_iter().map(|op| prepared(op, options)).collect();
        let mut tasks = JoinSet::new();
        for (owner, group) in self.groups(ops) {
            let router = Arc::clone(self);
            tasks.spawn(async move { router.run_group(owner, group, limits).await });
        }
        let mut answers: Vec<_> = (0..count).map(|_| Err(unavailable("not carried out"))).collect();
        while let Some(done) = tasks.join_next().await {
            for (index, answer) in done.into_iter().flatten() {
                if let Some(place) = answers.get_mut(index) {
                    *place = answer;
                }
            }
        }
        answers
    }

    /// The operations by owner, in frames of bounded size.
    fn groups(&self, ops: Vec<Op>) -> Vec<(Option<NodeId>, Vec<Placed>)> {
        let mut open: BTreeMap<Option<NodeId>, (usize, Vec<Placed>)> = BTreeMap::new();
        let mut groups = Vec::new();
        for (index, op) in ops.into_iter().enumerate() {
            let owner = self.data.owner(op.slot()).0;
            let (bytes, group) = open.entry(owner).or_default();
            *bytes += op.bytes();
            group.push((index, op));
            if *bytes >= FRAME_BYTES || group.len() >= OPS_MAX {
                groups.push((owner, std::mem::take(group)));
                *bytes = 0;
            }
        }
        groups.extend(open.into_iter().map(|(owner, (_, group))| (owner, group)));
        groups.retain(|(_, group)| !group.is_empty());
        groups
    }

    async fn run_group(
        self: &Arc<Self>,
        owner: Option<NodeId>,
        group: Vec<Placed>,
        limits: Limits,
    ) -> Vec<(usize, Result<Reply, OpError>)> {
        let Some(owner) = owner.filter(|&owner| owner != self.data.node()) else {
            return self.run_each(group, limits).await;
        };
        let Limits { options, deadline, .. } = limits;
        let Some(slot) = group.first().map(|(_, op)| op.slot()) else { return Vec::new() };
        let ops: Vec<Op> = group.iter().map(|(_, op)| op.clone()).collect();
        let until = (deadline, READ_ATTEMPT);
        let answers = match self.attempt_there((owner, slot), options.ack, &ops, until).await {
            Ok(answers) => answers,
            Err(Failure::Unknown(why)) => return self.after_unknown(group, &why, limits).await,
            Err(_) => return self.run_each(group, limits).await,
        };
        let mut done = Vec::with_capacity(group.len());
        let (mut again, mut unknown) = (Vec::new(), Vec::new());
        for ((index, op), answer) in group.into_iter().zip(answers) {
            match answer.map_err(|error| self.failure(error)) {
                Ok(reply) => done.push((index, Ok(reply))),
                Err(Failure::Final(error)) => done.push((index, Err(error))),
                Err(Failure::Unknown(why)) if !retries(&op, options) => {
                    done.push((index, Err(OpError::Ambiguous { why })));
                }
                Err(Failure::Unknown(_)) => unknown.push((index, op)),
                Err(_) => again.push((index, op)),
            }
        }
        done.extend(self.run_each(again, limits).await);
        done.extend(self.run_each(unknown, Limits { is_unknown: true, ..limits }).await);
        done
    }

    /// The frame's fate is unknown: what may be repeated is, the rest is ambiguous.
    async fn after_unknown(
        self: &Arc<Self>,
        group: Vec<Placed>,
        why: &str,
        limits: Limits,
    ) -> Vec<(usize, Result<Reply, OpError>)> {
        let (again, lost): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|(_, op)| retries(op, limits.options));
        let mut done = self.run_each(again, Limits { is_unknown: true, ..limits }).await;
        let ambiguous = || Err(OpError::Ambiguous { why: why.to_owned() });
        done.extend(lost.into_iter().map(|(index, _)| (index, ambiguous())));
        done
    }

    /// Carries operations out side by side; those that are here wait for their replicas together.
    async fn run_each(
        self: &Arc<Self>,
        group: Vec<Placed>,
        limits: Limits,
    ) -> Vec<(usize, Result<Reply, OpError>)> {
        let mut done = Vec::with_capacity(group.len());
        let mut tasks = JoinSet::new();
        let keys = group.iter().filter_map(|(_, op)| op.read_key().cloned());
        let mut reads = self.get_many_now(&keys.collect::<Vec<_>>()).into_iter();
        for (index, op) in group {
            if op.read_key().is_some()
                && let Some(found) = reads.next().flatten()
            {
                // Most reads here wait for nothing and need no task.
                done.push((index, Ok(op.answer(found))));
                continue;
            }
            if tasks.len() >= TOGETHER_MAX {
                done.extend(tasks.join_next().await.and_then(Result::ok));
            }
            let router = Arc::clone(self);
            tasks.spawn(async move { (index, router.run_within(op, limits).await) });
        }
        while let Some(ended) = tasks.join_next().await {
            done.extend(ended);
        }
        done
    }
}
