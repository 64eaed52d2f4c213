use std::error::Error;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use slotmesh_admin::{Admin, BoundAdmin};
use slotmesh_node::{Node, NodeStatus, Phase};
use slotmesh_resp::{BoundResp, Resp};
use tokio::sync::watch;

use crate::arguments::ServeArguments;
use crate::logs;
use crate::settings::{self, Settings};
use crate::signals::Signals;

/// How long slots may take to be handed over before the process ends anyway: below the 30 s that process managers wait
/// before they kill.
const DRAIN_MAX: Duration = Duration::from_secs(25);

/// Exit code for settings that cannot work; clap's own.
const EXIT_SETTINGS: u8 = 2;

/// Exit code after a second SIGINT: 128 and the signal's number, as shells have it.
const EXIT_INTERRUPTED: u8 = 130;

/// Runs a node until it is told to end.
pub(crate) async fn run(arguments: &ServeArguments) -> ExitCode {
    logs::start();
    let settings = match Settings::read(arguments) {
        Ok(settings) => settings,
        Err(problems) => {
            eprintln!("slotmesh: the settings cannot work:");
            problems.iter().for_each(|problem| eprintln!("  - {problem}"));
            return ExitCode::from(EXIT_SETTINGS);
        }
    };
    match Service::start(settings).await {
        Ok(service) => service.run().await,
        Err(error) => {
            eprintln!("slotmesh: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A running node with its listeners.
struct Service {
    node: Node,
    resp: Option<Resp>,
    admin: Option<Admin>,
    signals: Signals,
}

impl Service {
    /// Opens the listeners first: their addresses are announced, and a taken one is told before others see the node.
    async fn start(settings: Settings) -> Result<Self, Box<dyn Error>> {
        let signals = Signals::new()?;
        let Settings { mut node, resp, admin } = settings;
        let resp = match resp {
            Some(config) => Some(Resp::bind(config).await?),
            None => None,
        };
        let admin = match admin {
            Some(config) => Some(Admin::bind(config).await?),
            None => None,
        };
        node.resp = resp.as_ref().map(|resp| settings::announced(resp.addr(), node.bind));
        let described = describe(&node.name, &node.cluster, resp.as_ref(), admin.as_ref());
        let node = Node::start(node).await?;
        let addr = node.addr().map(|addr| addr.to_string()).unwrap_or_default();
        tracing::info!("node {} listens on {addr}; {described}", node.id());
        let resp = resp.map(|resp| resp.serve(node.clone()));
        let admin = admin.map(|admin| admin.serve(node.clone()));
        Ok(Self { node, resp, admin, signals })
    }

    async fn run(mut self) -> ExitCode {
        let status = self.node.watch_status();
        let signal = tokio::select! {
            signal = self.signals.any() => signal,
            true = left(self.node.watch_status()) => "drained",
            true = superseded(status) => return start_again(),
            () = tell_phases(self.node.watch_status()) => "the node's end",
        };
        tracing::info!("{signal}: hands its slots over, at most {} s", DRAIN_MAX.as_secs());
        let given = tokio::select! {
            given = self.node.hand_over(DRAIN_MAX) => given,
            () = self.signals.interrupt() => {
                tracing::warn!("interrupted again, ends at once");
                return ExitCode::from(EXIT_INTERRUPTED);
            }
        };
        // Clients' commands are still carried to the others until they are answered.
        if let Some(resp) = self.resp.take() {
            resp.stop().await;
        }
        let _given = self.node.leave(Duration::ZERO).await;
        if let Some(admin) = self.admin.take() {
            admin.stop().await;
        }
        let status = self.node.status();
        if given {
            tracing::info!("left the cluster");
        } else if !status.cluster.members().contains_key(&status.node) {
            tracing::warn!("left the cluster, though the others may need its vote");
        } else {
            tracing::warn!(
                "left before all slots were handed over; those without another copy begin anew, empty"
            );
        }
        ExitCode::SUCCESS
    }
}

/// Waits until this node is no member any more, because somebody had it drained; false when it ended otherwise.
async fn left(mut status: watch::Receiver<std::sync::Arc<NodeStatus>>) -> bool {
    status.wait_for(|status| status.phase == Phase::Left).await.is_ok()
}

/// Waits until the others went on without this node; false when it ended otherwise.
async fn superseded(mut status: watch::Receiver<std::sync::Arc<NodeStatus>>) -> bool {
    status.wait_for(|status| status.phase == Phase::Superseded).await.is_ok()
}

/// Runs this program anew in the place of this process: nothing that the superseded node held can be left, and the
/// addresses are free. Comes back only when that fails.
fn start_again() -> ExitCode {
    tracing::warn!("starts again as another node");
    let error = match std::env::current_exe() {
        Ok(program) => Command::new(program).args(std::env::args_os().skip(1)).exec(),
        Err(error) => error,
    };
    tracing::error!(%error, "cannot start again");
    ExitCode::FAILURE
}

fn describe(
    name: &str,
    cluster: &str,
    resp: Option<&BoundResp>,
    admin: Option<&BoundAdmin>,
) -> String {
    let addr =
        |addr: Option<std::net::SocketAddr>| addr.map_or("off".to_owned(), |a| a.to_string());
    let (resp, admin) = (addr(resp.map(BoundResp::addr)), addr(admin.map(BoundAdmin::addr)));
    format!("name {name}, cluster {cluster}, redis {resp}, admin {admin}")
}

/// Logs each change of phase; ends when the node does.
async fn tell_phases(mut status: watch::Receiver<std::sync::Arc<NodeStatus>>) {
    let mut last = None;
    loop {
        let (phase, members) = {
            let status = status.borrow_and_update();
            (status.phase, status.cluster.members().len())
        };
        if last.replace(phase) != Some(phase) {
            tell(phase, members);
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

fn tell(phase: Phase, members: usize) {
    match phase {
        Phase::Joining => {
            tracing::info!("looks for its cluster, or for enough others to found one")
        }
        Phase::Serving => tracing::info!(members, "serves"),
        Phase::CutOff => tracing::warn!("cannot reach the cluster's majority, refuses writes"),
        Phase::Draining => tracing::info!("gives its slots away"),
        Phase::Superseded => tracing::warn!("the others went on without it"),
        Phase::Left => tracing::info!("is no member any more"),
    }
}
