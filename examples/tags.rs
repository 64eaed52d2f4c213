//! Values that are removed together: `cargo run --example tags`.
//!
//! Pages are rendered of posts, and tagged with their authors. When an author changes the name, every page that shows it goes at once,
//! on all nodes, whatever its key: also one that is being rendered at the moment.

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use slotmesh::{Cache, Caches, Node};

#[derive(serde::Serialize, serde::Deserialize)]
struct Page {
    authors: Vec<String>,
    html: String,
}

/// Stands for something that takes long.
async fn render(number: u64) -> Result<Option<Page>, Infallible> {
    println!("  rendering page {number}");
    let authors = match number % 3 {
        0 => vec!["ada".to_owned()],
        1 => vec!["bob".to_owned()],
        _ => vec!["ada".to_owned(), "bob".to_owned()],
    };
    let html = format!("<h1>Page {number} by {}</h1>", authors.join(" and "));
    Ok(Some(Page { authors, html }))
}

async fn show(pages: &Cache<u64, Page>) -> Result<(), Box<dyn Error>> {
    for number in 0..3 {
        let page = pages.get_or_load(&number, render).await?;
        println!("{}", page.map_or_else(String::new, |page| page.html.clone()));
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let node = Node::local(64 << 20);
    let pages = node
        .cache::<u64, Page>("pages")
        .ttl(Duration::from_secs(3_600))
        .tags(|page| page.authors.clone())
        .build()?;

    show(&pages).await?;
    println!("all of them are there:");
    show(&pages).await?;
    pages.invalidate_tag("bob").await?;
    println!("bob has another name:");
    show(&pages).await?;
    pages.clear().await?;
    println!("all were removed, however many there are, in one step:");
    show(&pages).await
}
