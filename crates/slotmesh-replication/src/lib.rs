//! Sans-IO replication: per-slot logs, ordered links between a primary and a replica node, in-sync acknowledgement, resync and snapshots.
