use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::World;
use super::net::Weather;

/// Lets faults happen for a while.
pub async fn rage(world: &Arc<World>, rng: &mut StdRng) {
    let over = Instant::now() + Duration::from_secs(rng.random_range(8..20));
    while Instant::now() < over {
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..2500))).await;
        strike(world, rng).await;
    }
}

/// One fault.
async fn strike(world: &Arc<World>, rng: &mut StdRng) {
    let place = rng.random_range(0..world.places());
    let other = (place + rng.random_range(1..world.places())) % world.places();
    let way = (world.addr(place), world.addr(other));
    match rng.random_range(0..14) {
        0..3 => world.net.set_weather(Weather::drawn(rng, world.path_mtu())),
        3 => world.net.set_weather(Weather::calm(world.path_mtu())),
        4 => cut_one_way(world, way),
        5 => cut_both_ways(world, way),
        6 => {
            for other in (0..world.places()).filter(|other| *other != place) {
                cut_both_ways(world, (way.0, world.addr(other)));
            }
        }
        7 => world.net.heal(),
        8..10 => kill(world, place, rng).await,
        10 => close(world, place, rng).await,
        11 => {
            world.ledger.tally.note("peers reopened");
            world.process(place).reopen();
        }
        12 => world.process(place).redial(),
        _ => world.narrow(rng),
    }
}

fn cut_one_way(world: &World, way: super::net::Way) {
    world.ledger.tally.note("partition one way");
    world.net.cut(way);
}

fn cut_both_ways(world: &World, (one, other): super::net::Way) {
    world.ledger.tally.note("partition");
    world.net.cut((one, other));
    world.net.cut((other, one));
}

/// A process vanishes without a word, and another starts at its address. What runs in it finds itself cut off for ever,
/// and must come to an end by itself.
async fn kill(world: &Arc<World>, place: u8, rng: &mut StdRng) {
    world.ledger.tally.note("process killed");
    let process = world.process(place);
    world.net.unplug(&process.socket);
    world.ledger.is_gone(process.id);
    process.stop();
    drop(process);
    stay_down(rng).await;
    start_again(world, place);
}

/// A process closes its endpoint, and another starts at its address.
async fn close(world: &Arc<World>, place: u8, rng: &mut StdRng) {
    let process = world.process(place);
    let leaving = rng.random_bool(0.5);
    world.ledger.is_gone(process.id);
    process.stop();
    process.close(&world.ledger, leaving).await;
    world.net.unplug(&process.socket);
    drop(process);
    stay_down(rng).await;
    start_again(world, place);
}

fn start_again(world: &Arc<World>, place: u8) {
    let process = world.start(place);
    world.load(place, &process);
}

async fn stay_down(rng: &mut StdRng) {
    if rng.random_bool(0.7) {
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..4000))).await;
    }
}
