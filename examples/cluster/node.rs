//! One node process: starts a node, says how it is, and does what the orchestrator orders.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use slotmesh::{Caches, CallOptions, ClusterSecret, L1, Node, NodeConfig, Phase, PutOptions};
use slotmesh_resp::{Resp, RespConfig};
use slotmesh_slots::Slot;
use tokio::sync::mpsc;

use crate::Failure;
use crate::protocol::{Event, Order, Tick, unix_ms};
use crate::trace;
use crate::workload::{Parts, Workload, verify};

/// Slots of the victim that are watched for their first acknowledged write.
const WATCHED_SLOTS: usize = 16;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn main() -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            std::env::var("SLOTMESH_LOG").unwrap_or_else(|_| "error,openraft=off".to_owned()),
        )
        .init();
    let dir = PathBuf::from(variable("SLOTMESH_DIR")?);
    let index: usize = variable("SLOTMESH_INDEX")?.parse()?;
    let resp: SocketAddr = variable("SLOTMESH_RESP")?.parse()?;
    let node = Node::start(config(resp)?).await?;
    let addr = node.addr().map(|addr| addr.to_string()).unwrap_or_default();
    let listener =
        Resp::serve(node.clone(), RespConfig { bind: resp, ..RespConfig::default() }).await?;
    say(&Event::Started { node: node.id().to_string(), addr, resp: resp.to_string() })?;
    let ttl = Duration::from_secs(300);
    let objects = node.cache("orm").ttl(ttl).l1(L1::entries(4_000)).build()?;
    let profiles = node.cache("profile").l1(L1::entries(1_000)).build()?;
    let parts = Parts {
        node: node.clone(),
        objects,
        profiles,
        dir: dir.clone(),
        index,
        trace: trace::load()?,
    };
    let workload = Workload::new(parts)?;
    let mut orders = orders();
    let mut last = Tick::default();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let mut running = false;
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Go) => {
                    running = true;
                    workload.start();
                }
                Some(Order::Watch { victim }) => {
                    tokio::spawn(watch(node.clone(), victim));
                }
                Some(Order::End) => {
                    running = false;
                    workload.stop();
                    say(&Event::Total(workload.total()))?;
                }
                Some(Order::Verify) => {
                    let (acked, lost) = verify(&node, &dir).await?;
                    say(&Event::Verified { acked, lost })?;
                }
                Some(Order::Exit) | None => break,
            },
            _ = ticks.tick() => {
                if running {
                    say(&Event::Tick(workload.tick(&mut last)))?;
                }
                say_cluster(&node)?;
            }
        }
    }
    drop(listener);
    node.stop().await;
    Ok(())
}

fn config(resp: SocketAddr) -> Result<NodeConfig, Failure> {
    let secret = ClusterSecret::new(variable("SLOTMESH_SECRET")?)?;
    let seeds: Result<Vec<SocketAddr>, _> =
        variable("SLOTMESH_SEEDS")?.split(',').map(str::parse).collect();
    Ok(NodeConfig {
        cluster: "example".to_owned(),
        name: variable("SLOTMESH_NAME")?,
        bind: variable("SLOTMESH_BIND")?.parse()?,
        seeds: seeds?,
        expect: 3,
        replicas: 1,
        max_memory_bytes: 128 << 20,
        resp: Some(resp),
        ..NodeConfig::new(secret)
    })
}

fn variable(name: &str) -> Result<String, Failure> {
    std::env::var(name)
        .map_err(|_| format!("{name} is not set: nodes are started by the example itself").into())
}

fn say(event: &Event) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

fn say_cluster(node: &Node) -> Result<(), Failure> {
    let status = node.status();
    if status.phase == Phase::Joining {
        return Ok(());
    }
    let (owned, safe) = (status.owned_slots(), status.safe_slots());
    let unsafe_slot = status.first_unsafe_slot().map(|(slot, held)| format!("{slot:?}: {held:?}"));
    say(&Event::Cluster { members: status.cluster.members().len(), owned, safe, unsafe_slot })
}

/// The orders, read on a thread of their own because standard input blocks.
fn orders() -> mpsc::Receiver<Order> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if let Ok(order) = serde_json::from_str(&line)
                && sender.blocking_send(order).is_err()
            {
                return;
            }
        }
    });
    receiver
}

/// Writes to slots of the victim until each has taken a write from another owner, and tells when the last one had.
async fn watch(node: Node, victim: String) {
    let owned = |slot: &Slot| node.owner(*slot).is_some_and(|owner| owner.to_string() == victim);
    let slots: Vec<Slot> = Slot::all().filter(owned).step_by(300).take(WATCHED_SLOTS).collect();
    let watch_one = |slot| tokio::spawn(first_write(node.clone(), slot, victim.clone()));
    let tasks: Vec<_> = slots.into_iter().map(watch_one).collect();
    let mut recovered = 0;
    for task in tasks {
        recovered = recovered.max(task.await.unwrap_or(0));
    }
    if let Err(error) = say(&Event::Recovered { unix_ms: recovered }) {
        tracing::error!(%error, "cannot tell the orchestrator");
    }
}

/// When the slot first took a write after the victim was no longer its owner.
async fn first_write(node: Node, slot: Slot, victim: String) -> u64 {
    let tag =
        (0u32..).map(|n| format!("{{w{n}}}")).find(|tag| Slot::of_key(tag.as_bytes()) == slot);
    let key = format!("{}watch", tag.unwrap_or_default());
    let timeout = Some(Duration::from_millis(500));
    let call = CallOptions { timeout, retry_ambiguous: true, ..CallOptions::default() };
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        let options = PutOptions { call, ..PutOptions::default() };
        let written = node.put(key.clone(), "1", options).await;
        let moved = node.owner(slot).is_some_and(|owner| owner.to_string() != victim);
        if written.is_ok() && moved {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    unix_ms()
}
