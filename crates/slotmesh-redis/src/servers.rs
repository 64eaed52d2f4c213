//! Which server has a slot: the only one, or what a cluster says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{ConnectionAddr, ConnectionInfo, Pipeline, Value};
use slotmesh_slots::{SLOT_COUNT, Slot};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::hearing::Hearing;
use crate::server::{Server, info_says, info_text};

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
        Self::One(Server::new(info, hearing, false))
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

    /// Asks all for the map, and takes the latest; whether one had it.
    async fn look(&self) -> bool {
        let mut addrs: BTreeSet<Addr> = self.known.lock().keys().cloned().collect();
        addrs.extend(self.seeds.iter().filter_map(|seed| addr_of(seed.addr())));
        let asked = addrs.into_iter().map(|addr| {
            let server = self.at(addr.clone());
            async move { timeout(SURVEY_PATIENCE, ask(&server, &addr.0)).await.ok().flatten() }
        });
        let latest = join_all(asked).await.into_iter().flatten().max_by_key(|(epoch, _)| *epoch);
        let found = latest.is_some();
        latest.iter().for_each(|(_, map)| self.take(map));
        found
    }

    fn take(&self, map: &Map) {
        let named: BTreeSet<Addr> = map.0.iter().flatten().cloned().collect();
        let before = self.map.send_replace(Some(map.clone()));
        // What the new server will be told of the old one may not say. After that nobody reads there any more.
        let of = |map: &Map, slot: Slot| map.0[slot.index()].clone();
        let moved = |slot: &Slot| before.as_ref().is_some_and(|it| of(it, *slot) != of(map, *slot));
        Slot::all().filter(moved).for_each(|slot| self.hearing.subscriber.drop_slot(slot));
        self.known.lock().retain(|addr, _| named.contains(addr));
    }

    fn at(&self, addr: Addr) -> Arc<Server> {
        let mut known = self.known.lock();
        let server = known.entry(addr).or_insert_with_key(|(host, port)| {
            Server::new(with_addr(&self.seeds[0], host, *port), &self.hearing, true)
        });
        Arc::clone(server)
    }
}

/// What a server at this host knows of its cluster, and as of which epoch, unless it knows that it knows nothing.
async fn ask(server: &Server, host: &str) -> Option<(u64, Map)> {
    let mut line = server.line().await.ok()?;
    let mut asked = Pipeline::with_capacity(2);
    asked.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
    let answers = line.connection.send_packed_commands(&asked, 0, 2).await;
    let answers = answers.and_then(|answers| Value::Array(answers).extract_error());
    match answers {
        Ok(Value::Array(answers)) => {
            let [info, slots] = <[Value; 2]>::try_from(answers).ok()?;
            let is_up = info_says(&info, "cluster_state:ok");
            let epoch =
                info_text(&info).lines().find_map(|it| it.strip_prefix("cluster_current_epoch:"));
            let map = parse(slots, host).filter(|_| is_up)?;
            Some((epoch?.parse().ok()?, map))
        }
        Ok(_) => None,
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
    // One that knows nobody has just begun, or was reset.
    map.iter().any(Option::is_some).then(|| Map(map.into()))
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
