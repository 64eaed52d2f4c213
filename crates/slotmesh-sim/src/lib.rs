//! Seeded simulation of whole nodes in virtual time, with faults, invariants and a history checker.
