//! Typed cache over a node: a local tier of decoded values, detached single-flight loads and codecs.
