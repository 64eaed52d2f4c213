use crate::Tree;

/// More names than this are no façade.
const FACADE_NAMES_MAX: usize = 25;

const FACADE: &str = "crates/slotmesh/src/lib.rs";

const README: &str = "README.md";

const README_LINES_MAX: usize = 200;

/// The first code of the README begins before this line.
const README_CODE_BEFORE: usize = 30;

/// Paths of somebody's machine, and hosts that stand in for the public registry.
const FOREIGN_WORDS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("../sha", "red/"),
    concat!("bash_", "jobs"),
    concat!("arti", "factory"),
    concat!("replace", "-with"),
];

const LOCK: &str = "Cargo.lock";

/// How the lock file names the public registry.
const REGISTRY: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";

/// The façade exports too many names.
pub(crate) fn facade_names(tree: &Tree) -> Vec<String> {
    let Some(file) = tree.file(FACADE) else { return vec![format!("{FACADE}: missing")] };
    let names: usize = exports(&file.text).iter().map(|export| count_names(export)).sum();
    let globs = exports(&file.text).iter().any(|export| export.contains('*'));
    let mut problems = Vec::new();
    if names > FACADE_NAMES_MAX {
        problems.push(format!("{FACADE}: exports {names} names, at most {FACADE_NAMES_MAX}"));
    }
    if globs {
        problems.push(format!("{FACADE}: exports a glob; name what is exported"));
    }
    problems
}

/// The README is too long, or begins with prose.
pub(crate) fn readme(tree: &Tree) -> Vec<String> {
    let Some(file) = tree.file(README) else { return vec![format!("{README}: missing")] };
    let mut problems = Vec::new();
    let lines = file.lines().count();
    if lines > README_LINES_MAX {
        problems.push(format!("{README}: {lines} lines, at most {README_LINES_MAX}"));
    }
    let code = file.lines().find(|(_, line)| line.starts_with("```rust"));
    if code.is_none_or(|(line, _)| line >= README_CODE_BEFORE) {
        problems
            .push(format!("{README}: runnable code has to begin before line {README_CODE_BEFORE}"));
    }
    problems
}

/// A path of somebody's machine or the name of a private registry.
pub(crate) fn foreign_words(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for file in tree.files() {
        for (number, line) in file.lines() {
            if let Some(word) = FOREIGN_WORDS.iter().find(|word| line.contains(**word)) {
                problems.push(format!("{}:{number}: `{word}` belongs to a machine", file.path));
            }
        }
    }
    problems
}

/// A dependency comes from elsewhere than the public registry.
pub(crate) fn registries(tree: &Tree) -> Vec<String> {
    let Some(lock) = tree.file(LOCK) else { return vec![format!("{LOCK}: missing")] };
    let foreign = |line: &str| line.starts_with("source = ") && line != REGISTRY;
    let lines = lock.lines().filter(|(_, line)| foreign(line));
    lines
        .map(|(number, line)| format!("{LOCK}:{number}: {line}: not the public registry"))
        .collect()
}

/// The `pub use` items of a source, each without its keyword and semicolon.
fn exports(source: &str) -> Vec<String> {
    let production = source.split("#[cfg(test)]").next().unwrap_or_default();
    let code: Vec<&str> =
        production.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join(" ");
    let items = code.split("pub use ").skip(1);
    items.filter_map(|item| item.split(';').next()).map(str::to_owned).collect()
}

/// Names at the ends of a use tree.
fn count_names(tree: &str) -> usize {
    let ends = tree.split([',', '{', '}']).map(str::trim);
    ends.filter(|end| !end.is_empty() && !end.ends_with("::")).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    #[test]
    fn the_facade_has_at_most_25_names() {
        let names = |count| (0..count).map(|n| format!("N{n}")).collect::<Vec<_>>().join(", ");
        let source =
            |count| format!("pub use a::{{{}, b::{{C, D}}}};\npub use e::F;\n", names(count));
        check(facade_names, &[(FACADE, &source(22))], &[]);
        check(facade_names, &[(FACADE, &source(23))], &["26 names"]);
        check(facade_names, &[(FACADE, "pub use a::*;")], &["glob"]);
        check(facade_names, &[], &["missing"]);
    }

    #[test]
    fn the_readme_is_short_and_begins_with_code() {
        let text = |before, after| {
            format!("{}```rust\n```\n{}", "line\n".repeat(before), "line\n".repeat(after))
        };
        check(readme, &[(README, &text(28, 170))], &[]);
        check(readme, &[(README, &text(29, 0))], &["before line 30"]);
        check(readme, &[(README, &text(0, 199))], &["201 lines"]);
        check(readme, &[(README, "no code\n")], &["before line 30"]);
    }

    #[test]
    fn words_of_a_machine_are_found() {
        for word in FOREIGN_WORDS {
            check(foreign_words, &[("any/file", &format!("a\nb {word} c\n"))], &["any/file:2"]);
        }
        check(foreign_words, &[("any/file", "src/worker/root.rs\n")], &[]);
    }

    #[test]
    fn a_dependency_from_elsewhere_is_found() {
        check(registries, &[(LOCK, REGISTRY)], &[]);
        check(registries, &[(LOCK, "source = \"git+https://example.org/a\"")], &["example.org"]);
    }
}
