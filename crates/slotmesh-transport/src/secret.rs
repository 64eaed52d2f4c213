use std::fmt;

use ring::hkdf;

/// The secret that all nodes of a cluster share: who knows it is a member, who does not gets no byte in or out.
///
/// Only keys derived from it are used; the secret itself never leaves the process and is not printed by `Debug`.
#[derive(Clone)]
pub struct ClusterSecret(Vec<u8>);

impl ClusterSecret {
    /// Takes the secret's bytes.
    ///
    /// # Errors
    /// When it is shorter than [`SECRET_BYTES_MIN`] or one byte repeated.
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, SecretError> {
        let secret = secret.as_ref();
        if secret.len() < SECRET_BYTES_MIN {
            return Err(SecretError::TooShort { bytes: secret.len() });
        }
        if secret.windows(2).all(|pair| pair[0] == pair[1]) {
            return Err(SecretError::OneByteRepeated);
        }
        Ok(Self(secret.to_vec()))
    }

    /// A key for one purpose (RFC 5869): equal on all nodes with this secret, unrelated to the keys of other purposes.
    pub(crate) fn derive(
        &self,
        purpose: &[&[u8]],
    ) -> Result<[u8; KEY_BYTES], ring::error::Unspecified> {
        let mut key = [0; KEY_BYTES];
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, HKDF_SALT).extract(&self.0);
        extracted.expand(purpose, KeyLength)?.fill(&mut key)?;
        Ok(key)
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(…)")
    }
}

/// Why a cluster secret was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// Short secrets can be guessed off-line by anyone who records one handshake.
    #[error("the cluster secret has {bytes} bytes, at least {SECRET_BYTES_MIN} are needed")]
    TooShort {
        /// Length of the given secret.
        bytes: usize,
    },
    /// A placeholder such as sixteen zeros.
    #[error("the cluster secret is a single byte repeated, which is no secret")]
    OneByteRepeated,
}

/// Shortest secret: 128 bits, when they are random ones.
pub const SECRET_BYTES_MIN: usize = 16;

pub(crate) const KEY_BYTES: usize = 32;

/// Ties the derived keys to this use of the secret, should the same secret serve elsewhere.
const HKDF_SALT: &[u8] = b"slotmesh cluster secret";

struct KeyLength;

impl hkdf::KeyType for KeyLength {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_secrets_are_refused_with_a_reason() {
        let error = |secret: &[u8]| ClusterSecret::new(secret).unwrap_err().to_string();
        assert_eq!(error(b"short"), "the cluster secret has 5 bytes, at least 16 are needed");
        assert_eq!(
            error(&[0; 32]),
            "the cluster secret is a single byte repeated, which is no secret"
        );
        assert!(ClusterSecret::new(b"0123456789abcdef").is_ok());
    }

    #[test]
    fn keys_depend_on_secret_and_purpose_and_nothing_else() {
        let key = |secret: &str, purpose: &[u8]| {
            ClusterSecret::new(secret).unwrap().derive(&[purpose]).unwrap()
        };
        let one = key("a secret of 18 bytes", b"x");
        assert_eq!(one, key("a secret of 18 bytes", b"x"));
        assert_ne!(one, key("a secret of 18 bytes", b"y"));
        assert_ne!(one, key("another secret of 24 bytes", b"x"));
    }

    #[test]
    fn debug_shows_nothing() {
        let secret = ClusterSecret::new(b"correct horse battery").unwrap();
        assert_eq!(format!("{secret:?}"), "ClusterSecret(…)");
    }
}
