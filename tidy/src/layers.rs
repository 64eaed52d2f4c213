use crate::Tree;
use crate::manifest;

/// Layer of each crate. An arrow must lead to a lower one, so siblings never see each other.
const LAYERS: &[(&str, u8)] = &[
    ("slotmesh-arena", 0),
    ("slotmesh-slots", 0),
    ("slotmesh-store", 1),
    ("slotmesh-coherence", 1),
    ("slotmesh-gossip", 1),
    ("slotmesh-replication", 1),
    ("slotmesh-control", 1),
    ("slotmesh-core", 2),
    ("slotmesh-transport", 2),
    ("slotmesh-consensus", 2),
    ("slotmesh-node", 3),
    ("slotmesh-cache", 4),
    ("slotmesh-primitives", 4),
    ("slotmesh-resp", 4),
    ("slotmesh-admin", 4),
    ("slotmesh-redis", 5),
    ("slotmesh", 6),
    ("slotmesh-cli", 6),
    (SIMULATOR, 6),
];

/// Drives brains without network and consensus, so it may see nothing that has them; and nobody may see it but the tests of
/// the binary, which check what real processes answered with its history checker.
const SIMULATOR: &str = "slotmesh-sim";

/// What the simulator may see.
const SIMULATED: &[&str] = &[
    "slotmesh-slots",
    "slotmesh-store",
    "slotmesh-coherence",
    "slotmesh-gossip",
    "slotmesh-replication",
    "slotmesh-control",
    "slotmesh-core",
];

/// Crates without IO; time, randomness and messages are arguments.
const ENGINES: &[&str] = SIMULATED;

/// What would bring IO, clocks or threads into an engine.
const IO_CRATES: &[&str] =
    &["tokio", "quinn", "quinn-proto", "openraft", "async-std", "mio", "socket2"];

/// Libraries name their errors; only the binary may use these.
const UNTYPED_ERRORS: &[&str] = &["anyhow", "eyre", "color-eyre"];

const BINARY: &str = "slotmesh-cli";

/// A crate depends on one of its own layer or above.
pub(crate) fn arrows(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for from in tree.crates() {
        let Some(layer) = layer(&from) else {
            problems.push(format!(
                "crates/{from}: has no layer yet; give it one in tidy/src/layers.rs"
            ));
            continue;
        };
        for (path, dependency) in dependencies(tree, &from) {
            let to = dependency.name.as_str();
            let ours = to == "slotmesh" || to.starts_with("slotmesh-");
            let down = self::layer(to).is_some_and(|below| below < layer) && to != SIMULATOR;
            // The crate itself: with more features than it has by default.
            let checks =
                dependency.for_tests && (to == from || (from == BINARY && to == SIMULATOR));
            let simulated = from != SIMULATOR || SIMULATED.contains(&to);
            if ours && !checks && !(down && simulated) {
                let line = dependency.line;
                problems.push(format!(
                    "{path}:{line}: {from} must not depend on {to}: arrows point down"
                ));
            }
        }
    }
    problems
}

/// An engine depends on something that does IO.
pub(crate) fn engine_dependencies(tree: &Tree) -> Vec<String> {
    forbidden(
        tree,
        |from| ENGINES.contains(&from),
        IO_CRATES,
        "engines know no runtime and no socket",
    )
}

/// A library depends on a crate of untyped errors.
pub(crate) fn untyped_errors(tree: &Tree) -> Vec<String> {
    forbidden(tree, |from| from != BINARY, UNTYPED_ERRORS, "libraries have typed errors")
}

fn forbidden(
    tree: &Tree,
    concerns: impl Fn(&str) -> bool,
    names: &[&str],
    why: &str,
) -> Vec<String> {
    let mut problems = Vec::new();
    for from in tree.crates().iter().filter(|from| concerns(from)) {
        for (path, dependency) in dependencies(tree, from) {
            let (name, line) = (&dependency.name, dependency.line);
            if names.contains(&name.as_str()) {
                problems.push(format!("{path}:{line}: {from} must not depend on {name}: {why}"));
            }
        }
    }
    problems
}

fn dependencies(tree: &Tree, of: &str) -> Vec<(String, manifest::Dependency)> {
    let path = format!("crates/{of}/Cargo.toml");
    let text = tree.file(&path).map_or("", |file| file.text.as_str());
    manifest::dependencies(text).into_iter().map(|found| (path.clone(), found)).collect()
}

fn layer(name: &str) -> Option<u8> {
    LAYERS.iter().find(|(known, _)| *known == name).map(|(_, layer)| *layer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    #[test]
    fn arrows_down_are_fine_and_others_are_not() {
        let down = "[dependencies]\nslotmesh-slots = { workspace = true }\nbytes = \"1\"\n";
        check(arrows, &[("crates/slotmesh-store/Cargo.toml", down)], &[]);
        let up = "[dependencies]\nslotmesh-node = { workspace = true }\n";
        check(
            arrows,
            &[("crates/slotmesh-store/Cargo.toml", up)],
            &["must not depend on slotmesh-node"],
        );
        let sideways = "[dev-dependencies]\nslotmesh-gossip = { workspace = true }\n";
        check(arrows, &[("crates/slotmesh-store/Cargo.toml", sideways)], &["slotmesh-gossip"]);
        check(arrows, &[("crates/slotmesh-new/Cargo.toml", "")], &["has no layer"]);
        let outside = "[dependencies]\nslotmesh-benches = { path = \"../../benches\" }\n";
        check(arrows, &[("crates/slotmesh/Cargo.toml", outside)], &["slotmesh-benches"]);
    }

    #[test]
    fn the_simulator_sees_no_network_and_nobody_sees_it() {
        let seen = "[dependencies]\nslotmesh-sim = { workspace = true }\n";
        check(arrows, &[("crates/slotmesh/Cargo.toml", seen)], &["slotmesh-sim"]);
        check(arrows, &[("crates/slotmesh-cli/Cargo.toml", seen)], &["slotmesh-sim"]);
        let checks = "[dev-dependencies]\nslotmesh-sim = { workspace = true }\n";
        check(arrows, &[("crates/slotmesh-cli/Cargo.toml", checks)], &[]);
        check(arrows, &[("crates/slotmesh-node/Cargo.toml", checks)], &["slotmesh-sim"]);
        let sees = "[dependencies]\nslotmesh-transport = { workspace = true }\n";
        check(arrows, &[("crates/slotmesh-sim/Cargo.toml", sees)], &["slotmesh-transport"]);
    }

    #[test]
    fn an_engine_with_a_runtime_is_found_and_a_driver_is_not() {
        let tokio = "[dev-dependencies]\ntokio = { workspace = true }\n";
        check(engine_dependencies, &[("crates/slotmesh-core/Cargo.toml", tokio)], &["tokio"]);
        check(engine_dependencies, &[("crates/slotmesh-node/Cargo.toml", tokio)], &[]);
    }

    #[test]
    fn only_the_binary_may_have_untyped_errors() {
        let anyhow = "[dependencies]\nanyhow = \"1\"\n";
        check(untyped_errors, &[("crates/slotmesh-cache/Cargo.toml", anyhow)], &["anyhow"]);
        check(untyped_errors, &[("crates/slotmesh-cli/Cargo.toml", anyhow)], &[]);
    }
}
