use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use slotmesh_node::{Node, Phase};
use slotmesh_slots::SLOT_COUNT;

use crate::commands;
use crate::metrics;
use crate::status::StatusReport;

pub(crate) fn routes(node: Node, token: Option<String>) -> Router {
    let token: Option<Arc<str>> = token.map(Into::into);
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/safez", get(safe))
        .route("/metrics", get(numbers))
        .route("/api/status", get(status))
        .route("/api/replicas", post(commands::set_replicas))
        .route("/api/rebalance", post(commands::set_rebalance))
        .route("/api/drain", post(commands::drain))
        .route("/api/reform", post(commands::reform))
        .layer(middleware::from_fn_with_state(token, guard))
        .with_state(node)
}

const SCHEME: &[u8] = b"Bearer ";

/// Lets only those pass who have the token.
async fn guard(State(token): State<Option<Arc<str>>>, request: Request, next: Next) -> Response {
    let Some(token) = token else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let given = given.and_then(|value| value.split_at_checked(SCHEME.len()));
    let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME));
    let given = given.map(|(_, token)| token);
    if given.is_some_and(|given| equal(given, token.as_bytes())) {
        return next.run(request).await;
    }
    let wanted = [(header::WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, wanted, "a token is needed\n").into_response()
}

/// Whether the two are equal; takes the same time wherever they differ.
fn equal(given: &[u8], token: &[u8]) -> bool {
    let differences = given.iter().zip(token).fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == token.len() && std::hint::black_box(differences) == 0
}

async fn ready(State(node): State<Node>) -> (StatusCode, String) {
    if node.is_ready() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", why_not_ready(&node)))
}

fn why_not_ready(node: &Node) -> String {
    let status = node.status();
    if status.met_other_generation {
        return "it met a node of another founding of its cluster; an operator has to look"
            .to_owned();
    }
    match status.phase {
        Phase::Joining => "it looks for its cluster, or waits for others to found one".to_owned(),
        Phase::CutOff => "it cannot reach the cluster's majority".to_owned(),
        Phase::Draining => "it gives its slots away".to_owned(),
        Phase::Superseded => "the others went on without it while it was cut off".to_owned(),
        Phase::Left => "it has left the cluster".to_owned(),
        Phase::Serving => {
            let safe = status.safe_slots();
            format!("copies are being made, {safe} of {SLOT_COUNT} slots have all of them")
        }
    }
}

async fn safe(State(node): State<Node>) -> (StatusCode, String) {
    let status = node.status();
    if status.is_safe() {
        return (StatusCode::OK, "safe\n".to_owned());
    }
    let safe = status.safe_slots();
    let text = if status.phase != Phase::Serving {
        format!("not safe: {}\n", why_not_ready(&node))
    } else if status.is_alone() {
        "not safe: one node holds everything, and there is no other for the copies\n".to_owned()
    } else if safe == SLOT_COUNT && !status.all_voters {
        "not safe: the control plane lacks voters, or they do not reach each other\n".to_owned()
    } else {
        format!("not safe: {safe} of {SLOT_COUNT} slots have all their copies in sync\n")
    };
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

async fn numbers(State(node): State<Node>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, metrics::text(&node)).into_response()
}

async fn status(State(node): State<Node>) -> Response {
    match serde_json::to_string_pretty(&StatusReport::of(&node)) {
        Ok(json) => {
            let kind = [(header::CONTENT_TYPE, "application/json")];
            (kind, json + "\n").into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
