//! One server: a connection that is kept up, on which it is asked, and tells of all writes to our keys (client tracking in broadcasting mode,
//! Redis 7 and later).
//!
//! **The bound.** What [`slotmesh_coherence`] wants of a primary holds for a server as well. It writes the invalidations of a round of its event
//! loop to all who track before the answers of that round to others. So a ping that was sent after a write was acknowledged is answered behind
//! the invalidation, on the same connection, whose bytes are handled in order. Only while a script runs for long does it answer some before it
//! tells; then it refuses pings. A ping asks as well whether the server is a primary, and whether its cluster is up: one that was replaced
//! speaks for nothing. A connection that is lost takes what was kept of its server with it, and values are kept that were read on a
//! connection which tracks already.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, Pipeline, PushInfo,
    PushKind, RedisError, Value,
};
use slotmesh_coherence::Watcher;
use slotmesh_slots::NodeId;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::hearing::Hearing;

/// How long a connection may take to be made, and a ping to be answered before the connection is given up.
const PATIENCE: Duration = Duration::from_secs(1);

/// Pauses between attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How often pings go while values are read, unless a tier wants it otherwise, and how seldom at most.
const PING_INTERVAL: Duration = Duration::from_millis(100);
const PING_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// A server, which is connected to as long as this exists.
pub(crate) struct Server {
    link: Arc<Link>,
    task: AbortHandle,
}

/// What callers and the task that keeps the connection share.
struct Link {
    info: ConnectionInfo,
    peer: NodeId,
    state: watch::Sender<State>,
    /// Somebody keeps values of it and wants to know whether they hold.
    wanted: Arc<Notify>,
    /// It did not answer.
    suspect: Notify,
    hearing: Arc<Hearing>,
    /// Whether it is one of a cluster.
    is_member: bool,
    is_closed: AtomicBool,
}

#[derive(Clone)]
enum State {
    /// The first attempt since it was lost is under way.
    Connecting,
    Up(Line),
    /// The last attempt failed for this reason.
    Down(Arc<str>),
}

/// A connection.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) connection: MultiplexedConnection,
    /// Who tells of writes on it.
    pub(crate) peer: NodeId,
    /// And whom; nobody where there are more servers than can be watched.
    pub(crate) by: Option<Watcher>,
}

impl Server {
    /// Has to be called in a runtime.
    pub(crate) fn new(info: ConnectionInfo, hearing: &Arc<Hearing>, is_member: bool) -> Arc<Self> {
        let peer = NodeId::from_random(rand::random());
        let link = Arc::new(Link {
            info,
            peer,
            state: watch::Sender::new(State::Connecting),
            wanted: hearing.add_pinger(peer),
            suspect: Notify::new(),
            hearing: Arc::clone(hearing),
            is_member,
            is_closed: AtomicBool::new(false),
        });
        let task = tokio::spawn(Arc::clone(&link).keep_up()).abort_handle();
        Arc::new(Self { link, task })
    }

    pub(crate) fn addr(&self) -> &ConnectionAddr {
        self.link.info.addr()
    }

    /// It did not answer: is it there?
    pub(crate) fn suspect(&self) {
        self.link.suspect.notify_one();
    }

    /// The connection; waits for the first attempt since it was lost.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn line(&self) -> Result<Line, Arc<str>> {
        let mut state = self.link.state.subscribe();
        let settled = state.wait_for(|state| !matches!(state, State::Connecting));
        match settled.await.as_deref() {
            Ok(State::Up(line)) => Ok(line.clone()),
            Ok(State::Down(why)) => Err(Arc::clone(why)),
            _ => Err("it is closed".into()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.link.is_closed.store(true, Ordering::SeqCst);
        self.task.abort();
        self.link.hearing.forget(self.link.peer);
    }
}

impl Link {
    async fn keep_up(self: Arc<Self>) {
        let mut pause = PAUSES.0;
        loop {
            match self.connect().await {
                Ok(line) => {
                    pause = PAUSES.0;
                    self.state.send_replace(State::Up(line.clone()));
                    let by = line.by;
                    let why = self.tend(line).await;
                    tracing::warn!(server = %self.info.addr(), why, "connection lost");
                    self.state.send_replace(State::Connecting);
                    by.iter().for_each(|by| self.hearing.subscriber.close(self.peer, *by));
                }
                Err(error) => {
                    let why: Arc<str> = format!("{}: {error}", self.info.addr()).into();
                    tracing::debug!(server = %self.info.addr(), %error, "cannot connect");
                    self.state.send_replace(State::Down(why));
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    async fn connect(&self) -> Result<Line, RedisError> {
        let hearing = Arc::clone(&self.hearing);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(None)
            .set_push_sender(move |push| hear(&hearing, push));
        let client = Client::open(self.info.clone())?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        if !vouches(&mut connection, self.is_member).await? {
            return Err(RedisError::from((
                ErrorKind::Client,
                "it is no primary, or its cluster is down",
            )));
        }
        let by = self.hearing.subscriber.open(self.peer).map(|(by, _)| by);
        if self.is_closed.load(Ordering::SeqCst) {
            self.hearing.forget(self.peer);
        }
        let mut track = redis::cmd("CLIENT");
        track.arg(&["TRACKING", "ON", "BCAST", "PREFIX"]).arg(self.hearing.names.prefix());
        let tracked = timeout(PATIENCE, connection.send_packed_command(&track)).await;
        let late = |_| Err(io::Error::from(io::ErrorKind::TimedOut).into());
        tracked.unwrap_or_else(late)?.extract_error()?;
        Ok(Line { connection, peer: self.peer, by })
    }

    /// Pings while values are read, and when an answer was missed; until there is none.
    async fn tend(&self, line: Line) -> &'static str {
        let Line { mut connection, by, .. } = line;
        loop {
            tokio::select! {
                () = self.wanted.notified() => {}
                () = self.suspect.notified() => {}
            }
            let subscriber = &self.hearing.subscriber;
            let sent = self.hearing.clock.at_least();
            // That a value was asked for is answered for by what follows.
            let _asked = subscriber.poll_ping(self.peer, sent);
            match timeout(PATIENCE, vouches(&mut connection, self.is_member)).await {
                Ok(Ok(true)) => by.iter().for_each(|by| subscriber.note_echo(self.peer, *by, sent)),
                Ok(Ok(false)) => return "it is no primary any more, or its cluster is down",
                // Nothing can be said of it while it is busy.
                Ok(Err(error)) if is_refusal(&error) => {}
                Ok(Err(_)) => return "it is closed",
                Err(_) => return "no answer within a second",
            }
            let pause = subscriber.ping_interval().unwrap_or(PING_INTERVAL).min(PING_INTERVAL_MAX);
            tokio::select! {
                () = sleep(pause) => {}
                () = self.suspect.notified() => self.suspect.notify_one(),
            }
        }
    }
}

/// Whether what was written to the server before is told of on this connection now, and it may be asked for what it has: the ping.
async fn vouches(
    connection: &mut MultiplexedConnection,
    is_member: bool,
) -> Result<bool, RedisError> {
    let mut asked = Pipeline::with_capacity(2);
    asked.cmd("ROLE");
    if is_member {
        asked.cmd("CLUSTER").arg("INFO");
    }
    let count = asked.len();
    let answers = connection.send_packed_commands(&asked, 0, count).await?;
    let mut answers = answers.into_iter().map(Value::extract_error);
    let role = answers.next().unwrap_or(Ok(Value::Nil))?;
    let is_primary = matches!(&role, Value::Array(role)
        if matches!(role.first(), Some(Value::BulkString(name)) if name == b"master"));
    let is_up = match answers.next() {
        Some(info) => info_says(&info?, "cluster_state:ok"),
        None => true,
    };
    Ok(is_primary && is_up)
}

/// Whether a text has this line.
pub(crate) fn info_says(info: &Value, line: &str) -> bool {
    info_text(info).lines().any(|it| it == line)
}

/// The text of an answer that is one.
pub(crate) fn info_text(info: &Value) -> &str {
    match info {
        Value::BulkString(text) => std::str::from_utf8(text).unwrap_or_default(),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => text,
        _ => "",
    }
}

/// Whether the server answered, by an error.
fn is_refusal(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

/// What the server says unasked.
fn hear(hearing: &Hearing, push: PushInfo) -> Result<(), RedisError> {
    if push.kind != PushKind::Invalidate {
        return Ok(());
    }
    match push.data.into_iter().next() {
        Some(Value::Array(names)) => names.into_iter().for_each(|name| {
            if let Value::BulkString(name) = name {
                hearing.hear(&name);
            }
        }),
        // Everything was removed.
        _ => hearing.hear_all(),
    }
    Ok(())
}
