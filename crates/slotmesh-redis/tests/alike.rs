//! The same calls to a cache over a server and to one over a node: they come to the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(unreachable_pub, reason = "shared by tests, not an interface")]
mod servers;

use std::convert::Infallible;
use std::time::Duration;

use servers::Server;
use slotmesh_cache::{Cache, CacheError, Caches};
use slotmesh_node::{Node, OpError};
use slotmesh_redis::Redis;
use slotmesh_slots::Version;

const STEPS: u64 = 6_000;
const KEYS: u64 = 8;
const LONG: Duration = Duration::from_secs(600);

/// One cache, and the versions that its writes were given.
struct Side {
    cache: Cache<u64, u64>,
    versions: Vec<Option<Version>>,
}

impl Side {
    fn new(caches: &impl Caches) -> Self {
        let builder = caches.cache("alike").no_l1().negative_ttl(LONG);
        let cache = builder.stale_if_error(LONG).ttl(LONG).build().unwrap();
        Self { cache, versions: vec![None; KEYS as usize] }
    }

    /// Does something, and says what it came to.
    async fn step(&mut self, what: u64, key: u64, number: u64) -> String {
        let (cache, known) = (&self.cache, &mut self.versions[key as usize]);
        match what {
            0..=2 => {
                let written = cache.put(&key, number).await.unwrap();
                *known = written.version;
                format!("put {}", written.version.is_some())
            }
            3 => {
                let written = cache.put_if(&key, number, None).await;
                Self::conditional(known, written)
            }
            4..=6 => {
                let written = cache.put_if(&key, number, *known).await;
                Self::conditional(known, written)
            }
            7 => {
                let written = cache.invalidate(&key).await.unwrap();
                format!("invalidated {:?}", written.version)
            }
            8..=9 => format!("got {:?}", cache.get(&key).await.unwrap()),
            10 => {
                let peeked = cache.peek(&key).await.unwrap();
                format!("peeked {:?}", peeked.map(|it| (it.value, it.is_stale)))
            }
            11..=12 => {
                let change = |it: Option<&u64>| match it {
                    Some(it) if it.is_multiple_of(3) => None,
                    it => Some(it.map_or(number, |it| it + 1)),
                };
                format!("updated {:?}", cache.update(&key, change).await.unwrap())
            }
            13 => format!("touched {}", cache.touch(&key, LONG * 2).await.unwrap()),
            14 => loop {
                let loaded = cache.get_or_load(&key, move |_| async move {
                    Ok::<_, Infallible>((!number.is_multiple_of(3)).then_some(number))
                });
                match loaded.await {
                    Ok(loaded) => break format!("loaded {loaded:?}"),
                    // Of the load before, which has yet to tell the server.
                    Err(CacheError::Load(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            },
            _ => {
                let failing = |_| async { Err::<Option<u64>, _>("no source") };
                match cache.get_or_load(&key, failing).await {
                    Ok(value) => format!("loaded {value:?}"),
                    Err(CacheError::Load(_)) => "failed".to_owned(),
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }

    fn conditional(
        known: &mut Option<Version>,
        written: Result<slotmesh_cache::Written, CacheError>,
    ) -> String {
        match written {
            Ok(written) => {
                *known = written.version;
                "written".to_owned()
            }
            Err(CacheError::Conflict { version }) => {
                *known = version;
                format!("refused {}", version.is_some())
            }
            Err(CacheError::Cluster(OpError::TooFewCopies { .. })) => panic!("there is one"),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_cache_over_a_server_does_what_one_over_a_node_does() {
    let server = Server::start(&[]);
    let mut node = Side::new(&Node::local(16 << 20));
    let mut redis = Side::new(&Redis::open(&server.address()).unwrap());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut said = Vec::new();
    for step in 0..STEPS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let (what, key) = ((state >> 20) % 16, (state >> 40) % KEYS);
        let (ours, theirs) = (node.step(what, key, step).await, redis.step(what, key, step).await);
        said.push(format!("{what} of {key}: {ours}"));
        let before = &said[said.len().saturating_sub(20)..];
        assert_eq!(theirs, ours, "step {step}\n{}", before.join("\n"));
    }
}
