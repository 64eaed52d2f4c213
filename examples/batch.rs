//! Many keys in one query of a database: `cargo run --example batch`.
//!
//! A page shows twenty books. What no node has yet is asked for with one query, however many callers want overlapping pages at the
//! time; a book that does not exist is remembered as such.

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, params_from_iter};
use slotmesh::{Cache, Caches, Node};
use tokio::task::{JoinSet, spawn_blocking};

const BOOKS: u32 = 90;

/// SQLite in memory, and how often it was asked.
struct Library {
    connection: Mutex<Connection>,
    queries: AtomicUsize,
}

impl Library {
    fn new() -> rusqlite::Result<Self> {
        let connection = Connection::open_in_memory()?;
        connection.execute("CREATE TABLE books (id INTEGER PRIMARY KEY, title TEXT)", ())?;
        for id in 0..BOOKS {
            let title = format!("The {id} Lives of a Cache");
            connection.execute("INSERT INTO books VALUES (?, ?)", (id, title))?;
        }
        Ok(Self { connection: Mutex::new(connection), queries: AtomicUsize::new(0) })
    }

    fn find(&self, ids: &[u32]) -> rusqlite::Result<HashMap<u32, String>> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        let marks = vec!["?"; ids.len()].join(",");
        let query = format!("SELECT id, title FROM books WHERE id IN ({marks})");
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement = connection.prepare(&query)?;
        let rows = statement.query_map(params_from_iter(ids), |row| Ok((row.get(0)?, row.get(1)?)));
        rows?.collect()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let node = Node::local(64 << 20);
    let library = Arc::new(Library::new()?);
    let asked = Arc::clone(&library);
    let books: Cache<u32, String> = node
        .cache("books")
        .ttl(Duration::from_secs(300))
        .negative_ttl(Duration::from_secs(10))
        .loader_many(move |ids: Vec<u32>| {
            let library = Arc::clone(&asked);
            // A query blocks its thread, so it gets one of its own.
            async move {
                spawn_blocking(move || library.find(&ids)).await.map_err(to_io)?.map_err(to_io)
            }
        })
        .build()?;

    // Ten readers turn to overlapping pages at the same moment.
    let mut readers = JoinSet::new();
    for reader in 0..10 {
        let books = books.clone();
        readers.spawn(async move {
            let page: Vec<u32> = (reader * 10..reader * 10 + 20).collect();
            books
                .load_many(&page)
                .await
                .into_iter()
                .filter(|book| matches!(book, Ok(Some(_))))
                .count()
        });
    }
    let seen: usize = readers.join_all().await.into_iter().sum();
    let queries = library.queries.load(Ordering::Relaxed);
    println!("ten readers saw {seen} books by {queries} queries");

    for outcome in books.load_many(&[3, BOOKS + 5]).await {
        println!("  {:?}", outcome?);
    }
    let queries = library.queries.load(Ordering::Relaxed) - queries;
    println!("{queries} queries for one that was there and one that does not exist");
    Ok(())
}

fn to_io(error: impl Error + Send + Sync + 'static) -> std::io::Error {
    std::io::Error::other(error)
}
