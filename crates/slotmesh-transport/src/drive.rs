//! The tasks of one connection.
//!
//! The reader parses all frames that have arrived before it lets go of the thread, so all answers of a batch meet in the
//! outbox; the writer, woken by the first of them, yields once and then hands QUIC everything in one piece. One write is
//! one `sendmsg` for a whole batch: that, not QUIC, decides what a small call costs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{Connection, ReadError, RecvStream, SendStream};

use crate::clock;
use crate::disconnect::{Close, Disconnect};
use crate::frame::{Frame, FrameDecoder, FrameError, FrameType};
use crate::handler::{Handler, Reply, Request};
use crate::link::{Link, Sweep};
use crate::stream::FrameStream;

/// How often deadlines are looked at while calls wait: one timer for all calls of a connection. Calls end at most
/// twice this much late.
const SWEEP_INTERVAL: Duration = Duration::from_millis(5);

/// How long the thread stays awake for each frame of a batch that it has sent, up to the configured longest time: a wake
/// costs tens of microseconds, which is much for a batch and little for a single call.
const BUSY_POLL_PER_FRAME: Duration = Duration::from_micros(4);

/// Looks without a waiting call before the sweeper rests; waking it costs more than twenty empty looks.
const IDLE_SWEEPS_MAX: u32 = 20;

/// Pieces taken from QUIC per turn: one full receive batch of ten packets, three times over.
const CHUNKS_PER_READ: usize = 32;

/// A connection that has passed the handshake, with its RPC stream.
pub(crate) struct ReadyLink {
    pub(crate) link: Arc<Link>,
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
}

impl ReadyLink {
    /// Works the connection until it ends, and says why it did.
    pub(crate) async fn run(self, handler: Arc<dyn Handler>) -> Disconnect {
        let Self { link, send, recv } = self;
        let _end = EndGuard { link: link.clone(), handler: handler.clone() };
        handler.connected(&link.info);
        tokio::spawn(write(link.clone(), send));
        let why = if link.info.dialled {
            tokio::spawn(sweep(link.clone()));
            read_answers(&link, recv).await
        } else {
            tokio::spawn(accept_streams(link.clone(), handler.clone()));
            tokio::spawn(read_datagrams(link.clone(), handler.clone()));
            read_requests(&link, recv, &*handler).await
        };
        link.end(&why)
    }
}

/// Ends the link however its reader ended, a panic of the handler and an aborted task included.
struct EndGuard {
    link: Arc<Link>,
    handler: Arc<dyn Handler>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        let why = self.link.end(&Disconnect::Lost);
        self.handler.disconnected(&self.link.info, &why);
    }
}

/// Closes the connection when a task beside the reader ends: it does so with the connection, or by a panic.
struct CloseGuard(Connection);

impl Drop for CloseGuard {
    fn drop(&mut self) {
        Close::plain().apply(&self.0);
    }
}

async fn write(link: Arc<Link>, mut stream: SendStream) {
    let mut pieces = Vec::new();
    loop {
        link.written_to.notified().await;
        // Lets everybody who is about to queue something do so first: on a multi-thread runtime this task would
        // otherwise run after every single frame, at five times the cost.
        tokio::task::yield_now().await;
        let mut awake_until = None;
        loop {
            let Some(taken) = link.take_outbox(&mut pieces) else { return };
            if taken.frames == 0 {
                if awake_until.is_none_or(|until| Instant::now() >= until) {
                    break;
                }
                stay_awake().await;
                continue;
            }
            if stream.write_all_chunks(&mut pieces).await.is_err() {
                // Lost already, or the peer has stopped the one stream that must last.
                Close::plain().apply(&link.connection);
                return;
            }
            pieces.clear();
            link.wrote(taken.bytes);
            let wait = link.config.busy_poll_max.min(BUSY_POLL_PER_FRAME * taken.frames as u32);
            awake_until = (!wait.is_zero()).then(|| Instant::now() + wait);
        }
    }
}

/// Looks for packets once, without sleeping; threads that have work go first.
async fn stay_awake() {
    std::thread::yield_now();
    tokio::task::yield_now().await;
}

async fn sweep(link: Arc<Link>) {
    loop {
        link.sweep.notified().await;
        let mut idle_sweeps = 0;
        while idle_sweeps <= IDLE_SWEEPS_MAX {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            match link.sweep_deadlines(idle_sweeps == IDLE_SWEEPS_MAX) {
                Sweep::Waiting => idle_sweeps = 0,
                Sweep::Idle => idle_sweeps += 1,
                Sweep::Ended => return,
            }
        }
    }
}

/// Reads the RPC stream, all that has arrived per turn.
struct FrameReader {
    stream: RecvStream,
    decoder: FrameDecoder,
    chunks: [Bytes; CHUNKS_PER_READ],
}

impl FrameReader {
    fn new(stream: RecvStream, body_bytes_max: usize) -> Self {
        let chunks = std::array::from_fn(|_| Bytes::new());
        Self { stream, decoder: FrameDecoder::new(body_bytes_max), chunks }
    }

    /// Waits for bytes and hands every whole frame to `take`, which may refuse it.
    async fn read(
        &mut self,
        mut take: impl FnMut(Frame) -> Result<(), FrameError>,
    ) -> Result<(), Disconnect> {
        let count = match self.stream.read_chunks(&mut self.chunks).await {
            Ok(Some(count)) => count,
            Ok(None) => return Err(Disconnect::BadFrame(self.decoder.end())),
            Err(ReadError::ConnectionLost(error)) => return Err(error.into()),
            Err(_) => return Err(Disconnect::BadFrame(FrameError::Ended)),
        };
        for chunk in self.chunks.iter_mut().take(count) {
            self.decoder.handle_bytes(std::mem::take(chunk));
            while let Some(frame) = self.decoder.poll_frame().map_err(Disconnect::BadFrame)? {
                take(frame).map_err(Disconnect::BadFrame)?;
            }
        }
        Ok(())
    }
}

async fn read_answers(link: &Link, stream: RecvStream) -> Disconnect {
    let mut reader = FrameReader::new(stream, link.config.frame_bytes_max);
    let mut answers = Vec::new();
    loop {
        let read = reader.read(|frame| match frame.header.frame_type {
            FrameType::Reply | FrameType::Status | FrameType::Busy | FrameType::Dropped => {
                answers.push(frame);
                Ok(())
            }
            other => Err(FrameError::WrongDirection(other)),
        });
        let read = read.await;
        link.deliver(&mut answers);
        if let Err(why) = read {
            return why;
        }
    }
}

async fn read_requests(link: &Arc<Link>, stream: RecvStream, handler: &dyn Handler) -> Disconnect {
    let mut reader = FrameReader::new(stream, link.config.frame_bytes_max);
    loop {
        link.room().await;
        let mut clock = BatchClock::default();
        let read = reader.read(|frame| handle(link, handler, frame, clock.waited()));
        if let Err(why) = read.await {
            return why;
        }
    }
}

/// How long the frames of a batch have waited for the handlers of those before them. Read at the second frame and at
/// every eighth from there on: handlers are meant to be fast, and reading it each time would be 2 % of a small call.
#[derive(Default)]
struct BatchClock {
    frames: usize,
    started: Option<Instant>,
    waited: Duration,
}

impl BatchClock {
    fn waited(&mut self) -> Duration {
        match self.started {
            None => self.started = Some(clock::now()),
            Some(started) if self.frames % 8 == 1 => {
                self.waited = clock::now().saturating_duration_since(started);
            }
            Some(_) => {}
        }
        self.frames += 1;
        self.waited
    }
}

fn handle(
    link: &Arc<Link>,
    handler: &dyn Handler,
    frame: Frame,
    waited: Duration,
) -> Result<(), FrameError> {
    let Frame { header, body } = frame;
    match header.frame_type {
        FrameType::Request => {
            let remaining = Duration::from_millis(header.remaining_ms.into());
            let Some(budget) = remaining.checked_sub(waited).filter(|left| !left.is_zero()) else {
                // Its caller has given up.
                return Ok(());
            };
            if link.begin_serving() {
                let reply = Reply::new(link.clone(), header.id);
                handler.request(&link.info, Request { kind: header.tag, body, budget }, reply);
            } else {
                link.answer(FrameType::Busy, 0, header.id, Bytes::new());
            }
        }
        FrameType::Message => handler.message(&link.info, header.tag, body),
        FrameType::Datagram => handler.datagram(&link.info, body),
        other => return Err(FrameError::WrongDirection(other)),
    }
    Ok(())
}

async fn accept_streams(link: Arc<Link>, handler: Arc<dyn Handler>) {
    let _close = CloseGuard(link.connection.clone());
    while let Ok((mut send, mut recv)) = link.connection.accept_bi().await {
        // The kind is written when the stream is opened, so it is on its way; a peer that withholds it delays only itself.
        let mut kind = [0];
        let read = recv.read_exact(&mut kind);
        if let Ok(Ok(())) = tokio::time::timeout(link.config.handshake_timeout, read).await {
            let [kind] = kind;
            let max = link.config.stream_frame_bytes_max;
            handler.stream(&link.info, kind, FrameStream::new(kind, send, recv, max));
        } else {
            // Dropped, it would end as if all had been said. It fails only when the stream has ended already.
            let _ = send.reset(0u32.into());
        }
    }
}

async fn read_datagrams(link: Arc<Link>, handler: Arc<dyn Handler>) {
    let _close = CloseGuard(link.connection.clone());
    while let Ok(body) = link.connection.read_datagram().await {
        handler.datagram(&link.info, body);
    }
}
