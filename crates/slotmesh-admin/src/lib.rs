//! Admin listener of a node: liveness, readiness and safety endpoints.
//!
//! [`Admin::serve`] listens on HTTP/1.1 (loopback unless told otherwise; elsewhere only with a token, which every request must
//! then carry as `Authorization: Bearer …`):
//!
//! | path | answers |
//! |---|---|
//! | `/healthz` | 200 while the process lives |
//! | `/readyz` | 200 when traffic may be sent to the node ([`Node::is_ready`]), else 503 with the reason |
//! | `/safez` | 200 when another node may be taken away: this one reaches the majority, every slot has its copies in sync, nothing moves, no voter lacks; else 503 with the reason |
//! | `/metrics` | a few numbers of the node in Prometheus' text format |
//! | `/api/status` | what the node knows of itself and the cluster, as JSON |
//!
//! Not there yet: metrics of the transport, of latencies and of single slots; anything that changes something; the page for
//! people at `/`. At most [`CONNECTIONS_MAX`] connections are served at once; one whose next request has not arrived as a
//! whole after five seconds is closed.
//!
//! [`Node::is_ready`]: slotmesh_node::Node::is_ready

mod config;
mod listener;
mod metrics;
mod routes;
mod status;

pub use config::{AdminConfig, AdminError};
pub use listener::{Admin, BoundAdmin, CONNECTIONS_MAX};
