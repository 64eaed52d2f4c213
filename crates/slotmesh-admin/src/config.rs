use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// How the admin listener behaves.
#[derive(Clone)]
pub struct AdminConfig {
    /// Where to listen; port 0 lets the system choose. Anything but loopback demands a token: the protocol is not
    /// encrypted.
    pub bind: SocketAddr,
    /// What every request must carry as `Authorization: Bearer …`, if anything.
    pub token: Option<String>,
}

/// Why the listener does not listen. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The settings cannot work; a retry cannot help.
    #[error("invalid settings: {}", .problems.join("; "))]
    Config {
        /// Every problem found.
        problems: Vec<String>,
    },
    /// The address cannot be listened on; most often it is in use.
    #[error("the admin listener cannot use {addr}: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
}

impl Default for AdminConfig {
    /// Port 8401 on loopback without a token.
    fn default() -> Self {
        Self { bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8401), token: None }
    }
}

impl AdminConfig {
    /// Looks for settings that cannot work, all at once.
    ///
    /// # Errors
    /// [`AdminError::Config`] with every problem.
    pub fn check(&self) -> Result<(), AdminError> {
        let mut problems = Vec::new();
        if !self.bind.ip().is_loopback() && self.token.is_none() {
            problems.push(format!(
                "the admin listener on {} is open to others than this host and needs a token",
                self.bind
            ));
        }
        if self.token.as_ref().is_some_and(String::is_empty) {
            problems.push("the admin token is empty".to_owned());
        }
        // HTTP cuts it off in a header, so no request would have the token.
        if self.token.as_ref().is_some_and(|token| token.trim() != token) {
            problems.push("the admin token begins or ends with a space".to_owned());
        }
        if problems.is_empty() { Ok(()) } else { Err(AdminError::Config { problems }) }
    }
}

impl fmt::Debug for AdminConfig {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        f.debug_struct("AdminConfig").field("bind", &self.bind).field("token", &token).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_listener_needs_a_token() {
        let open = AdminConfig { bind: "0.0.0.0:0".parse().unwrap(), token: None };
        assert!(AdminConfig::default().check().is_ok());
        assert!(
            matches!(open.check(), Err(AdminError::Config { problems }) if problems.len() == 1)
        );
        let guarded = AdminConfig { token: Some("secret".to_owned()), ..open.clone() };
        assert!(guarded.check().is_ok());
        assert!(!format!("{guarded:?}").contains("secret"));
        for token in ["", "secret ", "\tsecret"] {
            let token = Some(token.to_owned());
            assert!(AdminConfig { token, ..open.clone() }.check().is_err());
        }
    }
}
