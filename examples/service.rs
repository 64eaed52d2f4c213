//! A web service whose processes share a cache: GET, PUT and DELETE on `/users/{id}`, with a slow database behind it.
//!
//! One process: `cargo run --example service`. Three, each in a terminal of its own, with `SLOTMESH_EXPECT=2` (more than half of
//! them) and one `SLOTMESH_SECRET`: `SLOTMESH_BIND=127.0.0.1:7601` to `7603`, `SLOTMESH_SEEDS=127.0.0.1:7601,127.0.0.1:7602`
//! and `SERVICE_PORT=8081` to `8083`. Then `curl -i localhost:8081/users/7`, the same on 8082, and
//! `curl -X PUT -d 'a new name' localhost:8083/users/7`. Ctrl-C or SIGTERM leaves the cluster before the process ends.
//! (Each process has a database of its own here, which a real service has not.)

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Router, serve};
use slotmesh::{Cache, Caches, ClusterSecret, Node, NodeConfig};
use tokio::net::TcpListener;
use tokio::signal;

/// What a query of the database takes.
const QUERY: Duration = Duration::from_millis(100);

/// How long giving the slots to the other nodes may take at the end.
const LEAVE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let node = Node::start(config()?).await?;
    let users = node.cache("users").ttl(Duration::from_secs(300)).build()?;
    let service = Service { users, database: Database::default() };
    let app = Router::new()
        .route("/users/{id}", get(read).put(write).delete(remove))
        .route("/ready", get(ready).with_state(node.clone()))
        .with_state(service);

    let port = env::var("SERVICE_PORT").map_or(Ok(8080), |port| port.parse())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("http://{}/users/7", listener.local_addr()?);
    serve(listener, app).with_graceful_shutdown(told_to_stop()).await?;
    let in_time = node.leave(LEAVE).await;
    println!("left the cluster{}", if in_time { "" } else { ", though not all was given away" });
    Ok(())
}

/// Settings from the environment; a single node without any.
fn config() -> Result<NodeConfig, Box<dyn Error>> {
    let secret = match env::var("SLOTMESH_SECRET") {
        Ok(secret) => secret,
        Err(_) if env::var("SLOTMESH_SEEDS").is_err() => "alone on the loopback address".to_owned(),
        Err(_) => return Err("SLOTMESH_SECRET is what the nodes of SLOTMESH_SEEDS share".into()),
    };
    let mut config = NodeConfig::new(ClusterSecret::new(secret)?);
    config.cluster = "service-example".to_owned();
    if let Ok(bind) = env::var("SLOTMESH_BIND") {
        config.bind = bind.parse()?;
    }
    if let Ok(seeds) = env::var("SLOTMESH_SEEDS") {
        config.seeds =
            seeds.split(',').map(|seed| seed.trim().parse()).collect::<Result<_, _>>()?;
    }
    if let Ok(expect) = env::var("SLOTMESH_EXPECT") {
        config.expect = expect.parse()?;
    }
    if !config.bind.ip().is_loopback() || !config.seeds.iter().all(is_loopback) {
        return Err("this example stays on loopback addresses".into());
    }
    Ok(config)
}

fn is_loopback(addr: &SocketAddr) -> bool {
    addr.ip().is_loopback()
}

async fn told_to_stop() {
    #[cfg(unix)]
    let terminated = async {
        match signal::unix::signal(signal::unix::SignalKind::terminate()) {
            Ok(mut terminate) => drop(terminate.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending();
    tokio::select! {
        _ = signal::ctrl_c() => {}
        () = terminated => {}
    }
}

#[derive(Clone)]
struct Service {
    users: Cache<u64, String>,
    database: Database,
}

/// The user, from the nearest place that has it. Works without the cluster too: the loader then serves.
async fn read(State(service): State<Service>, Path(id): Path<u64>) -> impl IntoResponse {
    let begun = Instant::now();
    let database = service.database.clone();
    let found =
        service.users.get_or_load(&id, move |id| async move { database.find(id).await }).await;
    match found {
        Ok(Some(name)) => Ok(format!("{name} ({:?})\n", begun.elapsed())),
        Ok(None) => Err((StatusCode::NOT_FOUND, "no such user\n".to_owned())),
        Err(error) => Err((StatusCode::BAD_GATEWAY, format!("{error}\n"))),
    }
}

/// Changes the source first, then the cache: in the other order a load in between would bring the old value back.
async fn write(
    State(service): State<Service>,
    Path(id): Path<u64>,
    name: String,
) -> impl IntoResponse {
    service.database.store(id, Some(name.clone())).await;
    match service.users.put(&id, name).await {
        Ok(written) => Ok(format!("cached on {} nodes\n", written.copies)),
        Err(error) => Err(stored_but(&error)),
    }
}

async fn remove(State(service): State<Service>, Path(id): Path<u64>) -> impl IntoResponse {
    service.database.store(id, None).await;
    match service.users.invalidate(&id).await {
        Ok(_) => Ok(StatusCode::NO_CONTENT),
        Err(error) => Err(stored_but(&error)),
    }
}

async fn ready(State(node): State<Node>) -> StatusCode {
    if node.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn stored_but(error: &impl Error) -> (StatusCode, String) {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("stored, but the old value may still be read: {error}\n"),
    )
}

/// A database that takes its time.
#[derive(Clone, Default)]
struct Database {
    changed: Arc<Mutex<HashMap<u64, Option<String>>>>,
}

impl Database {
    async fn find(&self, id: u64) -> Result<Option<String>, std::io::Error> {
        tokio::time::sleep(QUERY).await;
        let changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        let original = || (id < 1_000).then(|| format!("user number {id}"));
        Ok(changed.get(&id).cloned().unwrap_or_else(original))
    }

    async fn store(&self, id: u64, name: Option<String>) {
        tokio::time::sleep(QUERY).await;
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(id, name);
    }
}
