//! QUIC with mutual TLS between nodes: identity from the cluster secret, framed multiplexed requests, ordered streams and datagrams. It moves bytes and knows no cluster.
