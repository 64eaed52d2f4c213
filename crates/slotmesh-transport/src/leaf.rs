use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rcgen::{Issuer, KeyPair, PKCS_ED25519, date_time_ymd};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use slotmesh_slots::NodeId;

use crate::identity::{IdentityError, leaf_params};

/// How long a leaf is good for, counted from its signing. Long enough for a process that is suspended over a weekend.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(7 * DAY_SECS);

/// Leaves are dated back, so that peers whose clocks are behind accept them.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(DAY_SECS);

/// A handshake with a leaf older than this makes a new one first.
const REISSUE_AFTER: Duration = Duration::from_secs(DAY_SECS);

const DAY_SECS: u64 = 24 * 60 * 60;

/// Signs leaves for this process's node.
pub(crate) struct LeafIssuer {
    authority: Issuer<'static, KeyPair>,
    node: NodeId,
}

impl LeafIssuer {
    pub(crate) fn new(authority: Issuer<'static, KeyPair>, node: NodeId) -> Self {
        Self { authority, node }
    }

    /// A fresh key and a leaf for it.
    pub(crate) fn issue(&self) -> Result<CertifiedKey, IdentityError> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = date_time_ymd(1970, 1, 1) + since_epoch;
        let mut params = leaf_params(self.node)?;
        params.not_before = now - CLOCK_SKEW_MAX;
        params.not_after = now + LEAF_VALIDITY;
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = params.signed_by(&key, &self.authority)?;
        let signing = any_eddsa_type(&PrivatePkcs8KeyDer::from(key.serialized_der()))?;
        Ok(CertifiedKey::new(vec![certificate.der().clone()], signing))
    }
}

/// Shows the leaf in handshakes of both directions and renews it as it ages.
pub(crate) struct LeafResolver {
    issuer: LeafIssuer,
    current: Mutex<(SystemTime, Arc<CertifiedKey>)>,
}

impl LeafResolver {
    pub(crate) fn new(issuer: LeafIssuer) -> Result<Self, IdentityError> {
        let leaf = Arc::new(issuer.issue()?);
        Ok(Self { issuer, current: Mutex::new((SystemTime::now(), leaf)) })
    }

    fn current(&self) -> Arc<CertifiedKey> {
        let mut current = self.current.lock();
        // A clock that was set back counts as old: the leaf may lie in the future now.
        if current.0.elapsed().map_or(true, |age| age > REISSUE_AFTER) {
            match self.issuer.issue() {
                Ok(leaf) => *current = (SystemTime::now(), Arc::new(leaf)),
                Err(error) => tracing::warn!(%error, "cannot renew the leaf certificate"),
            }
        }
        current.1.clone()
    }
}

impl fmt::Debug for LeafResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeafResolver({:?})", self.issuer.node)
    }
}

impl ResolvesServerCert for LeafResolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for LeafResolver {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
