use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use slotmesh_core::{
    DataError, DataPlane, Op, Reply as OpReply, Request as Operations, encode_replies,
};
use slotmesh_slots::{NodeId, Reader};
use slotmesh_transport::{FrameStream, Handler, PeerInfo, Reply, Request};

use super::kind;
use super::links::LinkWakers;
use super::watch::tell;

/// Serves what other nodes ask on a lane: operations on this node's slots, and replication of theirs.
pub(crate) struct LaneHandler {
    data: Arc<DataPlane>,
    /// Which link of each primary is the current one, so that the end of an older one does not end it.
    links: Arc<Mutex<HashMap<NodeId, u64>>>,
    /// Wakes the tasks that tell others of writes.
    watchers: LinkWakers,
}

impl LaneHandler {
    pub(crate) fn new(data: Arc<DataPlane>, watchers: LinkWakers) -> Self {
        Self { data, links: Arc::default(), watchers }
    }
}

impl Handler for LaneHandler {
    fn request(&self, _from: &PeerInfo, request: Request, reply: Reply) {
        let operations = match request.kind {
            kind::OPERATIONS => Operations::decode(&mut Reader::shared(&request.body)).ok(),
            _ => None,
        };
        match operations {
            Some(operations) => serve(&self.data, operations, reply),
            None => reply.status(kind::MALFORMED, Bytes::new()),
        }
    }

    fn stream(&self, from: &PeerInfo, stream_kind: u8, stream: FrameStream) {
        if stream_kind == kind::REPLICATION {
            let (data, links, primary) =
                (Arc::clone(&self.data), Arc::clone(&self.links), from.node);
            tokio::spawn(replicate(data, links, primary, stream));
        } else if stream_kind == kind::WATCH {
            tokio::spawn(tell(Arc::clone(&self.data), self.watchers.clone(), from.node, stream));
        }
    }
}

fn serve(data: &DataPlane, mut operations: Operations, reply: Reply) {
    let ack = operations.ack;
    if operations.ops.len() != 1 {
        return serve_many(data, operations, reply);
    }
    let Some(op) = operations.ops.pop() else { return };
    if let Some(key) = op.read_key()
        && let Some(answer) = data.get_now(key).transpose()
    {
        return reply.send(encode_replies(&[answer.map(|found| op.answer(found))]));
    }
    data.execute(op, ack, Box::new(move |answer| reply.send(encode_replies(&[answer]))));
}

fn serve_many(data: &DataPlane, operations: Operations, reply: Reply) {
    let gathered = Arc::new(Gathered::new(operations.ops.len(), reply));
    let ack = operations.ack;
    let mut reads = read_now(data, &operations.ops).into_iter();
    for (index, op) in operations.ops.into_iter().enumerate() {
        if op.read_key().is_some()
            && let Some(answer) = reads.next().and_then(Result::transpose)
        {
            gathered.put(index, answer.map(|found| op.answer(found)));
            continue;
        }
        let gathered = Arc::clone(&gathered);
        data.execute(op, ack, Box::new(move |answer| gathered.put(index, answer)));
    }
    gathered.finish();
}

/// The reads among the operations; they are together in the processor's caches sooner than one by one.
fn read_now(data: &DataPlane, ops: &[Op]) -> Vec<Result<Option<OpReply>, DataError>> {
    let keys = ops.iter().filter_map(Op::read_key).map(|key| &key[..]);
    data.get_many_now(&keys.collect::<Vec<_>>())
}

/// The answers of a request with several operations; whoever brings the last one sends them.
struct Gathered(Mutex<Parts>);

struct Parts {
    answers: Vec<Option<Result<OpReply, DataError>>>,
    missing: usize,
    reply: Option<Reply>,
}

impl Gathered {
    fn new(count: usize, reply: Reply) -> Self {
        let answers = (0..count).map(|_| None).collect();
        // One more than there are operations, so that nothing is sent before all were begun.
        Self(Mutex::new(Parts { answers, missing: count + 1, reply: Some(reply) }))
    }

    fn put(&self, index: usize, answer: Result<OpReply, DataError>) {
        if let Some(place) = self.0.lock().answers.get_mut(index) {
            *place = Some(answer);
        }
        self.finish();
    }

    fn finish(&self) {
        let mut parts = self.0.lock();
        parts.missing -= 1;
        if parts.missing > 0 {
            return;
        }
        let answers: Vec<_> = std::mem::take(&mut parts.answers).into_iter().flatten().collect();
        if let Some(reply) = parts.reply.take() {
            drop(parts);
            reply.send(encode_replies(&answers));
        }
    }
}

/// Lets the calls of the lane go first where a frame brought so much that working on it took a while.
pub(super) async fn give_way(frame_bytes: usize) {
    if frame_bytes >= BULK_BYTES {
        tokio::task::yield_now().await;
    }
}

/// A frame of this size takes some tens of microseconds.
const BULK_BYTES: usize = 4 << 10;

/// The replica's end of a link: does what the primary sends and answers.
async fn replicate(
    data: Arc<DataPlane>,
    links: Arc<Mutex<HashMap<NodeId, u64>>>,
    primary: NodeId,
    stream: FrameStream,
) {
    let session = {
        let mut links = links.lock();
        let session = links.get(&primary).copied().unwrap_or(0) + 1;
        links.insert(primary, session);
        data.primary_open(primary);
        session
    };
    let (mut sender, mut receiver) = stream.into_split();
    while let Ok(Some(frame)) = receiver.recv().await {
        if links.lock().get(&primary) != Some(&session) {
            return;
        }
        match data.handle_primary_frame(primary, &frame) {
            Ok(answers) if answers.is_empty() => {}
            Ok(answers) => {
                if sender.send_all(answers).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                tracing::warn!(%primary, %error, "replication link closed");
                break;
            }
        }
        give_way(frame.len()).await;
    }
    let mut links = links.lock();
    if links.get(&primary) == Some(&session) {
        links.remove(&primary);
        data.primary_close(primary);
    }
}
