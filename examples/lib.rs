//! Pieces shared by the examples.
