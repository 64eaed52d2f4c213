//! One server: a connection that is kept up, on which it is asked, and tells of all writes to our keys (client tracking in broadcasting mode,
//! Redis 6 and later).
//!
//! **The bound.** What [`slotmesh_coherence`] wants of a primary holds for a server as well. It writes the invalidations of a round of its event
//! loop to all who track before the answers of that round to others. So a ping that was sent after a write was acknowledged is answered behind
//! the invalidation, on the same connection, whose bytes are handled in order. A connection that is lost takes what was kept of its server with
//! it, and values are kept that were read on a connection which tracks already.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, PushInfo, PushKind, RedisError,
    Value,
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

/// How often pings go while values are read, unless a tier wants it otherwise.
const PING_INTERVAL: Duration = Duration::from_millis(100);

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
    pub(crate) fn new(info: ConnectionInfo, hearing: &Arc<Hearing>) -> Arc<Self> {
        let peer = NodeId::from_random(rand::random());
        let link = Arc::new(Link {
            info,
            peer,
            state: watch::Sender::new(State::Connecting),
            wanted: hearing.add_pinger(peer),
            suspect: Notify::new(),
            hearing: Arc::clone(hearing),
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

    /// The connection; waits for the first attempt, and for all that follow if the caller is `patient`.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn line(&self, patient: bool) -> Result<Line, Arc<str>> {
        let mut state = self.link.state.subscribe();
        let settled = state.wait_for(|state| match state {
            State::Connecting => false,
            State::Up(_) => true,
            State::Down(_) => !patient,
        });
        match settled.await.as_deref() {
            Ok(State::Up(line)) => Ok(line.clone()),
            Ok(State::Down(why)) => Err(Arc::clone(why)),
            _ => Err("it is closed".into()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
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
        let by = self.hearing.subscriber.open(self.peer).map(|(by, _)| by);
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
            match timeout(PATIENCE, connection.send_packed_command(&redis::cmd("PING"))).await {
                Ok(Ok(_)) => by.iter().for_each(|by| subscriber.note_echo(self.peer, *by, sent)),
                Ok(Err(_)) => return "it is closed",
                Err(_) => return "no answer within a second",
            }
            sleep(subscriber.ping_interval().unwrap_or(PING_INTERVAL)).await;
        }
    }
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
