//! Operations as a server carries them out.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{ConnectionInfo, ErrorKind, RedisError, ServerErrorKind, Value};
use slotmesh_cache::{Answer, Remote, Work};
use slotmesh_coherence::{Subscriber, Watcher};
use slotmesh_node::{CallOptions, CoarseClock, Condition, LoadEnd, LoadTerms, Op, OpError, Reply};
use slotmesh_slots::{NodeId, Slot, Version};
use tokio::time::{Instant, sleep, timeout_at};

use crate::answer::{self, Odd, Told, version_bytes};
use crate::hearing::Hearing;
use crate::names::Names;
use crate::script::{self, Request};
use crate::server::{Line, Server};
use crate::servers::Servers;

/// How long a call waits before it is tried again where a server says that it cannot serve now.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// How long who waits for somebody else's load goes without looking, where nothing is told.
const LOOK_EACH: Duration = Duration::from_millis(50);

/// How long those who wait for a load can be told what it came to.
const TOLD_FOR: Duration = Duration::from_millis(500);

/// Bytes of an error that are kept.
const MESSAGE_BYTES_MAX: usize = 1 << 10;

/// Which argument of the script names the load that was waited for.
const WAITED_FOR: usize = 4;

/// What no server says.
const ODD: &str = "the server answered what no script of ours does";

/// Redirections that one attempt follows.
const HOPS_MAX: usize = 4;

/// The second tier.
pub(crate) struct Tier {
    seeds: Box<[ConnectionInfo]>,
    is_cluster: bool,
    me: NodeId,
    timeout: Duration,
    hearing: Arc<Hearing>,
    /// From the first call on, which comes in a runtime.
    servers: OnceLock<Servers>,
    pub(crate) closing: Mutex<Vec<Work>>,
}

/// What a call is allowed.
#[derive(Clone, Copy)]
struct Terms {
    slot: Slot,
    deadline: Instant,
    /// Whether it changes something.
    is_write: bool,
    /// Whether it may be carried out twice.
    repeatable: bool,
}

/// An answer, and who tells of writes since before it.
struct Answered {
    value: Value,
    by: Option<(NodeId, Watcher)>,
}

/// What follows from an error.
enum Verdict {
    /// Nothing happened; another attempt may succeed.
    Again(String),
    /// Nothing happened: of the keys some are at another server by now, and one of them alone might be asked for.
    Apart,
    /// The outcome is unknown.
    Lost(String),
    /// Another attempt is of no use.
    Error(OpError),
}

impl Tier {
    pub(crate) fn new(
        seeds: Box<[ConnectionInfo]>,
        is_cluster: bool,
        names: Names,
        timeout: Duration,
    ) -> Self {
        let me = NodeId::from_random(rand::random());
        let hearing = Arc::new(Hearing::new(names, me));
        let (servers, closing) = (OnceLock::new(), Mutex::default());
        Self { seeds, is_cluster, me, timeout, hearing, servers, closing }
    }

    fn servers(&self) -> &Servers {
        self.servers.get_or_init(|| match self.is_cluster {
            false => Servers::one(self.seeds[0].clone(), &self.hearing),
            true => Servers::cluster(self.seeds.clone(), &self.hearing),
        })
    }

    async fn carry_out(&self, op: Op, options: CallOptions) -> Result<Reply, OpError> {
        let is_write = !op.is_read();
        let deadline = Instant::now() + options.timeout.unwrap_or(self.timeout);
        let repeatable = !is_write || (options.retry_ambiguous && op.is_idempotent());
        let terms = |key: &Bytes| Terms {
            slot: self.hearing.names.slot(key),
            deadline,
            is_write,
            repeatable,
        };
        match op {
            Op::Get { key } => {
                let answered = self.call(&self.get(&key), terms(&key)).await?;
                read(answer::get(answered.value))
            }
            Op::Watch { key, .. } => {
                let answered = self.call(&self.get(&key), terms(&key)).await?;
                let by = answered.by;
                Ok(self.watched(&key, by, read(answer::get(answered.value))?))
            }
            Op::Load { key, by, terms: load } => {
                // For each look as long as for a call that waits for nobody.
                let look = options.timeout.unwrap_or(self.timeout).saturating_sub(load.patience);
                let (reply, teller) = self.load(&key, &load, (terms(&key), look)).await?;
                Ok(self.watched(&key, teller.filter(|_| by.is_some()), reply))
            }
            Op::EndLoad { key, token, end } => {
                let answered = self.call(&self.end_load(&key, token, end), terms(&key)).await?;
                read(answer::end_load(&answered.value))
            }
            Op::Put { key, value, ttl, condition, .. } => {
                let put = self.put(&key, &value, ttl, condition, false);
                written(answer::put(self.write(&key, put, terms(&key)).await?))
            }
            Op::GetAndPut { key, value, ttl, condition, .. } => {
                let put = self.put(&key, &value, ttl, condition, true);
                written(answer::get_and_put(self.write(&key, put, terms(&key)).await?))
            }
            Op::Delete { key, condition } => {
                let delete = self.delete(&key, condition);
                written(answer::delete(self.write(&key, delete, terms(&key)).await?))
            }
            _ => Err(OpError::Unavailable { why: "caches ask for nothing like that".to_owned() }),
        }
    }

    fn both(&self, key: &[u8]) -> Vec<Vec<u8>> {
        vec![self.hearing.names.value(key), self.hearing.names.lease(key)]
    }

    fn get(&self, key: &[u8]) -> Request {
        Request::Get(self.hearing.names.value(key))
    }

    fn put(
        &self,
        key: &[u8],
        value: &[u8],
        ttl: Option<Duration>,
        condition: Condition,
        with_previous: bool,
    ) -> Request {
        let mut args = named(condition);
        let previous = if with_previous { b"1".to_vec() } else { Vec::new() };
        args.extend([value.to_vec(), ttl.map_or_else(Vec::new, millis), previous]);
        script::PUT.call(self.both(key), args)
    }

    fn delete(&self, key: &[u8], condition: Condition) -> Request {
        script::DELETE.call(self.both(key), named(condition))
    }

    fn end_load(&self, key: &[u8], token: u64, end: LoadEnd) -> Request {
        let (kind, rests, message) = match end {
            LoadEnd::Released => (b"R", Duration::ZERO, Bytes::new()),
            LoadEnd::Nothing => (b"N", Duration::ZERO, Bytes::new()),
            LoadEnd::Failed { message, retry_after } => (b"F", retry_after, message),
        };
        let message = message.slice(..message.len().min(MESSAGE_BYTES_MAX)).to_vec();
        let told = rests.max(TOLD_FOR);
        let token = token.to_be_bytes().to_vec();
        let rests = rests.as_millis().to_string().into_bytes();
        let args = vec![token, kind.to_vec(), rests, millis(told), message];
        script::END_LOAD.call(vec![self.hearing.names.lease(key)], args)
    }

    /// Asks until there is an answer, or the patience for somebody else's load is over.
    async fn load(
        &self,
        key: &Bytes,
        load: &LoadTerms,
        (terms, look): (Terms, Duration),
    ) -> Result<(Reply, Option<(NodeId, Watcher)>), OpError> {
        let until = terms.deadline.min(Instant::now() + load.patience);
        let stale = load.stale.map_or_else(Vec::new, |version| version_bytes(version).to_vec());
        let (who, token) = (self.me.to_string().into_bytes(), load.token.to_be_bytes().to_vec());
        let mut args = vec![who, token, millis(load.lasts), stale, Vec::new()];
        let news = self.hearing.wait_for(key);
        loop {
            let mut told = pin!(news.notify.notified());
            // From before the question on.
            told.as_mut().enable();
            let deadline = terms.deadline.min(Instant::now() + look);
            let terms = Terms { deadline, ..terms };
            let ask = script::LOAD.call(self.both(key), args.clone());
            let Some(answered) = self.call_if_together(&ask, terms).await? else {
                return self.load_apart(key, load, terms).await;
            };
            match read(answer::load(answered.value))? {
                Told::Reply(reply) => return Ok((reply, answered.by)),
                Told::Busy(_) if Instant::now() >= until => {
                    return Ok((Reply::LoadEnded(LoadEnd::Released), answered.by));
                }
                Told::Busy(token) => args[WAITED_FOR] = token.to_vec(),
            }
            let _news = timeout_at(until.min(Instant::now() + LOOK_EACH), told).await;
        }
    }

    /// As a load where the lease cannot be seen together with the value: who finds nothing may load, and what is loaded is not kept.
    async fn load_apart(
        &self,
        key: &Bytes,
        load: &LoadTerms,
        terms: Terms,
    ) -> Result<(Reply, Option<(NodeId, Watcher)>), OpError> {
        let Answered { value, by } = self.call(&self.get(key), terms).await?;
        let reply = match read(answer::get(value))? {
            Reply::Value(found) if Some(found.version) != load.stale => Reply::Value(found),
            _ => Reply::MayLoad { slot: Version::default() },
        };
        Ok((reply, by))
    }

    /// A write, in two steps where value and lease are at two servers. What is loaded under a lease that is given between them has seen the
    /// source after it was changed.
    async fn write(&self, key: &[u8], request: Request, terms: Terms) -> Result<Value, OpError> {
        if let Some(answered) = self.call_if_together(&request, terms).await? {
            return Ok(answered.value);
        }
        let lease =
            script::DELETE.call(vec![self.hearing.names.lease(key)], named(Condition::Always));
        self.call(&lease, terms).await?;
        Ok(self.call(&request.of_first_key(), terms).await?.value)
    }

    /// What was read, and who tells when it is overwritten.
    fn watched(&self, key: &[u8], by: Option<(NodeId, Watcher)>, found: Reply) -> Reply {
        // Of keys with braces two servers might speak for one slot of ours.
        let is_plain = || self.hearing.names.slot(key) == Slot::of_key(key);
        match by {
            Some((owner, Watcher { stream, .. })) if is_plain() => {
                Reply::Watched { owner, stream, found: Box::new(found) }
            }
            _ => found,
        }
    }

    async fn call(&self, request: &Request, terms: Terms) -> Result<Answered, OpError> {
        let apart = || OpError::Unavailable { why: "a slot is being moved".to_owned() };
        self.call_if_together(request, terms).await?.ok_or_else(apart)
    }

    /// `None` where its keys are at two servers, which is so for some of them while their slot is moved.
    async fn call_if_together(
        &self,
        request: &Request,
        terms: Terms,
    ) -> Result<Option<Answered>, OpError> {
        let mut unknown = false;
        loop {
            let attempt =
                timeout_at(terms.deadline, self.attempt(request, terms, &mut unknown)).await;
            let why = match attempt {
                Ok(Ok(answered)) => return Ok(Some(answered)),
                // That this attempt did nothing says nothing of those before.
                Ok(Err(Verdict::Apart)) if unknown && terms.is_write => "a slot moves".to_owned(),
                Ok(Err(Verdict::Error(error))) if unknown && terms.is_write => {
                    return Err(OpError::Ambiguous { why: error.to_string() });
                }
                Ok(Err(Verdict::Apart)) => return Ok(None),
                Ok(Err(Verdict::Error(error))) => return Err(error),
                Ok(Err(Verdict::Again(why))) => why,
                Ok(Err(Verdict::Lost(why))) if terms.repeatable => why,
                Ok(Err(Verdict::Lost(why))) => return Err(OpError::Ambiguous { why }),
                Err(_late) => "no answer in time".to_owned(),
            };
            if Instant::now() + RETRY_AFTER >= terms.deadline {
                return Err(match terms.is_write && unknown {
                    true => OpError::Ambiguous { why },
                    false => OpError::Unavailable { why },
                });
            }
            sleep(RETRY_AFTER).await;
        }
    }

    /// `unknown` becomes whether something was sent whose outcome is not known.
    async fn attempt(
        &self,
        request: &Request,
        terms: Terms,
        unknown: &mut bool,
    ) -> Result<Answered, Verdict> {
        let servers = self.servers();
        let Some(mut server) = servers.of(terms.slot).await else {
            servers.doubt();
            return Err(Verdict::Again("no server has the slot".to_owned()));
        };
        let mut is_asking = false;
        for _ in 0..HOPS_MAX {
            let line = match server.line().await {
                Ok(line) => line,
                Err(why) => {
                    servers.doubt();
                    let why = why.to_string();
                    return Err(match terms.is_write {
                        // It may be back in time, or another one have the slot.
                        true => Verdict::Again(why),
                        false => Verdict::Error(OpError::Unavailable { why }),
                    });
                }
            };
            let Line { connection, peer, by } = line;
            let before = std::mem::replace(unknown, true);
            let unanswered = Unanswered(&server);
            let answer = match is_asking {
                false => request.run(connection).await,
                true => request.run_asking(connection).await,
            };
            std::mem::forget(unanswered);
            let error = match answer {
                Ok(value) => {
                    let by = by.filter(|_| !is_asking).map(|by| (peer, by));
                    return Ok(Answered { value, by });
                }
                Err(error) => error,
            };
            let Some(next) =
                error.redirect_node().and_then(|(next, _slot)| servers.at(next, &server))
            else {
                let verdict = verdict(&error);
                match verdict {
                    Verdict::Lost(_) => server.suspect(),
                    _ => *unknown = before,
                }
                if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) {
                    server.suspect();
                }
                servers.doubt();
                return Err(verdict);
            };
            *unknown = before;
            is_asking = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
            if !is_asking {
                servers.doubt();
            }
            server = next;
        }
        Err(Verdict::Again("servers send each other's callers round".to_owned()))
    }
}

impl Remote for Tier {
    fn id(&self) -> NodeId {
        self.me
    }

    fn key_seed(&self) -> u64 {
        self.hearing.key_seed
    }

    fn clock(&self) -> CoarseClock {
        self.hearing.clock
    }

    fn subscriber(&self) -> &Arc<Subscriber> {
        &self.hearing.subscriber
    }

    fn execute(&self, op: Op, options: CallOptions) -> Answer<'_> {
        Box::pin(self.carry_out(op, options))
    }

    fn before_closing(&self, work: Work) {
        self.closing.lock().push(work);
    }
}

/// A server that was asked; if this is dropped it did not answer while somebody waited.
struct Unanswered<'a>(&'a Server);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.0.suspect();
    }
}

fn verdict(error: &RedisError) -> Verdict {
    let why = error.to_string();
    match error.kind() {
        ErrorKind::Server(kind) => match kind {
            ServerErrorKind::TryAgain => Verdict::Apart,
            ServerErrorKind::BusyLoading
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ReadOnly => Verdict::Again(why),
            // To nowhere that calls can go.
            ServerErrorKind::Moved | ServerErrorKind::Ask => {
                let why = format!("a server of a cluster, to be opened as one: {why}");
                Verdict::Error(OpError::Unavailable { why })
            }
            _ => Verdict::Error(OpError::Unavailable { why }),
        },
        ErrorKind::Extension => match error.code() {
            Some("OOM") => Verdict::Error(OpError::Full),
            Some("BUSY") => Verdict::Again(why),
            _ => Verdict::Error(OpError::Unavailable { why }),
        },
        _ => Verdict::Lost(why),
    }
}

fn read<T>(answer: Result<T, Odd>) -> Result<T, OpError> {
    answer.map_err(|Odd| OpError::Unavailable { why: ODD.to_owned() })
}

fn written(answer: Result<Reply, Odd>) -> Result<Reply, OpError> {
    answer.map_err(|Odd| OpError::Ambiguous { why: ODD.to_owned() })
}

/// A condition as scripts know it: its name, and a version.
fn named(condition: Condition) -> Vec<Vec<u8>> {
    let version = |version| version_bytes(version).to_vec();
    let (name, version) = match condition {
        Condition::Always => ("always", Vec::new()),
        Condition::Absent => ("absent", Vec::new()),
        Condition::Present => ("present", Vec::new()),
        Condition::Version(wanted) => ("version", version(wanted)),
        Condition::FillSince(since) => ("lease", version(since)),
    };
    vec![name.as_bytes().to_vec(), version]
}

/// At least one: servers take no lifetime of none.
fn millis(time: Duration) -> Vec<u8> {
    time.as_millis().max(1).to_string().into_bytes()
}
