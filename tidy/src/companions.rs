use crate::Tree;
use crate::manifest;

/// Crates without a benchmark of their own, and why.
const NO_BENCH: &[(&str, &str)] = &[
    ("slotmesh", "re-exports only"),
    ("slotmesh-admin", "answers a probe now and then"),
    ("slotmesh-cli", "starts the others"),
    ("slotmesh-control", "rare commands; the consensus benchmark commits them"),
    ("slotmesh-core", "its data plane answers every call of the cache and resp benchmarks"),
    ("slotmesh-primitives", "not built yet"),
    ("slotmesh-sim", "is a test"),
];

/// Crates without a fuzz target of their own, and why.
const NO_FUZZ: &[(&str, &str)] = &[
    ("slotmesh", "re-exports only"),
    ("slotmesh-admin", "its parser is the one of the HTTP library"),
    ("slotmesh-cli", "takes no bytes from a network"),
    ("slotmesh-control", "takes typed commands; the consensus target feeds its log"),
    ("slotmesh-node", "hands bytes on to the decoders of the crates below"),
    ("slotmesh-primitives", "not built yet"),
    ("slotmesh-sim", "is a test"),
    ("slotmesh-slots", "its codec is under the replication target"),
];

/// A crate has neither a benchmark nor a reason, or both.
pub(crate) fn benches(tree: &Tree) -> Vec<String> {
    let named = names(tree, "benches/Cargo.toml", "[[bench]]");
    companions(tree, &named, NO_BENCH, "benchmark")
}

/// A crate has neither a fuzz target nor a reason, or both.
pub(crate) fn fuzz_targets(tree: &Tree) -> Vec<String> {
    let named = names(tree, "fuzz/Cargo.toml", "[[bin]]");
    companions(tree, &named, NO_FUZZ, "fuzz target")
}

/// A companion belongs to the crate whose short name it has, or begins with before an underscore.
fn companions(tree: &Tree, named: &[String], excused: &[(&str, &str)], what: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for name in tree.crates() {
        let short = name.strip_prefix("slotmesh-").unwrap_or("facade");
        let mine = |found: &String| found.split('_').next() == Some(short);
        let reason = excused.iter().find(|(known, _)| *known == name);
        match (named.iter().find(|found| mine(found)), reason) {
            (None, None) => problems.push(format!(
                "crates/{name}: has no {what} `{short}`; write one, or give the reason in tidy/src/companions.rs"
            )),
            (Some(found), Some(_)) => {
                problems.push(format!("crates/{name}: has the {what} `{found}`; delete its excuse"));
            }
            _ => {}
        }
    }
    problems
}

fn names(tree: &Tree, path: &str, header: &str) -> Vec<String> {
    manifest::names(tree.file(path).map_or("", |file| file.text.as_str()), header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    const STORE: (&str, &str) = ("crates/slotmesh-store/Cargo.toml", "");
    const CLI: (&str, &str) = ("crates/slotmesh-cli/Cargo.toml", "");

    #[test]
    fn a_crate_needs_a_benchmark_or_a_reason() {
        let benches_of = |name| format!("[[bench]]\nname = \"{name}\"\n");
        check(benches, &[STORE, CLI, ("benches/Cargo.toml", &benches_of("store"))], &[]);
        check(benches, &[STORE], &["no benchmark `store`"]);
        check(benches, &[CLI, ("benches/Cargo.toml", &benches_of("cli"))], &["delete its excuse"]);
    }

    #[test]
    fn a_crate_needs_a_fuzz_target_or_a_reason() {
        let fuzz = "[[bin]]\nname = \"store_ops\"\n[[bin]]\nname = \"storefront_ops\"\n";
        check(fuzz_targets, &[STORE, ("fuzz/Cargo.toml", fuzz)], &[]);
        check(fuzz_targets, &[STORE], &["no fuzz target `store`"]);
    }
}
