//! The rules over the repository as it is.

use std::path::Path;

use slotmesh_tidy::{RULES, Tree};

#[test]
fn the_repository_is_tidy() {
    let root = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..");
    let tree = Tree::read(&root).unwrap();
    assert!(tree.crates().len() > 10, "the repository was not found at {}", root.display());
    let found: Vec<String> = RULES
        .iter()
        .flat_map(|(rule, check)| {
            check(&tree).into_iter().map(move |problem| format!("{rule}: {problem}"))
        })
        .collect();
    assert!(found.is_empty(), "{} problems:\n{}", found.len(), found.join("\n"));
}
