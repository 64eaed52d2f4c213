use std::fs;
use std::io;
use std::path::Path;

/// Larger files are data (traces), not text that somebody wrote.
const TEXT_BYTES_MAX: u64 = 512 << 10;

/// One text file.
#[derive(Clone, Debug)]
pub struct File {
    /// Path from the root of the repository, with `/` between its parts.
    pub path: String,
    /// Its contents; bytes that are not UTF-8 are replaced.
    pub text: String,
}

impl File {
    /// The lines with their numbers, the first being 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// The texts of a repository.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    files: Vec<File>,
}

impl Tree {
    /// Reads what lies below `root`, without build output, version control and links.
    ///
    /// # Errors
    /// When a folder or file cannot be read.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        tree.gather(root, "")?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    /// A tree of these paths and texts.
    #[must_use]
    pub fn of(files: &[(&str, &str)]) -> Self {
        let file = |(path, text): &(&str, &str)| File {
            path: (*path).to_owned(),
            text: (*text).to_owned(),
        };
        Self { files: files.iter().map(file).collect() }
    }

    /// All files in the order of their paths.
    #[must_use]
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// The file at this path.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Rust sources whose path begins so.
    pub fn rust(&self, prefix: &str) -> impl Iterator<Item = &File> {
        let prefix = prefix.to_owned();
        self.files.iter().filter(move |f| f.path.starts_with(&prefix) && f.path.ends_with(".rs"))
    }

    /// Names of the folders directly below `crates/`.
    #[must_use]
    pub fn crates(&self) -> Vec<String> {
        let name = |file: &File| {
            let path = file.path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")?;
            (!path.contains('/')).then(|| path.to_owned())
        };
        self.files.iter().filter_map(name).collect()
    }

    fn gather(&mut self, folder: &Path, prefix: &str) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == ".git" || name.starts_with("target") || is_fuzz_output(prefix, &name) {
                continue;
            }
            let (path, kind) = (format!("{prefix}{name}"), entry.file_type()?);
            if kind.is_dir() {
                self.gather(&entry.path(), &format!("{path}/"))?;
            } else if kind.is_file() && entry.metadata()?.len() <= TEXT_BYTES_MAX {
                let text = String::from_utf8_lossy(&fs::read(entry.path())?).into_owned();
                self.files.push(File { path, text });
            }
        }
        Ok(())
    }
}

fn is_fuzz_output(prefix: &str, name: &str) -> bool {
    prefix == "fuzz/" && (name == "corpus" || name == "artifacts")
}
