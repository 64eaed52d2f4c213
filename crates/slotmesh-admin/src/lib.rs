//! Admin listener of a node: liveness, readiness and safety endpoints.
//!
//! [`Admin::serve`] listens on HTTP/1.1 (loopback unless told otherwise; elsewhere only with a token, which every request must
//! then carry as `Authorization: Bearer …`):
//!
//! | path | answers |
//! |---|---|
//! | `/healthz` | 200 while the process lives |
//! | `/readyz` | 200 when traffic may be sent to the node ([`Node::is_ready`]), else 503 with the reason |
//! | `/safez` | 200 when any one node may be taken away: this one reaches the majority, every slot has its copies in sync, and not all is on one node that is left of several, nothing moves, no voter lacks; else 503 with the reason |
//! | `/metrics` | a few numbers of the node in Prometheus' text format |
//! | `/api/status` | what the node knows of itself and the cluster, as JSON |
//! | `POST /api/replicas` | takes `{"replicas": 2}` and answers 200 once the cluster has decided to keep that many copies beside the primary |
//! | `POST /api/reform` | takes `{}` and has the nodes that this one sees go on without the others; 409 while a majority of the voters answers |
//!
//! What changes something wants `Content-Type: application/json`, which a page in somebody's browser cannot send here
//! unasked. Errors are `{"error": …}`: 400 for what cannot be, 409 when another change came in between, 503 when nothing was
//! decided.
//!
//! Not there yet: metrics of the transport, of latencies and of single slots; the page for people at `/`. At most [`CONNECTIONS_MAX`] connections are served at once; one whose next request has not arrived as a
//! whole after five seconds is closed.
//!
//! [`Node::is_ready`]: slotmesh_node::Node::is_ready

mod commands;
mod config;
mod listener;
mod metrics;
mod routes;
mod status;

pub use config::{AdminConfig, AdminError};
pub use listener::{Admin, BoundAdmin, CONNECTIONS_MAX, REQUEST_PATIENCE};
