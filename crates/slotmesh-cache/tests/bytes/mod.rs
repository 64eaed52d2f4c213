//! Bytes of any kind as values of the cluster, and keys of any kind. Shared by the smoke test and the fuzz target.

// The lint knows `#[test]` functions only, not their helpers.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use slotmesh_cache::codecs::{Bincode, Json, Lz4, Postcard, Raw};
use slotmesh_cache::{Cache, CacheKey, Caches, Codec};
use slotmesh_node::{Node, PutOptions};
use tokio::runtime::{self, Runtime};

type Value = (u32, String, Option<Vec<u16>>, BTreeMap<String, i64>);

const SCHEMA: u32 = 2;

/// Bincode, schema version 2: without times, with some, and with a stamp of one tag.
const HEADER: [u8; 6] = [0xc5, 1, SCHEMA as u8, 0, 0, 0];
const TIMED: [u8; 14] = [0xc6, 1, SCHEMA as u8, 0, 0, 0, 1, 2, 3, 4, 255, 255, 255, 255];

const STAMPED: [u8; 31] = [
    0xc7,
    1,
    SCHEMA as u8,
    0,
    0,
    0,
    1,
    2,
    3,
    4,
    255,
    255,
    255,
    255,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    1,
    9,
    9,
    9,
    9,
    9,
    9,
    9,
    9,
];

struct World {
    runtime: Runtime,
    node: Node,
    cache: Cache<u8, Value>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let node = Node::local(8 << 20);
    let cache = node.cache("fuzz").version(SCHEMA).no_l1().build().unwrap();
    World {
        runtime: runtime::Builder::new_current_thread().enable_time().build().unwrap(),
        node,
        cache,
    }
});

/// Reads the bytes as a value through the cache, as they are and behind the right header: it is a value exactly if header
/// and payload say so, and else a miss.
pub(crate) fn survives(input: &[u8]) {
    reads_as_it_should(input);
    reads_as_it_should(&[&HEADER, input].concat());
    reads_as_it_should(&[&TIMED, input].concat());
    reads_as_it_should(&[&STAMPED, input].concat());
    comes_back(&Json, input);
    comes_back(&Postcard, input);
    comes_back(&Lz4::new(Bincode, 4), input);
    comes_back(&Lz4::new(Bincode, 4), &[&[1, 8, 0, 0, 0], input].concat());
    goes_and_comes(input);
    keys_stay_apart(input);
}

fn reads_as_it_should(bytes: &[u8]) {
    let world = &*WORLD;
    let expected = bytes
        .strip_prefix(&HEADER)
        .or_else(|| bytes.strip_prefix(&TIMED))
        .or_else(|| bytes.strip_prefix(&STAMPED))
        .and_then(|payload| Codec::<Value>::decode(&Bincode, payload).ok());
    let read = world.runtime.block_on(async {
        let (key, bytes) = (b"fuzz:2:1".to_vec(), bytes.to_vec());
        world.node.put(key, bytes, PutOptions::default()).await.unwrap();
        world.cache.get(&1).await.unwrap()
    });
    assert_eq!(read.as_deref(), expected.as_ref());
    comes_back(&Bincode, bytes);
}

/// What can be decoded can be encoded, and is the same then.
fn comes_back(codec: &dyn Codec<Value>, bytes: &[u8]) {
    if let Ok(value) = codec.decode(bytes) {
        let mut again = Vec::new();
        codec.encode(&value, &mut again).unwrap();
        assert_eq!(codec.decode(&again).unwrap(), value);
    }
}

fn goes_and_comes(bytes: &[u8]) {
    let (codec, bytes) = (Lz4::new(Raw, 2), bytes.repeat(3));
    let mut out = Vec::new();
    codec.encode(&bytes, &mut out).unwrap();
    assert_eq!(Codec::<Vec<u8>>::decode(&codec, &out).unwrap(), bytes);
}

/// Two different pairs cut from the input write different text.
fn keys_stay_apart(input: &[u8]) {
    let (a, b) = input.split_at(input.len() / 2);
    let pair = |bytes: &[u8], at: u8| {
        let (left, right) = bytes.split_at(usize::from(at) % (bytes.len() + 1));
        (left.to_vec(), right.to_vec())
    };
    let text = |key: &(Vec<u8>, Vec<u8>)| {
        let mut out = Vec::new();
        key.write(&mut out);
        out
    };
    let first = pair(a, input.first().copied().unwrap_or_default());
    for second in [
        pair(b, input.last().copied().unwrap_or_default()),
        pair(a, input.last().copied().unwrap_or_default()),
        (a.to_vec(), b.to_vec()),
    ] {
        assert_eq!(first == second, text(&first) == text(&second), "{first:?} {second:?}");
    }
}
