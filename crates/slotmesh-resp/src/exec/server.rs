use std::sync::atomic::Ordering;

use super::{Call, catalogue, failure, info};
use crate::protocol::Frame;

pub(super) async fn run(call: Call<'_>) -> Frame {
    match call.spec.name {
        "flushall" | "flushdb" => flush(&call).await,
        "dbsize" => Frame::Integer(call.gateway.node.primary_entries() as i64),
        "info" => info::report(&call),
        "config" => config(&call),
        "command" => catalogue::run(&call),
        _ => failure::unknown_command(call.args),
    }
}

/// Empties the cluster; done when every owner has emptied its slots, whether asked for `SYNC` or `ASYNC`.
async fn flush(call: &Call<'_>) -> Frame {
    match (call.args.len(), call.word(1).as_str()) {
        (1, _) | (2, "sync" | "async") => {}
        _ => return failure::syntax(),
    }
    match call.gateway.node.clear().await {
        Ok(()) => Frame::OK,
        Err(error) => failure::operation(&error),
    }
}

fn config(call: &Call<'_>) -> Frame {
    match call.word(1).as_str() {
        "get" if call.args.len() >= 3 => settings(call),
        "get" => call.wrong_arity("get"),
        "resetstat" if call.args.len() == 2 => {
            let counters = &call.gateway.counters;
            for counter in [&counters.commands, &counters.errors, &counters.hits, &counters.misses]
            {
                counter.store(0, Ordering::Relaxed);
            }
            Frame::OK
        }
        _ => call.unknown_subcommand(),
    }
}

/// The settings whose names match one of the patterns.
fn settings(call: &Call<'_>) -> Frame {
    let config = &call.gateway.config;
    let known = [
        ("appendonly", "no".to_owned()),
        ("cluster-enabled", "yes".to_owned()),
        ("databases", "1".to_owned()),
        ("maxclients", config.connections_max.to_string()),
        ("maxmemory", call.gateway.node.max_memory_bytes().to_string()),
        ("maxmemory-policy", "allkeys-lfu".to_owned()),
        ("port", call.session.local.port().to_string()),
        ("proto-max-bulk-len", crate::CommandLimits::default().arg_bytes_max.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
    ];
    let patterns: Vec<String> = (2..call.args.len()).map(|index| call.word(index)).collect();
    let wanted = |name: &str| patterns.iter().any(|pattern| matches(pattern, name));
    let pairs = known.into_iter().filter(|(name, _)| wanted(name));
    Frame::Map(pairs.map(|(name, value)| (Frame::bulk(name), Frame::bulk(value))).collect())
}

/// Whether the name fits a pattern with `*` for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(before) else { return false };
    let mut rest = rest;
    let mut parts = after.split('*');
    let Some(last) = parts.next_back() else { return true };
    for part in parts {
        // The first place that fits leaves most for the rest.
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_with_stars() {
        for (pattern, name, fits) in [
            ("*", "anything", true),
            ("save", "save", true),
            ("save", "saves", false),
            ("max*", "maxmemory", true),
            ("*memory", "maxmemory", true),
            ("m*m*y", "maxmemory", true),
            ("m*mm*y", "maxmemory", false),
            ("**", "x", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
