//! The real `redis-server` beside the listener: the same commands to both, and the same replies.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod client_side;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use client_side::{Client, loopback, serve, show};
use slotmesh_resp::protocol::Frame;
use tokio::net::TcpStream;

/// A server of this test's own that keeps nothing.
struct Redis {
    process: Child,
    port: u16,
}

impl Redis {
    fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
        let mut process = command.stdout(Stdio::piped()).spawn().expect(
            "redis-server cannot be run: this test needs it in the PATH (Debian: apt-get install redis-server)",
        );
        let told = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = { told }.any(|line| line.unwrap().contains("eady to accept connections"));
        assert!(ready, "redis-server ended at once");
        Self { process, port }
    }

    async fn client(&self) -> Client {
        Client::over(TcpStream::connect(("127.0.0.1", self.port)).await.unwrap())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends line after line to both and compares what they say.
async fn check(lines: impl Iterator<Item = String>) {
    let (resp, redis) = (serve(loopback()).await, Redis::start());
    let (mut ours, mut theirs) = (Client::connect(&resp).await, redis.client().await);
    let mut said = Vec::new();
    for line in lines {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (our, their) = (ours.call(&args).await, theirs.call(&args).await);
        said.push(format!("{line:40} {}", show(&our)));
        let last = &said[said.len().saturating_sub(20)..];
        assert!(alike(&line, &our, &their), "{}\nredis: {}", last.join("\n"), show(&their));
    }
}

/// The same reply, or the same point in time but for what passes between a command to one and to the other.
fn alike(line: &str, our: &Frame, their: &Frame) -> bool {
    match (our, their) {
        (Frame::Integer(our), Frame::Integer(their)) if line.starts_with("EXPIRETIME") => {
            our == their || (*our > 0 && *their > 0 && our.abs_diff(*their) < 30)
        }
        _ => our == their,
    }
}

const REFUSALS: &str = "\
SET k
SET k v NX XX
SET k v NX NX
SET k v XX XX
SET k v GET GET
SET k v EX
SET k v EX 0
SET k v EX x
SET k v EX x BANANA
SET k v EX 10 EX 20
SET k v EX 10 PX 20
SET k v EX 10 KEEPTTL
SET k v KEEPTTL KEEPTTL
SET k v PERSIST
SET k v PX 9223372036854775807
SET k v EXAT 9223372036854776
SET k v PXAT -1
SETEX k 0 v
PSETEX k -1 v
GETSET k
GETDEL k v
GETEX k EX
GETEX k EX 0
GETEX k EX x
GETEX k EX 10 EX 20
GETEX k EX 10 PX 20
GETEX k EX 10 PERSIST
GETEX k PERSIST PERSIST
GETEX k KEEPTTL
GETEX k GET
GETEX missing EX 0
GETEX missing EX x
GETEX missing BANANA
EXPIRE k
EXPIRE k x
EXPIRE k x NX BANANA
EXPIRE k 10 NX XX
EXPIRE k 10 NX GT
EXPIRE k 10 NX LT
EXPIRE k 10 GT LT
EXPIRE k 10 XX GT LT
EXPIRE k 9223372036854775
EXPIRE k -9223372036854776
PEXPIRE k 9223372036854775807
EXPIREAT k 9223372036854776
EXPIREAT k x
EXPIREAT missing x
PEXPIREAT k
EXPIRETIME k k
PEXPIRETIME
TOUCH
APPEND k
SETRANGE k -1 v
SETRANGE k x v
SETRANGE k 1
SETRANGE k 9223372036854775807 v
GETRANGE k 0
GETRANGE k x 0
GETRANGE k 0 x
GETRANGE missing 0 x
SUBSTR k 0";

#[tokio::test]
async fn refusals_are_those_of_redis() {
    let known = |line: &str| ["SET k value".to_owned(), line.to_owned()];
    check(REFUSALS.lines().flat_map(known)).await;
}

/// Draws from a fixed seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % sides
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.roll(words.len() as u64) as usize]
    }

    /// A lifetime in seconds that is not drawn twice: which of two equal ones is later depends on the clock.
    fn seconds(&mut self) -> u64 {
        1_000 + self.roll(1 << 32)
    }

    fn line(&mut self) -> String {
        let key = self.pick(&["a", "b", "c", "d"]);
        let value =
            self.pick(&["", "x", "17", "hello", "a-longer-value-of-some-forty-bytes-or-so"]);
        let (at, from) = (self.roll(12), self.roll(24) as i64 - 12);
        match self.roll(24) {
            0..=2 => format!("SET {key} {value}"),
            3 => format!("SET {key} {value} {} GET", self.pick(&["NX", "XX", "KEEPTTL"])),
            4 => {
                format!("SET {key} {value} {} {}", self.pick(&["EX", "PX"]), self.seconds() * 1_000)
            }
            5 => format!("GETSET {key} {value}"),
            6 => format!("GETDEL {key}"),
            7 => format!("GETEX {key} {}", self.pick(&["PERSIST", "EXAT 1", "PXAT 99", "EX 77"])),
            8 => format!("GETEX {key} EX {}", self.seconds()),
            9..=10 => format!("APPEND {key} {value}"),
            11..=12 => format!("SETRANGE {key} {at} {value}"),
            13..=14 => {
                // An end before the value has changed its meaning between versions.
                format!("{} {key} {from} {}", self.pick(&["GETRANGE", "SUBSTR"]), at as i64 - 1)
            }
            15..=16 => {
                let how = self.pick(&["NX", "XX", "GT", "LT", "XX GT", "LT XX", "nx"]);
                format!("EXPIRE {key} {} {how}", self.seconds())
            }
            17 => format!("PEXPIRE {key} {}", self.pick(&["-1", "0", "-9000"])),
            18 => format!("EXPIREAT {key} {}", 4_000_000_000 + self.seconds()),
            19 => format!("PERSIST {key}"),
            20 => format!("TOUCH {key} {}", self.pick(&["a", "b", "missing"])),
            21 => format!("INCRBY {key} {from}"),
            22 => format!("EXISTS {key} a"),
            _ => format!("DEL {key}"),
        }
    }
}

#[tokio::test]
async fn any_sequence_has_the_replies_of_redis() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let lines = (0..4_000).flat_map(|_| {
        let (line, key) = (dice.line(), dice.pick(&["a", "b", "c", "d"]));
        [line, format!("EXPIRETIME {key}"), format!("GET {key}")]
    });
    check(lines).await;
}

/// Name, arity, flags and the places of the keys.
async fn described(client: &mut Client, name: &[u8]) -> Vec<String> {
    let reply = client.call(&[b"COMMAND", b"INFO", name]).await;
    match &reply {
        Frame::Array(commands) => match commands.as_slice() {
            [Frame::Array(parts)] => parts.iter().take(6).map(show).collect(),
            _ => panic!("{reply:?}"),
        },
        _ => panic!("{reply:?}"),
    }
}

#[tokio::test]
async fn commands_with_keys_are_described_as_by_redis() {
    let (resp, redis) = (serve(loopback()).await, Redis::start());
    let (mut ours, mut theirs) = (Client::connect(&resp).await, redis.client().await);
    let Frame::Array(names) = ours.call(&[b"COMMAND", b"LIST"]).await else { panic!("a list") };
    for name in names {
        let Frame::Bulk(name) = name else { panic!("a name") };
        let our = described(&mut ours, &name).await;
        if our[3] != ":0" {
            assert_eq!(our, described(&mut theirs, &name).await);
        }
    }
}
