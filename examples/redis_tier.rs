//! Caches over a Redis or Valkey server that is there already: `cargo run --example redis_tier -- redis://127.0.0.1:6379`.
//!
//! Two handles stand for two processes of a service. Of both one loads a key, what one of them writes the other sees within milliseconds though it
//! keeps values in its own memory, and when the server is away the loader is asked.

use std::error::Error;
use std::time::{Duration, Instant};

use slotmesh::redis::Redis;
use slotmesh::{Cache, CacheError, Caches};

async fn from_database(id: u64) -> Result<Option<String>, CacheError> {
    tokio::time::sleep(Duration::from_millis(50)).await;
    println!("  the database is asked for user {id}");
    Ok(Some(format!("user {id}")))
}

fn users(redis: &Redis) -> Result<Cache<u64, String>, CacheError> {
    redis.cache("users").ttl(Duration::from_secs(60)).loader(from_database).build()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    let (one, two) = (Redis::open(&address)?, Redis::open(&address)?);
    if let Err(error) = one.ping().await {
        println!("there is no server ({error}); what follows asks the database alone");
    }
    let (one, two) = (users(&one)?, users(&two)?);

    println!("a cold key, asked for by both:");
    let (first, second) = tokio::join!(one.load(&7), two.load(&7));
    println!("{:?} and {:?}", first?, second?);

    println!("a change by one, seen by the other:");
    match one.put(&7, "renamed".to_owned()).await {
        Ok(_) => {
            let began = Instant::now();
            while two.get(&7).await?.is_none_or(|name| *name != "renamed") {
                tokio::task::yield_now().await;
            }
            println!("{:?}, after {:?}", two.get(&7).await?, began.elapsed());
            one.invalidate(&7).await?;
        }
        Err(error) => println!("nothing is written: {error}"),
    }
    Ok(())
}
