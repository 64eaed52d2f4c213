//! What changes something, each a POST with a JSON body.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use slotmesh_node::{ControlError, Node};

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
) -> Response {
    match wanted {
        Ok(Json(wanted)) => answer(node.set_replicas(wanted.replicas).await, wanted),
        Err(malformed) => problem(malformed.status(), malformed.body_text()),
    }
}

/// Nothing to say beside the wish itself: an empty object.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Empty {}

pub(crate) async fn reform(
    State(node): State<Node>,
    wish: Result<Json<Empty>, JsonRejection>,
) -> Response {
    match wish {
        Ok(Json(wish)) => answer(node.reform().await, wish),
        Err(malformed) => problem(malformed.status(), malformed.body_text()),
    }
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
        ControlError::Superseded { .. } | ControlError::MajorityAnswers => StatusCode::CONFLICT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn problem(code: StatusCode, error: String) -> Response {
    (code, Json(Problem { error })).into_response()
}
