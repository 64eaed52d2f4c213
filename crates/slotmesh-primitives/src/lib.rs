//! Locks, semaphores, leader election, limiters, counters, topics and queues over a node. **This crate holds nothing yet.**
//!
//! It marks the place of what is to come: procedures that run on a slot's primary, on entries that are never evicted and
//! acknowledged by all in-sync replicas. Until then a compare-and-set (`Condition::Version` in `slotmesh-node`) with the
//! entry's version as the fencing token is what there is.
