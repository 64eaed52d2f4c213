use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::error::RespError;

/// How the Redis listener behaves.
#[derive(Clone)]
pub struct RespConfig {
    /// Where to listen; port 0 lets the system choose. Anything but loopback demands a password: the protocol is not
    /// encrypted.
    pub bind: SocketAddr,
    /// What clients must give with `AUTH` or `HELLO … AUTH` before anything else.
    pub password: Option<String>,
    /// Answer `MOVED` for keys of other nodes that announce a Redis address, instead of forwarding. Saves a hop for
    /// clients in cluster mode; plain clients need it off.
    pub redirect: bool,
    /// Connections at once; more are told so and closed. Each may take up to
    /// [`CommandLimits::command_bytes_max`](crate::CommandLimits) while it sends a command. Sane: 16 to 10,000.
    pub connections_max: usize,
    /// How long a client may take nothing of the replies that wait for it before it is cut off. Sane: 1 s to 5 min.
    pub stall_timeout: Duration,
}

impl Default for RespConfig {
    /// Redis' port on loopback, no password, forwarding, 1,024 connections, 30 s.
    fn default() -> Self {
        Self {
            bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6379),
            password: None,
            redirect: false,
            connections_max: 1_024,
            stall_timeout: Duration::from_secs(30),
        }
    }
}

impl RespConfig {
    /// Looks for settings that cannot work, all at once.
    ///
    /// # Errors
    /// [`RespError::Config`] with every problem.
    pub fn check(&self) -> Result<(), RespError> {
        let mut problems = Vec::new();
        if !self.bind.ip().is_loopback() && self.password.is_none() {
            problems.push(format!(
                "the Redis listener on {} is open to others than this host and needs a password",
                self.bind
            ));
        }
        if self.password.as_ref().is_some_and(String::is_empty) {
            problems.push("the Redis password is empty".to_owned());
        }
        if self.connections_max == 0 {
            problems.push("the Redis listener must allow at least one connection".to_owned());
        }
        if self.stall_timeout.is_zero() {
            problems.push("the Redis stall timeout must be longer than nothing".to_owned());
        }
        if problems.is_empty() { Ok(()) } else { Err(RespError::Config { problems }) }
    }
}

impl fmt::Debug for RespConfig {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RespConfig")
            .field("bind", &self.bind)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("redirect", &self.redirect)
            .field("connections_max", &self.connections_max)
            .field("stall_timeout", &self.stall_timeout)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(config: &RespConfig) -> usize {
        match config.check() {
            Ok(()) => 0,
            Err(RespError::Config { problems }) => problems.len(),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn an_open_listener_needs_a_password_and_all_problems_are_told() {
        let mut config = RespConfig::default();
        assert_eq!(problems(&config), 0);
        config.bind = "0.0.0.0:6379".parse().unwrap();
        assert_eq!(problems(&config), 1);
        config.password = Some("long".to_owned());
        assert_eq!(problems(&config), 0);
        assert!(!format!("{config:?}").contains("long"));
        config.password = Some(String::new());
        config.connections_max = 0;
        config.stall_timeout = Duration::ZERO;
        assert_eq!(problems(&config), 3);
    }
}
