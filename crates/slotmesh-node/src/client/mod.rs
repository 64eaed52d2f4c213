//! The routing client: finds the primary of each slot and is the only one that retries.

mod batch;
mod options;
mod router;

pub use self::options::{CallOptions, PutOptions};
pub(crate) use self::router::Router;
