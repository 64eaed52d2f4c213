use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use slotmesh_coherence::Subscriber;
use slotmesh_control::{ClusterState, Command, NodeInfo, Sight, plan};
use slotmesh_core::{DataConfig, DataPlane, Wakers};
use slotmesh_slots::{Generation, MonoTime, NodeId};
use tokio::sync::watch;

use super::before_leaving::BeforeLeaving;
use super::{Inner, Node};
use crate::client::Router;
use crate::coarse::CoarseClock;
use crate::config::ReadySettings;
use crate::status::{NodeStatus, Phase};

/// How often expired entries are looked for.
const UPKEEP_INTERVAL: Duration = Duration::from_millis(50);

impl Node {
    /// A node with no network that owns every slot: the same handle, for one process, tests and tools. Needs no
    /// runtime to start.
    ///
    /// Started while tokio's clock is paused, it lives by that clock: in a test with `#[tokio::test(start_paused = true)]` what it
    /// keeps ages by `tokio::time::advance` and by what the test sleeps, and an hour takes no time.
    #[must_use]
    pub fn local(max_memory_bytes: usize) -> Self {
        let id = NodeId::from_random(rand::random());
        let key_seed = rand::random();
        let config = DataConfig { key_seed, ..DataConfig::within(max_memory_bytes, false) };
        let wakers = Wakers::default();
        let clock = CoarseClock::start();
        let data = Arc::new(DataPlane::new(id, config, clock.exact(), wakers));
        let cluster = Arc::new(own_everything(id, &data));
        let (status_sender, status) = watch::channel(Arc::new(status(id, &cluster)));
        let (stop, stopped) = watch::channel(false);
        let weak = Arc::downgrade(&data);
        // Without the thread entries still expire on reading; they would only take memory until then.
        let upkeep = thread::Builder::new().name("slotmesh-local".to_owned()).spawn(move || {
            // Held so that the status stays readable as long as the node runs.
            let _status = status_sender;
            while let Some(data) = weak.upgrade().filter(|_| !*stopped.borrow()) {
                data.handle_timeout(data.now());
                drop(data);
                thread::sleep(UPKEEP_INTERVAL);
            }
        });
        if let Err(error) = upkeep {
            tracing::warn!(%error, "no thread to remove expired entries");
        }
        let call_timeout = ReadySettings::default().call_timeout;
        let started = data.now();
        // Nobody else writes, and its own writes are told at once.
        let subscriber = Arc::new(Subscriber::new(id, Box::new(|_| {})));
        subscriber.vouch(MonoTime::from_micros(u64::MAX));
        data.attach(Arc::clone(&subscriber));
        let lanes = Vec::new();
        let router = Router { data, subscriber, lanes, status: status.clone(), call_timeout };
        let inner = Inner {
            id,
            addr: None,
            router: Arc::new(router),
            inputs: None,
            endpoints: Vec::new(),
            status,
            stop,
            ready_cap: Duration::ZERO,
            max_memory_bytes,
            started,
            clock,
            was_safe: Mutex::new(true),
            before_leaving: BeforeLeaving::default(),
        };
        Self { inner: Arc::new(inner) }
    }
}

/// Founds a cluster of one in memory, with a lease that never ends: there is nobody else who could own a slot.
fn own_everything(id: NodeId, data: &DataPlane) -> ClusterState {
    let info = NodeInfo {
        name: "local".to_owned(),
        control: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        lanes: Vec::new(),
        resp: None,
        zone: String::new(),
        witness: false,
        weight: 1,
    };
    let generation = Generation { cluster: rand::random(), reform: 0 };
    let mut cluster = ClusterState::new();
    cluster.apply(&Command::Found {
        generation,
        replicas: 0,
        expect: 1,
        members: vec![(id, info)],
    });
    for command in plan(&cluster, &Sight::of(&|_| true)) {
        cluster.apply(&command);
    }
    data.apply_view(&cluster, &cluster.full_delta(), data.now());
    data.extend_lease(MonoTime::from_micros(u64::MAX));
    cluster
}

fn status(node: NodeId, cluster: &Arc<ClusterState>) -> NodeStatus {
    NodeStatus {
        node,
        phase: Phase::Serving,
        generation: cluster.generation(),
        cluster: Arc::clone(cluster),
        leading: true,
        leader: Some(node),
        alive_peers: 0,
        absent: BTreeSet::new(),
        met_other_generation: false,
        voters: vec![node],
        all_voters: true,
        knew_others: false,
        failovers: 0,
        reforms_cancelled: 0,
    }
}
