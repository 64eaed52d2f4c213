//! The real `redis-cli`, alone and as a cluster client.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod client_side;

use std::process::{Command, Output};

use client_side::{loopback, serve};
use slotmesh_resp::{Resp, RespConfig};

/// Runs `redis-cli` with these arguments against the listener; what it prints.
async fn cli(resp: &Resp, args: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &resp.addr().port().to_string()]).args(args);
    let run = tokio::task::spawn_blocking(move || command.output());
    let Output { stdout, stderr, .. } = run.await.unwrap().expect(
        "redis-cli cannot be run: this test needs it in the PATH (Debian: apt-get install redis-tools)",
    );
    let (out, error) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(error, "", "{args:?}");
    out.trim_end().to_owned()
}

#[tokio::test]
async fn redis_cli_reads_and_writes() {
    let resp = serve(loopback()).await;
    for (args, expected) in [
        (&["PING"][..], "PONG"),
        (&["SET", "a", "x y"], "OK"),
        (&["GET", "a"], "x y"),
        (&["-3", "GET", "b"], ""),
        (&["-c", "INCR", "n"], "1"),
        (&["-3", "MGET", "a", "n"], "x y\n1"),
        (&["CLUSTER", "KEYSLOT", "foo"], "12182"),
        (&["BANANA", "1"], "ERR unknown command 'BANANA', with args beginning with: '1' "),
    ] {
        assert_eq!(cli(&resp, args).await, expected.trim_end(), "{args:?}");
    }
    let info = cli(&resp, &["INFO", "keyspace"]).await;
    assert!(info.contains("db0:keys=2"), "{info}");
}

#[tokio::test]
async fn redis_cli_finds_the_cluster_sound() {
    let resp = serve(RespConfig { redirect: true, ..loopback() }).await;
    let addr = resp.addr().to_string();
    let report = cli(&resp, &["--cluster", "check", &addr]).await;
    assert!(report.contains("[OK] All 16384 slots covered."), "{report}");
}

#[tokio::test]
async fn redis_cli_gives_the_password() {
    let password = Some("correct horse".to_owned());
    let resp = serve(RespConfig { password, ..loopback() }).await;
    let refused = cli(&resp, &["GET", "a"]).await;
    assert_eq!(refused, "NOAUTH Authentication required.");
    let args = ["--no-auth-warning", "-a", "correct horse", "SET", "a", "1"];
    assert_eq!(cli(&resp, &args).await, "OK");
}
