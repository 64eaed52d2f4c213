//! A typed cache in one process, with no network: `cargo run --example hello`.

use std::error::Error;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slotmesh::{Caches, Node};

#[derive(Debug, Serialize, Deserialize)]
struct User {
    name: String,
}

/// Stands for a database.
async fn find_user(id: u64) -> Result<Option<User>, std::io::Error> {
    println!("  looking for user {id} in the database");
    tokio::time::sleep(Duration::from_millis(50)).await;
    Ok((id < 100).then(|| User { name: format!("user number {id}") }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let node = Node::local(64 << 20);
    let users = node.cache::<u64, User>("users").ttl(Duration::from_secs(60)).build()?;

    for id in [7, 7, 500] {
        println!("user {id}: {:?}", users.get_or_load(&id, find_user).await?);
    }
    users.put(&7, User { name: "a new name".to_owned() }).await?;
    println!("after put: {:?}", users.get(&7).await?);
    users.invalidate(&7).await?;
    println!("after invalidate: {:?}", users.get(&7).await?);
    println!("{:#?}", users.stats());
    Ok(())
}
