/// One dependency of a manifest, from whichever of its dependency sections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// Whether only tests, examples and benchmarks see it.
    pub(crate) for_tests: bool,
}

/// The dependencies named in a manifest: normal, for tests, for build scripts and for single targets. Reads the forms
/// that this repository uses: one dependency a line, or a section of its own.
pub(crate) fn dependencies(manifest: &str) -> Vec<Dependency> {
    let mut found = Vec::new();
    let (mut inside, mut for_tests) = (false, false);
    for (index, line) in manifest.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let number = index + 1;
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let section = section.trim_matches(['[', ']']);
            inside = section.ends_with("dependencies");
            for_tests = section.contains("dev-dependencies");
            if let Some((kind, name)) = section.rsplit_once('.')
                && kind.ends_with("dependencies")
            {
                found.push(Dependency { name: unquoted(name), line: number, for_tests });
            }
        } else if inside && let Some((key, value)) = line.split_once('=') {
            let key = key.trim().split('.').next().unwrap_or_default();
            let name = renamed(value).unwrap_or_else(|| unquoted(key));
            found.push(Dependency { name, line: number, for_tests });
        }
    }
    found
}

/// The values of `name = "…"` in the manifest's sections of this header.
pub(crate) fn names(manifest: &str, header: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == header;
        } else if inside
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == "name"
        {
            found.push(unquoted(value.trim()));
        }
    }
    found
}

/// The real name of a dependency that is used under another one.
fn renamed(value: &str) -> Option<String> {
    let (_, rest) = value.split_once("package")?;
    let rest = rest.trim_start().strip_prefix('=')?;
    rest.split('"').nth(1).map(str::to_owned)
}

fn unquoted(text: &str) -> String {
    text.trim_matches(['"', '\'']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_dependencies_of_all_sections_and_forms() {
        let manifest = "[package]\nname = \"a\"\n[dependencies]\nb = \"1\" # why\nc.workspace = true\n\
            d = { package = \"e\", version = \"1\" }\n[dev-dependencies.f]\nversion = \"1\"\n\
            [target.'cfg(unix)'.dependencies]\ng = { workspace = true }\n[lints]\nworkspace = true\n";
        let found = dependencies(manifest);
        let for_tests: Vec<&str> =
            found.iter().filter(|d| d.for_tests).map(|d| d.name.as_str()).collect();
        assert_eq!(for_tests, ["f"]);
        let names: Vec<String> = found.into_iter().map(|d| d.name).collect();
        assert_eq!(names, ["b", "c", "e", "f", "g"]);
    }

    #[test]
    fn finds_names_of_one_kind_of_section() {
        let manifest = "[[bench]]\nname = \"a\"\n[[bin]]\nname = \"b\"\n[[bench]]\nname = \"c\"\n";
        assert_eq!(names(manifest, "[[bench]]"), ["a", "c"]);
    }
}
