//! Which server has a slot: the only one, or what a cluster says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{ConnectionAddr, ConnectionInfo, Value};
use slotmesh_slots::{SLOT_COUNT, Slot};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::hearing::Hearing;
use crate::server::Server;

/// How often a cluster is asked for its slots when nothing seems to have changed.
const SURVEY_EACH: Duration = Duration::from_secs(5);

/// How often at most.
const SURVEY_PAUSE: Duration = Duration::from_millis(50);

/// How long a server may take to say which slots there are.
const SURVEY_PATIENCE: Duration = Duration::from_secs(1);

/// The servers, connected to as long as this exists.
pub(crate) enum Servers {
    One(Arc<Server>),
    Cluster { cluster: Arc<Cluster>, survey: AbortHandle },
}

/// Servers that share the slots.
pub(crate) struct Cluster {
    /// With the credentials that all servers take.
    seeds: Box<[ConnectionInfo]>,
    hearing: Arc<Hearing>,
    /// By address.
    known: Mutex<BTreeMap<Addr, Arc<Server>>>,
    map: watch::Sender<Option<Map>>,
    /// The map is out of date.
    stale: Notify,
}

type Addr = (String, u16);

/// Who has which slot.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Map(Arc<[Option<Addr>]>);

impl Servers {
    /// Has to be called in a runtime.
    pub(crate) fn one(info: ConnectionInfo, hearing: &Arc<Hearing>) -> Self {
        Self::One(Server::new(info, hearing))
    }

    /// Has to be called in a runtime. Who calls gives one seed at least.
    pub(crate) fn cluster(seeds: Box<[ConnectionInfo]>, hearing: &Arc<Hearing>) -> Self {
        let cluster = Arc::new(Cluster {
            seeds,
            hearing: Arc::clone(hearing),
            known: Mutex::default(),
            map: watch::Sender::new(None),
            stale: Notify::new(),
        });
        let survey = tokio::spawn(Arc::clone(&cluster).survey()).abort_handle();
        Self::Cluster { cluster, survey }
    }

    /// The slot's server. Waits for the first map; `None` where nobody has the slot.
    pub(crate) async fn of(&self, slot: Slot) -> Option<Arc<Server>> {
        match self {
            Self::One(server) => Some(Arc::clone(server)),
            Self::Cluster { cluster, .. } => {
                let mut map = cluster.map.subscribe();
                let map = map.wait_for(Option::is_some).await.ok()?.clone();
                let addr = map?.0[slot.index()].clone()?;
                Some(cluster.at(addr))
            }
        }
    }

    /// The one at this address, `host:port` or `:port`, as it was named by another one.
    pub(crate) fn at(&self, addr: &str, by: &Server) -> Option<Arc<Server>> {
        let Self::Cluster { cluster, .. } = self else { return None };
        let (host, port) = addr.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let host = match host {
            "" => addr_of(by.addr())?.0,
            host => host.to_owned(),
        };
        Some(cluster.at((host, port)))
    }

    /// A slot is elsewhere, or its server is not what it was.
    pub(crate) fn doubt(&self) {
        if let Self::Cluster { cluster, .. } = self {
            cluster.stale.notify_one();
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Self::Cluster { survey, .. } = self {
            survey.abort();
        }
    }
}

impl Cluster {
    async fn survey(self: Arc<Self>) {
        loop {
            let found = self.look().await;
            sleep(SURVEY_PAUSE).await;
            let each = if found { SURVEY_EACH } else { SURVEY_PAUSE };
            tokio::select! {
                () = self.stale.notified() => {}
                () = sleep(each) => {}
            }
        }
    }

    /// Asks one after the other for the map; whether one had it.
    async fn look(&self) -> bool {
        let known: Vec<Addr> = self.known.lock().keys().cloned().collect();
        let seeds = self.seeds.iter().filter_map(|seed| addr_of(seed.addr()));
        for addr in known.into_iter().chain(seeds) {
            let asked = timeout(SURVEY_PATIENCE, ask(&self.at(addr.clone()))).await;
            let map = asked.ok().flatten().and_then(|answer| parse(answer, &addr.0));
            if let Some(map) = map {
                self.take(map);
                return true;
            }
        }
        false
    }

    fn take(&self, map: Map) {
        let before = self.map.borrow().clone();
        for slot in Slot::all() {
            let of = |map: &Map| map.0[slot.index()].clone();
            if before.as_ref().is_some_and(|before| of(before) != of(&map)) {
                // What its new server will be told of the old one may not say.
                self.hearing.subscriber.drop_slot(slot);
            }
        }
        let named: BTreeSet<Addr> = map.0.iter().flatten().cloned().collect();
        self.known.lock().retain(|addr, _| named.contains(addr));
        self.map.send_replace(Some(map));
    }

    fn at(&self, addr: Addr) -> Arc<Server> {
        let mut known = self.known.lock();
        let server = known.entry(addr).or_insert_with_key(|(host, port)| {
            Server::new(with_addr(&self.seeds[0], host, *port), &self.hearing)
        });
        Arc::clone(server)
    }
}

async fn ask(server: &Server) -> Option<Value> {
    let mut line = server.line(false).await.ok()?;
    let mut slots = redis::cmd("CLUSTER");
    slots.arg("SLOTS");
    match line.connection.send_packed_command(&slots).await.and_then(Value::extract_error) {
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::warn!(server = %server.addr(), %error, "is it part of a cluster?");
            server.suspect();
            None
        }
    }
}

/// The primaries of an answer to `CLUSTER SLOTS` by somebody at this host: a list of first slot, last slot, and the servers, the primary first.
pub(crate) fn parse(answer: Value, host: &str) -> Option<Map> {
    let Value::Array(ranges) = answer else { return None };
    let mut map = vec![None; SLOT_COUNT];
    for range in ranges {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = &range[..] else {
            return None;
        };
        let [named, Value::Int(port), ..] = &primary[..] else { return None };
        let host = match named {
            Value::BulkString(name) if !name.is_empty() => std::str::from_utf8(name).ok()?,
            // The one that was asked, who does not know how others call it.
            _ => host,
        };
        let addr = (host.to_owned(), u16::try_from(*port).ok()?);
        let range = usize::try_from(*first).ok()?..=usize::try_from(*last).ok()?;
        map.get_mut(range)?.fill(Some(addr));
    }
    Some(Map(map.into()))
}

fn addr_of(addr: &ConnectionAddr) -> Option<Addr> {
    match addr {
        ConnectionAddr::Tcp(host, port) => Some((host.clone(), *port)),
        ConnectionAddr::TcpTls { host, port, .. } => Some((host.clone(), *port)),
        _ => None,
    }
}

fn with_addr(seed: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let addr = match seed.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
            host: host.to_owned(),
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    };
    seed.clone().set_addr(addr)
}
