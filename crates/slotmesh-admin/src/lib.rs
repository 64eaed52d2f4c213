//! Admin listener of a node: liveness, readiness and safety endpoints.
