use std::sync::Arc;
use std::time::Duration;

use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, VarInt};

/// Limits and timings of an endpoint; each connection gets its own share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportConfig {
    /// Most calls to one peer whose answer is awaited; more fail at once with `Busy`. Up to 65,535.
    pub in_flight_max: usize,
    /// Most requests of one connection that wait for their reply here; more are answered with `Busy`.
    pub serving_max: usize,
    /// Most bytes queued for one peer before calls fail with `Busy`; at least one frame always fits. More rides out
    /// longer stalls and costs that much memory for each peer that stalls.
    pub queued_bytes_max: usize,
    /// Largest body of a request, reply or message. Large ones delay small ones on the same connection.
    pub frame_bytes_max: usize,
    /// Largest frame on a [`FrameStream`](crate::FrameStream).
    pub stream_frame_bytes_max: usize,
    /// A connection on which nothing arrives for this long is lost, or up to a `keep_alive_interval` later: the first
    /// packet sent into the silence begins the time anew (RFC 9000 section 10.1). Shorter finds dead hosts sooner, longer
    /// survives longer stalls; 5 to 60 s.
    pub idle_timeout: Duration,
    /// How often an idle connection shows that it lives; a third of `idle_timeout` or less.
    pub keep_alive_interval: Duration,
    /// Longest wait for a connection to stand, both hellos included.
    pub handshake_timeout: Duration,
    /// Largest UDP payload that path discovery tries: 1452 fits Ethernet; up to 6500 makes 1 KiB calls 2 times and bulk
    /// 2.5 times as fast where the path bears it (jumbo frames, loopback).
    pub mtu_max: u16,
    /// Socket buffers asked of the system, each direction; it may give less. Bulk loses packets with small ones.
    pub socket_buffer_bytes: usize,
    /// Bytes sent but not acknowledged per connection, over all its streams.
    pub send_window_bytes: u64,
    /// Most connections that peers may hold open to this endpoint.
    pub accepted_max: usize,
    /// How long, at most, the endpoint's thread looks for packets after it has sent a batch of frames, before it sleeps;
    /// 4 us for each frame, so single calls hardly count. Longer spares a busy peer the wakes, which cost more than the
    /// work, and burns processor time that nobody else wants; zero never looks.
    pub busy_poll_max: Duration,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            in_flight_max: 4096,
            serving_max: 4096,
            queued_bytes_max: 16 << 20,
            // A value of 8 MiB with its key and what goes around it.
            frame_bytes_max: (8 << 20) + (128 << 10),
            stream_frame_bytes_max: 16 << 20,
            idle_timeout: Duration::from_secs(10),
            keep_alive_interval: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(3),
            mtu_max: 1452,
            socket_buffer_bytes: 4 << 20,
            send_window_bytes: 8 << 20,
            accepted_max: 4096,
            busy_poll_max: Duration::ZERO,
        }
    }
}

impl TransportConfig {
    /// All problems of these settings; empty when they are fine.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |fine: bool, problem: &str| {
            if !fine {
                problems.push(problem.to_owned());
            }
        };
        let in_flight = 1..=usize::from(u16::MAX);
        check(in_flight.contains(&self.in_flight_max), "in_flight_max must be 1 to 65535");
        check(self.serving_max > 0, "serving_max must be above 0");
        check(self.accepted_max > 0, "accepted_max must be above 0");
        check(
            (1..=FRAME_BYTES_LIMIT).contains(&self.frame_bytes_max)
                && (1..=FRAME_BYTES_LIMIT).contains(&self.stream_frame_bytes_max),
            "frame_bytes_max and stream_frame_bytes_max must be 1 byte to 1 GiB",
        );
        check(
            (MTU_MIN..=MTU_LIMIT).contains(&self.mtu_max),
            "mtu_max must be 1200 to 6550: above, the kernel refuses batches of ten packets",
        );
        check(
            self.keep_alive_interval < self.idle_timeout,
            "keep_alive_interval must be below idle_timeout",
        );
        check(self.busy_poll_max <= BUSY_POLL_LIMIT, "busy_poll_max must be 10 ms or less");
        check(!self.handshake_timeout.is_zero(), "handshake_timeout must be above 0");
        check(
            IdleTimeout::try_from(self.idle_timeout).is_ok(),
            "idle_timeout must fit 62 bits of milliseconds",
        );
        problems
    }

    /// QUIC settings of connections that peers open: they may open streams.
    pub(crate) fn accepted(&self) -> Arc<quinn::TransportConfig> {
        let mut quic = self.common();
        quic.max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX));
        Arc::new(quic)
    }

    /// QUIC settings of connections that this side opens: nothing but answers comes back.
    pub(crate) fn dialled(&self) -> Arc<quinn::TransportConfig> {
        let mut quic = self.common();
        quic.max_concurrent_bidi_streams(VarInt::from_u32(0));
        Arc::new(quic)
    }

    fn common(&self) -> quinn::TransportConfig {
        let mut ack_frequency = AckFrequencyConfig::default();
        ack_frequency.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY_PACKETS));
        ack_frequency.max_ack_delay(Some(ACK_DELAY_MAX));
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(self.mtu_max);
        let mut quic = quinn::TransportConfig::default();
        quic.max_concurrent_uni_streams(VarInt::from_u32(0))
            .max_idle_timeout(IdleTimeout::try_from(self.idle_timeout).ok())
            .keep_alive_interval(Some(self.keep_alive_interval))
            .initial_rtt(INITIAL_RTT)
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
            .send_window(self.send_window_bytes)
            .ack_frequency_config(Some(ack_frequency))
            .mtu_discovery_config(Some(mtu))
            .datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES)
            // QUIC lets only those send datagrams who would take them.
            .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES));
        quic
    }
}

/// Streams that a peer may hold open at once: the RPC stream and one per replication link. A permitted stream costs
/// memory even unopened: 31 KiB per idle connection at 4, 571 KiB at 4096.
pub(crate) const STREAMS_MAX: u32 = 16;

/// Bytes of one stream that may wait unread here: enough for 10 Gbit/s over 3 ms. There is no limit over all streams of
/// a connection but this times [`STREAMS_MAX`], so that one stream nobody reads cannot stop the others.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// Packets per acknowledgement: 10 instead of 2 takes 23 % off the CPU time of a 64 byte call at 64 in flight.
const ACK_EVERY_PACKETS: u32 = 10;

/// How long an acknowledgement waits for more packets, at most. QUIC's usual 25 ms stop a sender for as long whose window is
/// smaller than so many packets, as it is while a connection is new.
const ACK_DELAY_MAX: Duration = Duration::from_millis(2);

/// First guess of the round trip, until one was measured: the usual 333 ms would repeat a lost first packet after 1 s.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Datagrams waiting in either direction; the oldest give way. Some 200 full ones, far above what gossip keeps under way.
const DATAGRAM_BUFFER_BYTES: usize = 256 << 10;

const MTU_MIN: u16 = 1200;
/// Ten packets of this size are one 65,507 byte batch, the most that the kernel's segmentation offload takes.
const MTU_LIMIT: u16 = 6550;

/// Beyond this nothing is gained: a batch of 4,096 calls is back long before.
const BUSY_POLL_LIMIT: Duration = Duration::from_millis(10);

/// Lengths travel as `u32`; 1 GiB is already more than any cache value.
const FRAME_BYTES_LIMIT: usize = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_fine_and_all_problems_are_told_at_once() {
        assert_eq!(TransportConfig::default().problems(), Vec::<String>::new());
        let bad = TransportConfig {
            in_flight_max: 1 << 16,
            serving_max: 0,
            frame_bytes_max: 0,
            mtu_max: 9000,
            keep_alive_interval: Duration::from_secs(60),
            busy_poll_max: Duration::from_secs(1),
            ..TransportConfig::default()
        };
        assert_eq!(bad.problems().len(), 6, "{:?}", bad.problems());
    }
}
