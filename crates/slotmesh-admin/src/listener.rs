use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use slotmesh_node::{Node, REFORM_TIMEOUT};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use crate::config::{AdminConfig, AdminError};
use crate::routes;

/// Connections at once. Probes, a scraper and some people need a handful. Where there are more, the one that has asked nothing for the longest
/// gives its place up; while all are being answered the next waits.
pub const CONNECTIONS_MAX: usize = 64;

/// How long a request may take to arrive and to be answered, and an idle connection may stay. It is a little longer than the longest that the
/// node takes for anything, so that it always answers.
pub const REQUEST_PATIENCE: Duration = REFORM_TIMEOUT.saturating_add(Duration::from_secs(1));

/// Pause after a failed accept: the usual reason, too many open files, does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listener that answers until it is stopped or dropped.
#[derive(Debug)]
pub struct Admin {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

/// A listener whose address is known and that accepts nobody yet.
#[derive(Debug)]
pub struct BoundAdmin {
    listener: TcpListener,
    addr: SocketAddr,
    token: Option<String>,
}

impl Admin {
    /// Listens and answers on the runtime this is called on.
    ///
    /// # Errors
    /// When the settings cannot work or the address is taken.
    pub async fn serve(node: Node, config: AdminConfig) -> Result<Self, AdminError> {
        Ok(Self::bind(config).await?.serve(node))
    }

    /// Opens the socket only. Clients that connect before [`BoundAdmin::serve`] wait.
    ///
    /// # Errors
    /// When the settings cannot work or the address is taken.
    pub async fn bind(config: AdminConfig) -> Result<BoundAdmin, AdminError> {
        config.check()?;
        let addr = config.bind;
        let bind_error = |source: io::Error| AdminError::Bind { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(bind_error)?;
        let addr = listener.local_addr().map_err(bind_error)?;
        Ok(BoundAdmin { listener, addr, token: config.token })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes the listener. Answers under way may still be finished.
    pub async fn stop(mut self) {
        self.task.abort();
        // Aborted, so the outcome says nothing.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl BoundAdmin {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers on the runtime this is called on.
    #[must_use]
    pub fn serve(self, node: Node) -> Admin {
        let routes = routes::routes(node, self.token);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let listener = Bounded { listener: self.listener, places, taken: VecDeque::new() };
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                tracing::error!(%error, "the admin listener ended");
            }
        });
        Admin { addr: self.addr, task }
    }
}

/// Accepts as many as there are places.
struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    /// The oldest first.
    taken: VecDeque<Taken>,
}

/// A place that a connection has.
struct Taken {
    /// Has it give the place up; closed when it has ended.
    leave: oneshot::Sender<()>,
    answers: Arc<AtomicBool>,
}

/// A connection with its place.
struct Placed {
    stream: TcpStream,
    /// Ends when the next request has taken too long to arrive as a whole.
    patience: Pin<Box<Sleep>>,
    /// Another one needs the place.
    leave: oneshot::Receiver<()>,
    /// Whether a request has arrived that was not answered yet.
    answers: Arc<AtomicBool>,
    /// How much of the end of a request's head was read last.
    ended: usize,
    _place: Option<OwnedSemaphorePermit>,
}

/// The end of a request's head.
const HEAD_END: &[u8] = b"\r\n\r\n";

impl Bounded {
    /// A place for one more, where need be that of one who asks nothing.
    async fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        self.taken.retain(|taken| !taken.leave.is_closed());
        if self.places.available_permits() == 0 {
            let idle = |taken: &Taken| !taken.answers.load(Ordering::Relaxed);
            let oldest = self.taken.iter().position(idle).and_then(|at| self.taken.remove(at));
            if let Some(oldest) = oldest {
                // It may have ended just now.
                let _ = oldest.leave.send(());
            }
        }
        // The semaphore is never closed, so there always comes a place.
        Arc::clone(&self.places).acquire_owned().await.ok()
    }
}

impl Placed {
    /// Looks for the end of a request's head in what was read.
    fn hear(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.ended = match byte == HEAD_END[self.ended] {
                true => self.ended + 1,
                false => usize::from(byte == HEAD_END[0]),
            };
            if self.ended == HEAD_END.len() {
                self.ended = 0;
                self.answers.store(true, Ordering::Relaxed);
            }
        }
    }
}

impl Listener for Bounded {
    type Io = Placed;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Placed, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, addr)) => {
                    let place = self.place().await;
                    let patience = Box::pin(tokio::time::sleep(REQUEST_PATIENCE));
                    let (answers, (leave, left)) = (Arc::default(), oneshot::channel());
                    self.taken.push_back(Taken { leave, answers: Arc::clone(&answers) });
                    let (leave, ended) = (left, 0);
                    return (
                        Placed { stream, patience, leave, answers, ended, _place: place },
                        addr,
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin listener cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let is_over = self.patience.as_mut().poll(context).is_ready();
        if is_over || Pin::new(&mut self.leave).poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.hear(&buffer.filled()[before..]);
        read
    }
}

impl AsyncWrite for Placed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.patience.as_mut().reset(Instant::now() + REQUEST_PATIENCE);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            self.answers.store(false, Ordering::Relaxed);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
