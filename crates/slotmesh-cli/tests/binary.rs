//! The built binary: settings, signals and exit codes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

const SECRET: &str = "a secret of enough bytes";

fn slotmesh(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slotmesh"));
    for name in ["SLOTMESH_LOG", "RUST_LOG", "SLOTMESH_RESP_PASSWORD", "SLOTMESH_ADMIN_TOKEN"] {
        command.env_remove(name);
    }
    command.env("SLOTMESH_SECRET", SECRET).args(args);
    command
}

/// A running `serve`, killed when dropped.
struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut command = slotmesh(&[&["serve", "--bind", "127.0.0.1:0"], args].concat());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// Reads the log up to a line with this text.
    fn line_with(&mut self, text: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "no {text:?} in {seen}");
            if line.contains(text) {
                return line;
            }
            seen.push_str(&line);
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has mostly ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address behind a word of the startup line.
fn address(line: &str, word: &str) -> SocketAddr {
    let rest = line.split(word).nth(1).unwrap().trim_start();
    rest.split([',', ';', ' ', '\n']).next().unwrap().parse().unwrap()
}

fn ask(addr: SocketAddr, question: &str, expected: &str) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(question.as_bytes()).unwrap();
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), expected);
}

fn failed(mut command: Command, code: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_single_node_serves_and_drains_on_sigterm() {
    let mut running = Running::start(&["--resp", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let line = running.line_with("listens on");
    running.line_with("serves");
    ask(address(&line, "redis"), "SET a 1\r\nGET a\r\n", "+OK\r\n$1\r\n1\r\n");
    let admin = address(&line, "admin").to_string();
    let status = slotmesh(&["status", "--admin", &admin]).output().unwrap();
    assert!(status.status.success());
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(text.contains("\"phase\": \"serving\""), "{text}");
    let changed = slotmesh(&["replicas", "--admin", &admin, "2"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&changed.stdout), "{\"replicas\":2}\n");
    assert!(changed.status.success());
    let paused = slotmesh(&["rebalance", "--admin", &admin, "pause"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&paused.stdout), "{\"action\":\"pause\"}\n");
    let told = failed(slotmesh(&["drain", "--admin", &admin, "no \"body\""]), 1);
    assert!(told.contains("404") && told.contains("there is no such member"), "{told}");
    let told = failed(slotmesh(&["drain", "--admin", &admin]), 1);
    assert!(told.contains("no other member may take its slots"), "{told}");
    let told = failed(slotmesh(&["replicas", "--admin", &admin, "9"]), 1);
    assert!(told.contains("9 replicas cannot be had"), "{told}");
    let status = slotmesh(&["status", "--admin", &admin]).output().unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(text.contains("\"wanted_replicas\": 2"), "{text}");
    running.signal(Signal::TERM);
    running.line_with("left");
    assert_eq!(running.exit_code(), Some(0));
}

#[test]
fn sigint_drains_too() {
    let mut running = Running::start(&[]);
    running.line_with("serves");
    running.signal(Signal::INT);
    assert_eq!(running.exit_code(), Some(0));
}

#[test]
fn a_drained_node_ends_by_itself() {
    let mut running =
        Running::start(&["--expect", "2", "--seed", "127.0.0.1:9", "--admin", "127.0.0.1:0"]);
    let line = running.line_with("listens on");
    let (seed, admin) = (address(&line, "listens on").to_string(), address(&line, "admin"));
    let mut other = Running::start(&["--expect", "2", "--seed", &seed, "--name", "other"]);
    other.line_with("serves");
    running.line_with("serves");
    let drain = slotmesh(&["drain", "--admin", &admin.to_string(), "other"]).output().unwrap();
    assert!(drain.status.success(), "{drain:?}");
    other.line_with("left the cluster");
    assert_eq!(other.exit_code(), Some(0));
}

#[test]
fn a_second_sigint_ends_at_once() {
    // Two nodes, of which one then stands still: the other cannot decide anything alone, so it cannot hand its slots over.
    let mut running = Running::start(&["--expect", "2", "--seed", "127.0.0.1:9"]);
    let line = running.line_with("listens on");
    let seed = address(&line, "listens on").to_string();
    let mut other = Running::start(&["--expect", "2", "--seed", &seed]);
    other.line_with("serves");
    running.line_with("serves");
    other.signal(Signal::STOP);
    running.signal(Signal::INT);
    running.line_with("hands its slots over");
    running.signal(Signal::INT);
    assert_eq!(running.exit_code(), Some(130));
}

#[test]
fn all_problems_are_told_at_once() {
    let args = [
        "serve",
        "--bind",
        "nowhere",
        "--seed",
        "127.0.0.1:1,elsewhere",
        "--expect",
        "0",
        "--replicas",
        "9",
        "--max-memory",
        "lots",
        "--resp",
        "0.0.0.0:0",
        "--admin",
        "0.0.0.0:0",
        "--io-threads",
        "99",
        "--recopy-after",
        "soon",
    ];
    let mut command = slotmesh(&args);
    command.env("SLOTMESH_SECRET", "short");
    let told = failed(command, 2);
    for problem in [
        "the cluster secret has 5 bytes",
        "--bind nowhere:",
        "--seed elsewhere:",
        "expect must be at least 1",
        "replicas must be 0 to 3",
        "--max-memory lots: not a size",
        "needs a password",
        "needs a token",
        "io_threads must be 1 to 8",
        "--recopy-after soon: not a time",
    ] {
        assert!(told.contains(problem), "{problem} in {told}");
    }
    assert_eq!(told.lines().count(), 11, "{told}");
}

#[test]
fn the_secret_comes_from_one_place() {
    let mut none = slotmesh(&["serve"]);
    none.env_remove("SLOTMESH_SECRET");
    assert!(failed(none, 2).contains("no cluster secret: set SLOTMESH_SECRET or --secret-file"));
    let both = slotmesh(&["serve", "--secret-file", "/dev/null"]);
    assert!(failed(both, 2).contains("not both"));
    let mut missing = slotmesh(&["serve", "--secret-file", "/nonexistent/secret"]);
    missing.env_remove("SLOTMESH_SECRET");
    assert!(failed(missing, 2).contains("cannot read the secret file /nonexistent/secret"));
}

#[test]
fn what_doors_are_locked_with_is_text_or_refused() {
    for name in ["SLOTMESH_SECRET", "SLOTMESH_ADMIN_TOKEN", "SLOTMESH_RESP_PASSWORD"] {
        for value in [&b"long enough a text\xff"[..], b"long enough a text\n"] {
            let mut command =
                slotmesh(&["serve", "--admin", "127.0.0.1:0", "--resp", "127.0.0.1:0"]);
            command.env(name, OsStr::from_bytes(value));
            let told = failed(command, 2);
            assert!(told.contains(&format!("{name} must")), "{name}: {told}");
        }
    }
}

#[test]
fn the_secret_is_read_from_a_file() {
    let path = std::env::temp_dir().join(format!("slotmesh-secret-{}", std::process::id()));
    std::fs::write(&path, format!("{SECRET}\n")).unwrap();
    let mut command = slotmesh(&["serve", "--bind", "127.0.0.1:0", "--secret-file"]);
    let child = command.arg(&path).env_remove("SLOTMESH_SECRET").stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let mut running = Running { child, log };
    running.line_with("listens on");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_taken_address_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for option in ["--resp", "--admin"] {
        let told = failed(slotmesh(&["serve", "--bind", "127.0.0.1:0", option, &addr]), 1);
        assert!(told.contains(&format!("cannot use {addr}: Address already in use")), "{told}");
    }
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let told = failed(slotmesh(&["serve", "--bind", &addr]), 1);
    assert!(told.contains(&addr) && told.contains("in use"), "{told}");
    // A documentation address (RFC 5737), which no host has.
    let told = failed(slotmesh(&["serve", "--bind", "192.0.2.1:7600"]), 1);
    assert!(told.contains("cannot listen on 192.0.2.1: "), "{told}");
    let told =
        failed(slotmesh(&["serve", "--bind", "127.0.0.1:7600", "--resp", "127.0.0.1:7600"]), 2);
    assert!(told.contains("--resp 127.0.0.1:7600 want the same port"), "{told}");
}

#[test]
fn status_of_nobody_is_a_failure() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let told = failed(slotmesh(&["status", "--admin", &nobody]), 1);
    assert!(told.contains(&format!("the admin listener {nobody}: ")), "{told}");
}
