use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use slotmesh_admin::{AdminConfig, AdminError};
use slotmesh_node::{ClusterSecret, NodeConfig, Reform};
use slotmesh_resp::{RespConfig, RespError};

use crate::arguments::ServeArguments;
use crate::{secrets, size};

/// What `serve` runs.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) node: NodeConfig,
    pub(crate) resp: Option<RespConfig>,
    pub(crate) admin: Option<AdminConfig>,
}

/// Stands in for a secret that is missing while the other settings are checked; never used.
const PLACEHOLDER: &str = "no secret was given";

impl Settings {
    /// What the arguments and the environment say.
    ///
    /// # Errors
    /// Every problem found.
    pub(crate) fn read(arguments: &ServeArguments) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let node = node(arguments, &mut problems);
        let resp = resp(arguments, &mut problems);
        let admin = admin(arguments, &mut problems);
        if arguments.resp_redirect && arguments.resp.is_none() {
            problems.push("--resp-redirect needs --resp".to_owned());
        }
        let listeners = [
            ("--bind", node.as_ref().map(|node| node.bind)),
            ("--resp", resp.as_ref().map(|resp| resp.bind)),
            ("--admin", admin.as_ref().map(|admin| admin.bind)),
        ];
        problems.extend(clashes(&listeners));
        match node {
            Some(node) if problems.is_empty() => Ok(Self { node, resp, admin }),
            _ => Err(problems),
        }
    }
}

/// The options that ask for the same port of the same host, which would be refused as if another process held it.
fn clashes(listeners: &[(&str, Option<SocketAddr>)]) -> Vec<String> {
    let given = || listeners.iter().filter_map(|(option, addr)| Some((option, (*addr)?)));
    let mut found = Vec::new();
    for (index, (option, addr)) in given().enumerate() {
        for (other, theirs) in given().skip(index + 1) {
            let wild = addr.ip().is_unspecified() || theirs.ip().is_unspecified();
            if addr.port() == theirs.port() && addr.port() != 0 && (wild || addr == theirs) {
                found.push(format!("{option} {addr} and {other} {theirs} want the same port"));
            }
        }
    }
    found
}

fn node(arguments: &ServeArguments, problems: &mut Vec<String>) -> Option<NodeConfig> {
    let secret = secrets::cluster_secret(arguments.secret_file.as_deref());
    let secret = secret.map_err(|problem| problems.push(problem)).ok();
    let secret = secret.or_else(|| ClusterSecret::new(PLACEHOLDER).ok())?;
    let mut config = NodeConfig::new(secret);
    config.cluster.clone_from(&arguments.cluster);
    config.name.clone_from(&arguments.name);
    config.zone.clone_from(&arguments.zone);
    config.witness = arguments.witness;
    config.weight = arguments.weight.as_ref().and_then(|text| value("--weight", text, problems));
    if let Some(text) = &arguments.reform_after {
        let after = time("--reform-after", text, problems);
        config.ready.reform = after.map_or(config.ready.reform, Reform::After);
    }
    let after = time("--recopy-after", &arguments.recopy_after, problems);
    config.ready.recopy_after = after.unwrap_or(config.ready.recopy_after);
    config.ready.refused_is_death = arguments.refused_is_death;
    let latency = time("--copy-latency-max", &arguments.copy_latency_max, problems);
    config.ready.copy_latency_max = latency.unwrap_or(config.ready.copy_latency_max);
    let before = problems.len();
    config.bind = value("--bind", &arguments.bind, problems).unwrap_or(config.bind);
    let seeds = arguments.seed.iter().filter(|seed| !seed.is_empty());
    config.seeds = seeds.filter_map(|seed| value("--seed", seed, problems)).collect();
    let seeds_fine = problems.len() == before;
    config.expect = value("--expect", &arguments.expect, problems).unwrap_or(config.expect);
    config.replicas = value("--replicas", &arguments.replicas, problems).unwrap_or(config.replicas);
    config.io_threads =
        value("--io-threads", &arguments.io_threads, problems).unwrap_or(config.io_threads);
    match size::parse(&arguments.max_memory) {
        Some(bytes) => config.max_memory_bytes = bytes,
        None => problems.push(format!("--max-memory {}: not a size", arguments.max_memory)),
    }
    if let Err(error) = config.check() {
        // A seed that was not understood is not also told to be missing.
        let real = |problem: &String| seeds_fine || !problem.contains("needs at least one seed");
        problems.extend(error.problems.into_iter().filter(real));
    }
    Some(config)
}

fn resp(arguments: &ServeArguments, problems: &mut Vec<String>) -> Option<RespConfig> {
    let bind = value("--resp", arguments.resp.as_ref()?, problems)?;
    let password = variable("SLOTMESH_RESP_PASSWORD", problems);
    let config =
        RespConfig { bind, password, redirect: arguments.resp_redirect, ..RespConfig::default() };
    match config.check() {
        Err(RespError::Config { problems: found }) => problems.extend(found),
        Err(error) => problems.push(error.to_string()),
        Ok(()) => {}
    }
    Some(config)
}

fn admin(arguments: &ServeArguments, problems: &mut Vec<String>) -> Option<AdminConfig> {
    let bind = value("--admin", arguments.admin.as_ref()?, problems)?;
    let config = AdminConfig { bind, token: variable("SLOTMESH_ADMIN_TOKEN", problems) };
    match config.check() {
        Err(AdminError::Config { problems: found }) => problems.extend(found),
        Err(error) => problems.push(error.to_string()),
        Ok(()) => {}
    }
    Some(config)
}

/// Reads a variable of the environment, or notes the problem.
fn variable(name: &str, problems: &mut Vec<String>) -> Option<String> {
    secrets::variable(name).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    })
}

/// Reads the value of an option that is a time, or notes the problem.
fn time(option: &str, text: &str, problems: &mut Vec<String>) -> Option<Duration> {
    let time = duration(text);
    if time.is_none() {
        problems.push(format!("{option} {text}: not a time such as 250ms, 30s or 2m"));
    }
    time
}

/// A whole number of seconds, or of the unit behind it.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..split].parse().ok()?;
    match &text[split..] {
        "ms" => Some(Duration::from_millis(number)),
        "" | "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3_600).map(Duration::from_secs),
        _ => None,
    }
}

/// Reads the value of an option, or notes the problem.
fn value<T: FromStr>(option: &str, text: &str, problems: &mut Vec<String>) -> Option<T>
where
    T::Err: std::fmt::Display,
{
    match text.trim().parse() {
        Ok(value) => Some(value),
        Err(error) => {
            problems.push(format!("{option} {text}: {error}"));
            None
        }
    }
}

/// Where Redis clients reach a listener: a wildcard is no address, so the node's own stands for it.
pub(crate) fn announced(listening: SocketAddr, bind: SocketAddr) -> SocketAddr {
    let ip = if listening.ip().is_unspecified() { bind.ip() } else { listening.ip() };
    SocketAddr::new(ip, listening.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let times = ["250ms", "30s", " 45 ", "2m", "1h"].map(duration);
        let millis = [250, 30_000, 45_000, 120_000, 3_600_000];
        assert_eq!(times, millis.map(|millis| Some(Duration::from_millis(millis))));
        for wrong in ["soon", "", "s", "-1s", "1.5s", "30ss", "1 s", "2d", "99999999999999999999s"]
        {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
        assert_eq!(duration(&format!("{}m", u64::MAX)), None);
    }

    #[test]
    fn two_listeners_cannot_have_one_port() {
        let addr = |text: &str| Some(text.parse().unwrap());
        let found = |bind, resp, admin| {
            clashes(&[("--bind", addr(bind)), ("--resp", addr(resp)), ("--admin", admin)])
        };
        assert!(found("127.0.0.1:7600", "127.0.0.2:7600", addr("127.0.0.1:7601")).is_empty());
        assert!(found("127.0.0.1:0", "127.0.0.1:0", None).is_empty());
        assert_eq!(
            found("127.0.0.1:7600", "127.0.0.1:7601", addr("0.0.0.0:7600")),
            ["--bind 127.0.0.1:7600 and --admin 0.0.0.0:7600 want the same port"]
        );
        let same = addr("127.0.0.1:7600");
        assert_eq!(found("127.0.0.1:7600", "127.0.0.1:7600", same).len(), 3);
    }

    #[test]
    fn a_wildcard_is_not_announced() {
        let check = |listening: &str, expected: &str| {
            let bind = "10.0.0.7:7600".parse().unwrap();
            let announced = announced(listening.parse().unwrap(), bind);
            assert_eq!(announced, expected.parse().unwrap(), "{listening}");
        };
        check("0.0.0.0:6401", "10.0.0.7:6401");
        check("[::]:6401", "10.0.0.7:6401");
        check("127.0.0.1:6401", "127.0.0.1:6401");
    }
}
