//! Single promises about time that need no luck, each in a world of two places.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use slotmesh_transport::{CallError, Disconnect, Peer};
use tokio::time::Instant;

use super::ledger::{Tally, Verdict};
use super::wire::{Act, Ask};
use super::{World, runtime};

const HOUR: Duration = Duration::from_secs(3600);
/// Longest pause between two attempts to connect.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
const BUDGET: Duration = Duration::from_secs(1);

/// Two places, the first with a process and a handle to the second.
struct Scene {
    world: Arc<World>,
    tally: Arc<Tally>,
    peer: Peer,
}

/// Plays a scene on a clock and a network of its own.
fn play(scene: impl AsyncFnOnce(&Scene)) {
    runtime().block_on(async {
        let tally = Arc::new(Tally::default());
        let world = World::found(&mut StdRng::seed_from_u64(1), tally.clone());
        tokio::spawn(world.net.clone().carry());
        let near = world.start(0);
        let peer = near.endpoint.peer(world.addr(1), None);
        scene(&Scene { world: world.clone(), tally, peer }).await;
        let violations = world.ledger.violations();
        assert!(violations.is_empty(), "{violations:?}");
    });
}

impl Scene {
    /// A call that is held at the other side for so long.
    async fn call(&self, pause: Duration, budget: Duration) -> Result<Bytes, CallError> {
        let call = self.world.ledger.call_begins();
        let pause_ms = pause.as_millis() as u32;
        let ask = Ask { call, expect: None, pause_ms, answer_bytes: 8, fill_bytes: 8 };
        let outcome = self.peer.call(Act::Late as u8, ask.encode(), budget).await;
        self.world.ledger.call_ended(call, Verdict::Unknown);
        outcome
    }

    fn datagrams(&self) -> u64 {
        self.tally.count("datagram arrived") + self.tally.count("datagram to nobody")
    }
}

/// A connection that nobody uses stays, and costs its keep-alive.
pub fn an_idle_hour() {
    play(async |scene: &Scene| {
        let _far = scene.world.start(1);
        scene.call(Duration::ZERO, BUDGET).await.unwrap();
        let before = scene.datagrams();
        tokio::time::sleep(HOUR).await;
        let intervals = HOUR.as_secs_f64() / scene.world.config.keep_alive_interval.as_secs_f64();
        let sent = (scene.datagrams() - before) as f64;
        // Both sides ask in turn, and each is answered.
        assert!(sent <= 4.0 * intervals, "{sent} datagrams in {intervals} intervals");
        let asked = Instant::now();
        scene.call(Duration::ZERO, BUDGET).await.unwrap();
        assert!(asked.elapsed() <= Duration::from_millis(20), "{:?}", asked.elapsed());
        assert_eq!(scene.tally.count("connected") + scene.tally.count("reconnected"), 1);
    });
}

/// A caller with an hour to wait learns of its peer's end when the connection is found dead.
pub fn a_peer_that_vanishes() {
    play(async |scene: &Scene| {
        let far = scene.world.start(1);
        scene.call(Duration::ZERO, BUDGET).await.unwrap();
        let vanish = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            scene.world.net.unplug(&far.socket);
            Instant::now()
        };
        let call = async {
            // With a timer of its own: a call that waited for ever would stop the clock.
            let outcome = tokio::time::timeout(HOUR * 2, scene.call(HOUR, HOUR)).await;
            (outcome, Instant::now())
        };
        let (vanished, (outcome, ended)) = tokio::join!(vanish, call);
        assert_eq!(outcome, Ok(Err(CallError::Lost(Disconnect::Idle))));
        let config = &scene.world.config;
        let limit = config.idle_timeout + config.keep_alive_interval + Duration::from_millis(100);
        assert!(ended - vanished <= limit, "after {:?}", ended - vanished);
    });
}

/// An address where nobody answers is asked for ever, ever more rarely; who comes back is found within the longest pause.
pub fn an_hour_without_a_peer() {
    play(async |scene: &Scene| {
        let (config, started) = (&scene.world.config, Instant::now());
        scene.peer.redial();
        tokio::time::sleep(HOUR).await;
        let attempts = HOUR.as_secs() / BACKOFF_MAX.as_secs() * 2 + 20;
        // A first packet, and its repetitions until the attempt is given up.
        let sent = scene.datagrams();
        assert!(sent >= 60 && sent <= attempts * 8, "{sent} datagrams of {attempts} attempts");
        let _far = scene.world.start(1);
        let back = Instant::now();
        while !scene.peer.connected() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let limit = BACKOFF_MAX + config.handshake_timeout + Duration::from_secs(1);
            assert!(back.elapsed() <= limit, "not found {:?} after {:?}", limit, started.elapsed());
        }
    });
}

/// Whoever is dialled in vain is reached at once when it dials from its side, be it in the pause between two attempts or in one
/// whose packets went to nobody.
pub fn a_peer_that_calls_back() {
    let pause = HOUR;
    // QUIC repeats the first packet after 0.3 s, and then 0.9 s after the beginning.
    let attempt = Duration::from_millis(350);
    for silence in [pause, attempt] {
        play(async |scene: &Scene| {
            scene.peer.redial();
            tokio::time::sleep(silence).await;
            let far = scene.world.start(1);
            let back = far.endpoint.peer(scene.world.addr(0), None);
            back.redial();
            let started = Instant::now();
            while !scene.peer.connected() {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let took = started.elapsed();
                assert!(
                    took <= Duration::from_millis(100),
                    "{silence:?}: not reached after {took:?}"
                );
            }
        });
    }
}

/// Whoever dials from the address of a process that is gone ends the connection to that one at once: its packets are
/// repeated ever more rarely, and only the next would tell. The handler hears that it was replaced: who counts on a process
/// must learn of its end.
pub fn a_peer_that_comes_back_as_another() {
    for silence in (1_000..4_000).step_by(500).map(Duration::from_millis) {
        play(async |scene: &Scene| {
            let far = scene.world.start(1);
            scene.call(Duration::ZERO, BUDGET).await.unwrap();
            scene.world.net.unplug(&far.socket);
            scene.world.ledger.is_gone(far.id);
            assert!(scene.call(Duration::ZERO, silence).await.is_err());
            assert!(scene.peer.connected(), "it is not known yet that nobody is there");
            let next = scene.world.start(1);
            let back = next.endpoint.peer(scene.world.addr(0), None);
            back.redial();
            let started = Instant::now();
            while scene.peer.info().is_none_or(|info| info.node != next.id) {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let took = started.elapsed();
                assert!(
                    took <= Duration::from_millis(50),
                    "{silence:?}: not reached after {took:?}"
                );
            }
            assert_eq!(
                scene.tally.count("reset by a successor"),
                1,
                "it is said what became of it"
            );
        });
    }
}
