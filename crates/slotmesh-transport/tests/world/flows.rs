//! What is not a call: ordered streams, one-way messages, datagrams.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slotmesh_transport::{
    CallError, DATAGRAM_BYTES_MAX, FrameReceiver, FrameSender, FrameStream, StreamError,
};
use tokio::time::Instant;

use super::World;
use super::process::{Handle, Process};
use super::wire;

const KIND: u8 = 9;

/// Opens streams to a place one after another until the process stops.
pub async fn keep_streaming(world: Arc<World>, process: Arc<Process>, place: u8, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    while process.is_running() {
        let at = world.whereabouts(place);
        process.refresh(at);
        let handle = process.handle(at, &mut rng);
        let opened = tokio::select! {
            opened = open(&world, &handle) => opened,
            () = process.upset() => None,
        };
        if let Some(stream) = opened {
            // So that giving up the handles ends the connection.
            drop(handle);
            work(&world, &process, stream, &mut rng).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..1000))).await;
    }
}

async fn open(world: &World, handle: &Handle) -> Option<FrameStream> {
    let started = Instant::now();
    let opened = handle.peer.open_stream(KIND).await;
    // Once for the connection, once for the stream.
    let limit = world.config.handshake_timeout * 2 + Duration::from_millis(5);
    let elapsed = started.elapsed();
    world.ledger.expect(elapsed <= limit, || format!("a stream took {elapsed:?} to open"));
    match opened {
        Ok(stream) => Some(stream),
        Err(CallError::NotConnected(_) | CallError::Refused(_) | CallError::Busy(_)) => {
            world.ledger.tally.note("stream not opened");
            None
        }
        Err(error) => {
            world.ledger.violation(format!("stream not opened: {error}"));
            None
        }
    }
}

/// Sends numbered frames, and reads their echoes at the same time.
async fn work(world: &World, process: &Process, stream: FrameStream, rng: &mut StdRng) {
    let name = world.ledger.number();
    let frames = rng.random_range(1..60);
    let aborts = rng.random_bool(0.1);
    let (sender, receiver) = stream.into_split();
    let send = send(world, name, frames, aborts, sender, rng);
    let echoes = read_echoes(world, name, (!aborts).then_some(frames), receiver);
    let both = async { tokio::join!(send, echoes) };
    tokio::select! {
        ((), ()) = both => {}
        () = process.upset() => world.ledger.stream_given_up(name),
    }
}

async fn send(
    world: &World,
    name: u64,
    frames: u32,
    aborts: bool,
    mut sender: FrameSender,
    rng: &mut StdRng,
) {
    for number in 0..frames {
        let large = rng.random_bool(0.05);
        let bytes = if large { rng.random_range(10_000..80_000) } else { rng.random_range(0..500) };
        if let Err(why) = sender.send(wire::frame(name, number, bytes)).await {
            let fair = matches!(why, StreamError::Lost(_) | StreamError::Stopped);
            return world.ledger.expect(fair, || format!("stream {name}: {why}"));
        }
        if rng.random_bool(0.3) {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..100))).await;
        }
    }
    if aborts {
        world.ledger.tally.note("stream aborted");
        return sender.abort();
    }
    // Before the sender is dropped, which ends the stream.
    world.ledger.stream_finished(name, frames);
}

/// Expects the echoes in order, all of them before the end.
async fn read_echoes(world: &World, name: u64, sent: Option<u32>, mut receiver: FrameReceiver) {
    let mut expected = 0;
    loop {
        match receiver.recv().await {
            Ok(Some(echo)) => {
                let read = wire::read_frame(&echo);
                world.ledger.expect(read == Some((name, expected)), || {
                    format!("stream {name}: echo {read:?} instead of {expected}")
                });
                expected += 1;
            }
            Ok(None) => {
                world.ledger.tally.note("stream complete");
                return world.ledger.expect(sent == Some(expected), || {
                    format!("stream {name}: {expected} echoes of {sent:?}")
                });
            }
            Err(why) => {
                let fair = matches!(why, StreamError::Lost(_) | StreamError::Aborted);
                world.ledger.tally.note("stream broken");
                return world.ledger.expect(fair, || format!("stream {name}: {why}"));
            }
        }
    }
}

/// Sends messages and datagrams to all other places until the process stops.
pub async fn keep_talking(world: Arc<World>, process: Arc<Process>, own: u8, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let places = world.places();
    // For each place: which connection the last message went by, and how many did.
    let mut threads = vec![(0, 0); usize::from(places)];
    while process.is_running() {
        let place = rng.random_range(0..places);
        if place != own {
            let at = world.whereabouts(place);
            process.refresh(at);
            let handle = process.handle(at, &mut rng);
            let connection = process.handler.connections_made(at.addr);
            if let Some(thread) = threads.get_mut(usize::from(place)) {
                if thread.0 != connection {
                    *thread = (connection, 0);
                }
                let body = wire::message((process.id, place, connection), thread.1);
                if handle.peer.send(KIND, body).is_ok() {
                    thread.1 += 1;
                }
            }
            let bytes = rng.random_range(0..DATAGRAM_BYTES_MAX - 8);
            // It is unreliable, so nothing follows from its failure either.
            let _ = handle.peer.datagram(wire::datagram(world.ledger.number(), bytes));
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(5..200))).await;
    }
}
