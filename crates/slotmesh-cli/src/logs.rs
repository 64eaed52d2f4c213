use std::io;

use tracing_subscriber::EnvFilter;

/// Sends logs to stderr, as SLOTMESH_LOG or else RUST_LOG wishes.
pub(crate) fn start() {
    let wish = |name| std::env::var(name).ok().filter(|wish| !wish.is_empty());
    let wish = wish("SLOTMESH_LOG").or_else(|| wish("RUST_LOG"));
    let filter = EnvFilter::builder().parse_lossy(wish.as_deref().unwrap_or(DEFAULT));
    let colours = io::IsTerminal::is_terminal(&io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colours)
        // Else a line that cannot be written is reported by a macro that panics: losing the log must not lose the node.
        .log_internal_errors(false)
        .init();
}

/// The control log's library tells each lost heartbeat; what matters of it is told by the node.
const DEFAULT: &str = "info,openraft=off";
