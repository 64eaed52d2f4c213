//! Locks, limiters and queues over a node. Not built yet: this crate only reserves the place.
