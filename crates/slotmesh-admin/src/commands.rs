//! What changes something, each a POST with a JSON body.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use slotmesh_node::{ControlError, Node};
use slotmesh_slots::NodeId;

/// How many copies are wanted beside the primary.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replicas {
    replicas: u8,
}

#[derive(Debug, Serialize)]
struct Problem {
    error: String,
}

pub(crate) async fn set_replicas(
    State(node): State<Node>,
    wanted: Result<Json<Replicas>, JsonRejection>,
) -> Result<Response, Response> {
    let Json(wanted) = wanted.map_err(|body| malformed(&body))?;
    Ok(answer(node.set_replicas(wanted.replicas).await, wanted))
}

/// What becomes of moves for balance.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BalanceAction {
    Resume,
    Pause,
    Abort,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Balance {
    action: BalanceAction,
}

pub(crate) async fn set_rebalance(
    State(node): State<Node>,
    wanted: Result<Json<Balance>, JsonRejection>,
) -> Result<Response, Response> {
    let Json(wanted) = wanted.map_err(|body| malformed(&body))?;
    let decided = match wanted.action {
        BalanceAction::Resume => node.resume_rebalance().await,
        BalanceAction::Pause => node.pause_rebalance().await,
        BalanceAction::Abort => node.abort_rebalance().await,
    };
    Ok(answer(decided, wanted))
}

/// Who is to leave.
#[derive(Debug, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, Option<String>>")]
pub(crate) struct Drain {
    /// A member by its identity or, where that is unambiguous, its name; the asked node itself where it is missing.
    node: Option<String>,
}

/// A list would do for a structure otherwise, and an empty one have the asked node leave.
impl TryFrom<BTreeMap<String, Option<String>>> for Drain {
    type Error = String;

    fn try_from(mut fields: BTreeMap<String, Option<String>>) -> Result<Self, Self::Error> {
        let node = fields.remove("node").flatten();
        match fields.pop_first() {
            Some((field, _)) => Err(format!("unknown field `{field}`, expected `node`")),
            None => Ok(Self { node }),
        }
    }
}

pub(crate) async fn drain(
    State(node): State<Node>,
    wanted: Result<Json<Drain>, JsonRejection>,
) -> Result<Response, Response> {
    let Json(wanted) = wanted.map_err(|body| malformed(&body))?;
    let member = member(&node, wanted.node.as_deref());
    let member = member.map_err(|(code, error)| problem(code, error))?;
    Ok(answer(node.drain(member).await, Drain { node: Some(member.to_string()) }))
}

fn member(node: &Node, wanted: Option<&str>) -> Result<NodeId, (StatusCode, String)> {
    let Some(wanted) = wanted else { return Ok(node.id()) };
    let status = node.status();
    let members = status.cluster.members();
    if let Some((id, _)) = members.iter().find(|(id, _)| id.to_string() == wanted) {
        return Ok(*id);
    }
    let mut named = members.iter().filter(|(_, member)| member.info.name == wanted);
    match (named.next(), named.next()) {
        (Some((id, _)), None) => Ok(*id),
        (None, _) => Err((StatusCode::NOT_FOUND, ControlError::NoMember.to_string())),
        (Some(_), Some(_)) => {
            let text = format!("several members are called {wanted}: name one by its identity");
            Err((StatusCode::CONFLICT, text))
        }
    }
}

/// Nothing to say beside the wish itself: an empty object.
#[derive(Debug, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, IgnoredAny>")]
pub(crate) struct Empty {}

impl TryFrom<BTreeMap<String, IgnoredAny>> for Empty {
    type Error = &'static str;

    fn try_from(fields: BTreeMap<String, IgnoredAny>) -> Result<Self, Self::Error> {
        if fields.is_empty() { Ok(Self {}) } else { Err("nothing is to be said here") }
    }
}

pub(crate) async fn reform(
    State(node): State<Node>,
    wish: Result<Json<Empty>, JsonRejection>,
) -> Result<Response, Response> {
    let Json(wish) = wish.map_err(|body| malformed(&body))?;
    Ok(answer(node.reform().await, wish))
}

fn answer(decided: Result<(), ControlError>, wanted: impl Serialize) -> Response {
    match decided {
        Ok(()) => Json(wanted).into_response(),
        Err(error) => problem(code(&error), error.to_string()),
    }
}

fn code(error: &ControlError) -> StatusCode {
    match error {
        ControlError::OutOfRange { .. } => StatusCode::BAD_REQUEST,
        ControlError::NoMember => StatusCode::NOT_FOUND,
        ControlError::Superseded { .. }
        | ControlError::Overruled { .. }
        | ControlError::LastMember
        | ControlError::MajorityAnswers => StatusCode::CONFLICT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn malformed(body: &JsonRejection) -> Response {
    problem(body.status(), body.body_text())
}

fn problem(code: StatusCode, error: String) -> Response {
    (code, Json(Problem { error })).into_response()
}
