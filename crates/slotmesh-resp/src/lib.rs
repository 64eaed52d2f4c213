//! Redis protocol listener over a node, so that any Redis client can look inside.
