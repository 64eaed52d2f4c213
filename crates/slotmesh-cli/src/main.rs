//! The slotmesh binary: runs a node from the command line.
fn main() {}
