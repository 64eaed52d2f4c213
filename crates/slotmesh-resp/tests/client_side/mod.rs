//! A listener over a local node, and a client that speaks raw bytes to it.

#![allow(dead_code, reason = "each test file uses its part")]

use std::net::SocketAddr;
use std::time::Duration;

use slotmesh_node::Node;
use slotmesh_resp::protocol::{Frame, FrameDecoder};
use slotmesh_resp::{Resp, RespConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Nothing here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn loopback() -> RespConfig {
    RespConfig { bind: SocketAddr::from(([127, 0, 0, 1], 0)), ..RespConfig::default() }
}

pub(crate) async fn serve(config: RespConfig) -> Resp {
    Resp::serve(Node::local(64 << 20), config).await.unwrap()
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    decoder: FrameDecoder,
}

impl Client {
    pub(crate) async fn connect(resp: &Resp) -> Self {
        Self::over(TcpStream::connect(resp.addr()).await.unwrap())
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        Self { stream, decoder: FrameDecoder::default() }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next reply; `None` when the listener has closed the connection.
    pub(crate) async fn reply(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.poll_frame().unwrap() {
                return Some(frame);
            }
            let read = self.stream.read_buf(self.decoder.buffer_mut());
            match tokio::time::timeout(PATIENCE, read).await.expect("no reply in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Sends a command as an array of bulk strings and waits for its reply.
    pub(crate) async fn call(&mut self, args: &[&[u8]]) -> Frame {
        self.send(&command(args)).await;
        self.reply().await.expect("the connection lives")
    }

    /// Sends a line of words and compares the reply, shown as `redis-cli` would roughly show it.
    pub(crate) async fn check(&mut self, line: &str, expected: &str) {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        assert_eq!(show(&self.call(&args).await), expected, "{line}");
    }

    /// The reply as shown, for those whose text is not known exactly.
    pub(crate) async fn show(&mut self, line: &str) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        show(&self.call(&args).await)
    }
}

pub(crate) fn command(args: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend(format!("${}\r\n", arg.len()).into_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend(b"\r\n");
    }
    bytes
}

pub(crate) fn show(frame: &Frame) -> String {
    let list = |items: &[Frame]| items.iter().map(show).collect::<Vec<_>>().join(" ");
    match frame {
        Frame::Simple(word) => word.to_string(),
        Frame::Error(text) => format!("-{text}"),
        Frame::Integer(number) => format!(":{number}"),
        Frame::Bulk(bytes) => format!("\"{}\"", String::from_utf8_lossy(bytes)),
        Frame::Text(text) => text.clone(),
        Frame::Null => "nil".to_owned(),
        Frame::Array(items) => format!("[{}]", list(items)),
        Frame::Map(pairs) => {
            let pair = |(key, value): &(Frame, Frame)| format!("{}={}", show(key), show(value));
            format!("{{{}}}", pairs.iter().map(pair).collect::<Vec<_>>().join(" "))
        }
    }
}
