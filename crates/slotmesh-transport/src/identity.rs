use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519,
};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use slotmesh_slots::NodeId;

use crate::leaf::{LeafIssuer, LeafResolver};
use crate::secret::{ClusterSecret, KEY_BYTES};
use crate::verifier::ClusterVerifier;

/// What a process proves itself with: a leaf certificate that names its node, signed by the authority that every
/// process derives from the cluster secret.
///
/// The authority's Ed25519 key is HKDF of the secret, so it needs no files and no exchange; both sides of a connection
/// verify the other's chain against it (TLS 1.3 only). Leaves live [`LEAF_VALIDITY`](crate::LEAF_VALIDITY) and are
/// signed anew each day, so a certificate that leaks is worth little.
#[derive(Clone)]
pub struct Identity {
    node: NodeId,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    reset_key: [u8; KEY_BYTES],
    key_seed: u64,
}

impl Identity {
    /// Derives the authority and signs this process's first leaf.
    ///
    /// # Errors
    /// When the system gives no randomness or its clock is outside the years that certificates can express.
    pub fn from_secret(secret: &ClusterSecret, node: NodeId) -> Result<Self, IdentityError> {
        let authority = authority_key(secret)?;
        let params = authority_params(&authority)?;
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&authority)?.der().clone())?;
        let issuer = LeafIssuer::new(Issuer::new(params, authority), node);
        let leaf = Arc::new(LeafResolver::new(issuer)?);
        let (server, client) = tls_configs(Arc::new(roots), leaf)?;
        let reset_key = secret.derive(&[b"stateless reset v1"])?;
        let [a, b, c, d, e, f, g, h, ..] = secret.derive(&[b"hashes of keys v1"])?;
        let key_seed = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        Ok(Self { node, server: Arc::new(server), client: Arc::new(client), reset_key, key_seed })
    }

    /// The node that the leaf names.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// A number that all nodes of the cluster have and nobody else knows, to seed hashes of what users choose.
    #[must_use]
    pub const fn key_seed(&self) -> u64 {
        self.key_seed
    }

    /// TLS settings of the accepting side: demands a leaf of the same authority. For listeners that share the
    /// cluster's trust without this crate's framing.
    #[must_use]
    pub fn server_tls(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// TLS settings of the dialling side: shows the leaf and accepts any leaf of the same authority; which node it
    /// names must be checked on the established connection.
    #[must_use]
    pub fn client_tls(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    pub(crate) fn quic_server(&self) -> Result<QuicServerConfig, IdentityError> {
        QuicServerConfig::try_from(self.server.clone()).map_err(|_| IdentityError::NoInitialCipher)
    }

    pub(crate) fn quic_client(&self) -> Result<QuicClientConfig, IdentityError> {
        QuicClientConfig::try_from(self.client.clone()).map_err(|_| IdentityError::NoInitialCipher)
    }

    /// Signs stateless resets. The same for a later process at the same address, so that the peers of one that crashed
    /// learn of it from its successor's first packet and not from silence; different at other addresses, so that one
    /// node cannot be made to sign another's.
    pub(crate) fn reset_key(&self, addr: SocketAddr) -> ring::hmac::Key {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &self.reset_key);
        let tag = ring::hmac::sign(&key, addr.to_string().as_bytes());
        ring::hmac::Key::new(ring::hmac::HMAC_SHA256, tag.as_ref())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.node)
    }
}

/// Why no identity could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A certificate could not be made or signed.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused the settings.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The verifier of the peers' certificates could not be built.
    #[error("cannot verify peers: {0}")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    /// The key derivation failed.
    #[error("cannot derive keys from the secret")]
    Derivation,
    /// The cipher that QUIC's first packets use is missing from the TLS library.
    #[error("the TLS library lacks AES-128-GCM")]
    NoInitialCipher,
}

impl From<ring::error::Unspecified> for IdentityError {
    fn from(_: ring::error::Unspecified) -> Self {
        Self::Derivation
    }
}

/// The name that a node's leaf carries.
pub(crate) fn certificate_name(node: NodeId) -> String {
    format!("n{node}.slotmesh")
}

/// Whether the certificate, whose chain the handshake has verified, names this node.
pub(crate) fn names_node(certificate: &CertificateDer<'_>, node: NodeId) -> bool {
    let Ok(certificate) = ParsedCertificate::try_from(certificate) else { return false };
    ServerName::try_from(certificate_name(node))
        .is_ok_and(|name| rustls::client::verify_server_name(&certificate, &name).is_ok())
}

/// Says which framing speaks on the connection; the version within it is part of the hello.
pub(crate) const ALPN: &[u8] = b"slotmesh/1";

/// The name that dialling sides ask for. Which node answers is checked against its certificate afterwards.
pub(crate) const SERVER_NAME: &str = "node.slotmesh";

/// DER of a PKCS #8 v1 Ed25519 private key up to the 32 bytes of the seed (RFC 8410 section 7).
const ED25519_PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

fn authority_key(secret: &ClusterSecret) -> Result<KeyPair, IdentityError> {
    let seed = secret.derive(&[b"authority ed25519 v1"])?;
    let pkcs8 = [&ED25519_PKCS8_PREFIX[..], &seed[..]].concat();
    let der = PrivatePkcs8KeyDer::from(pkcs8);
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519)?)
}

/// The authority's name carries a fingerprint of its key, so that a peer with another secret fails as "unknown issuer"
/// rather than as a broken signature.
fn authority_params(key: &KeyPair) -> Result<CertificateParams, IdentityError> {
    let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key_raw());
    let fingerprint: String =
        digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("slotmesh cluster {fingerprint}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

pub(crate) fn leaf_params(node: NodeId) -> Result<CertificateParams, rcgen::Error> {
    let name = certificate_name(node);
    let mut params = CertificateParams::new(vec![name.clone()])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// AES-128 first: 110 bytes cost 0.12 us to seal, ChaCha20 four times that.
fn crypto_provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
            provider::cipher_suite::TLS13_AES_256_GCM_SHA384,
            provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..provider::default_provider()
    }
}

/// No session tickets and no early data: connections live long, a resumed one would keep the certificate of an earlier
/// process, and early data can be replayed.
fn tls_configs(
    roots: Arc<RootCertStore>,
    leaf: Arc<LeafResolver>,
) -> Result<(ServerConfig, ClientConfig), IdentityError> {
    let provider = Arc::new(crypto_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(leaf.clone());
    server.send_tls13_tickets = 0;
    server.alpn_protocols = vec![ALPN.to_vec()];
    let servers = ClusterVerifier::new(roots, &provider);
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(servers))
        .with_client_cert_resolver(leaf);
    client.resumption = Resumption::disabled();
    client.alpn_protocols = vec![ALPN.to_vec()];
    Ok((server, client))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> ClusterSecret {
        ClusterSecret::new(text).unwrap()
    }

    #[test]
    fn the_authority_is_the_same_in_every_process_and_differs_between_secrets() {
        let key = |text| authority_key(&secret(text)).unwrap().public_key_raw().to_vec();
        assert_eq!(key("one secret of many bytes"), key("one secret of many bytes"));
        assert_ne!(key("one secret of many bytes"), key("two secrets of many bytes"));
    }

    #[test]
    fn a_leaf_names_its_node_only() {
        let node = NodeId::from_random(0xabc);
        let authority = authority_key(&secret("one secret of many bytes")).unwrap();
        let params = authority_params(&authority).unwrap();
        let leaf = LeafIssuer::new(Issuer::new(params, authority), node).issue().unwrap();
        let certificate = leaf.end_entity_cert().unwrap();
        assert!(names_node(certificate, node));
        assert!(!names_node(certificate, NodeId::from_random(0xabd)));
        assert!(!names_node(&CertificateDer::from(vec![1, 2, 3]), node));
    }

    #[test]
    fn reset_keys_survive_a_restart_but_differ_between_addresses() {
        let identity = |n| {
            let secret = secret("one secret of many bytes");
            Identity::from_secret(&secret, NodeId::from_random(n)).unwrap()
        };
        let sign = |identity: &Identity, addr: &str| {
            let key = identity.reset_key(addr.parse().unwrap());
            ring::hmac::sign(&key, b"connection").as_ref().to_vec()
        };
        let (before, after) = (identity(1), identity(2));
        assert_eq!(sign(&before, "10.0.0.1:7"), sign(&after, "10.0.0.1:7"));
        assert_ne!(sign(&before, "10.0.0.1:7"), sign(&before, "10.0.0.2:7"));
    }
}
