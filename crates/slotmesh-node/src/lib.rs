//! The tokio driver of a node: threads and lanes, routing client, lifecycle and the public node handle.
