use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::exec;
use crate::gateway::Gateway;
use crate::listener::stopped;
use crate::protocol::{CommandDecoder, Frame};
use crate::session::Session;

/// Free room for each read: some hundred usual commands.
const READ_BYTES: usize = 16 << 10;

/// Replies are written when a pipeline ends, or when this much has gathered.
const WRITE_BYTES: usize = 64 << 10;

/// Buffers that grew beyond this for a large command or reply are given back when they are empty.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// How long a client may take to give the password.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// One client: reads commands, carries them out in order, answers. While its replies are not taken nothing more is
/// read, so a slow reader holds no more than one command, one reply and [`WRITE_BYTES`].
pub(crate) struct Connection {
    stream: TcpStream,
    session: Session,
    gateway: Arc<Gateway>,
    decoder: CommandDecoder,
    replies: BytesMut,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, session: Session, gateway: Arc<Gateway>) -> Self {
        let decoder = CommandDecoder::new(session.limits());
        Self { stream, session, gateway, decoder, replies: BytesMut::new() }
    }

    /// Serves until the client goes, or all that has arrived is answered after the listener stops.
    pub(crate) async fn run(mut self, stop: watch::Receiver<bool>) {
        if let Err(error) = self.serve(stop).await {
            tracing::debug!(client = self.session.id, %error, "a Redis client's connection ended");
        }
    }

    async fn serve(&mut self, mut stop: watch::Receiver<bool>) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        loop {
            self.carry_out_all().await?;
            self.flush().await?;
            if self.session.closing {
                return self.stream.shutdown().await;
            }
            let read = tokio::select! {
                biased;
                read = self.read() => read?,
                () = stopped(&mut stop) => return self.stream.shutdown().await,
            };
            if read == 0 {
                return Ok(());
            }
        }
    }

    /// Carries out every command that is there.
    async fn carry_out_all(&mut self) -> io::Result<()> {
        while !self.session.closing {
            let reply = match self.decoder.poll_command() {
                Ok(Some(args)) => exec::run(&self.gateway, &mut self.session, &args).await,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.session.closing = true;
                    Frame::error(format!("ERR {error}"))
                }
            };
            if matches!(reply, Frame::Error(_)) {
                self.gateway.counters.errors.fetch_add(1, Ordering::Relaxed);
            }
            reply.encode(self.session.protocol, &mut self.replies);
            self.decoder.set_limits(self.session.limits());
            if self.replies.len() >= WRITE_BYTES {
                self.flush().await?;
                // A long pipeline of local commands never waits; others want to run too.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        let stalled = || io::Error::new(io::ErrorKind::TimedOut, "the client takes no replies");
        while !self.replies.is_empty() {
            let write = self.stream.write(&self.replies);
            let written = timeout(self.gateway.config.stall_timeout, write).await;
            let written = written.map_err(|_| stalled())??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.gateway.counters.bytes_out.fetch_add(written as u64, Ordering::Relaxed);
            self.replies.advance(written);
        }
        if self.replies.capacity() > KEPT_BYTES_MAX {
            self.replies = BytesMut::new();
        }
        Ok(())
    }

    async fn read(&mut self) -> io::Result<usize> {
        let buffer = self.decoder.buffer_mut();
        if buffer.is_empty() && buffer.capacity() > KEPT_BYTES_MAX {
            *buffer = BytesMut::new();
        }
        buffer.reserve(READ_BYTES);
        let read = self.stream.read_buf(buffer);
        let count = if self.session.trusted {
            read.await?
        } else {
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the client gave no password");
            timeout(LOGIN_TIMEOUT, read).await.map_err(late)??
        };
        self.gateway.counters.bytes_in.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
