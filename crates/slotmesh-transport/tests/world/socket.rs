use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::net::{Datagram, Net};

/// Datagrams that wait to be received; more are dropped, as a system's buffer does.
const WAITING_MAX: usize = 2048;

/// As many packets a send as production has with segmentation offload.
const SEGMENTS_MAX: usize = 10;

/// What QUIC takes for a UDP socket: one end of a [`Net`].
pub struct VirtualSocket {
    addr: SocketAddr,
    net: Arc<Net>,
    inbox: Mutex<Inbox>,
}

#[derive(Default)]
struct Inbox {
    waiting: VecDeque<Datagram>,
    reader: Option<Waker>,
    muted: bool,
}

impl VirtualSocket {
    pub fn new(addr: SocketAddr, net: Arc<Net>) -> Arc<Self> {
        Arc::new(Self { addr, net, inbox: Mutex::default() })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Puts a datagram in for the reader; false when it is dropped instead.
    pub fn put(&self, datagram: Datagram) -> bool {
        let mut inbox = self.inbox.lock();
        if inbox.muted || inbox.waiting.len() >= WAITING_MAX {
            return false;
        }
        inbox.waiting.push_back(datagram);
        let reader = inbox.reader.take();
        drop(inbox);
        if let Some(reader) = reader {
            reader.wake();
        }
        true
    }

    /// From now on nothing comes in or goes out.
    pub fn mute(&self) {
        let mut inbox = self.inbox.lock();
        inbox.muted = true;
        inbox.waiting.clear();
    }
}

impl AsyncUdpSocket for VirtualSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.inbox.lock().muted {
            return Ok(());
        }
        let whole = Bytes::copy_from_slice(transmit.contents);
        let size = transmit.segment_size.unwrap_or(whole.len()).max(1);
        for start in (0..whole.len()).step_by(size) {
            let bytes = whole.slice(start..whole.len().min(start + size));
            let datagram = Datagram { from: self.addr, ecn: transmit.ecn, bytes };
            self.net.send(transmit.destination, &datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.inbox.lock();
        let mut received = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let Some(datagram) = inbox.waiting.pop_front() else { break };
            let len = datagram.bytes.len().min(buffer.len());
            buffer[..len].copy_from_slice(&datagram.bytes[..len]);
            let Datagram { from, ecn, .. } = datagram;
            *meta = RecvMeta { addr: from, len, stride: len, ecn, dst_ip: None };
            received += 1;
        }
        if received > 0 {
            return Poll::Ready(Ok(received));
        }
        inbox.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS_MAX
    }

    /// So that QUIC looks for the largest packet that the path bears, as in production.
    fn may_fragment(&self) -> bool {
        false
    }
}

impl fmt::Debug for VirtualSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VirtualSocket({})", self.addr)
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
