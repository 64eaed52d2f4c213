//! Embeddable, in-process cache cluster: the façade crate.
