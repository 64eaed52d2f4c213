use std::env;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use slotmesh_node::ClusterSecret;

/// More is no secret but a mistaken file.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// The cluster secret from the file, or else from SLOTMESH_SECRET.
pub(crate) fn cluster_secret(file: Option<&Path>) -> Result<ClusterSecret, String> {
    let secret = match (file, variable("SLOTMESH_SECRET")?) {
        (Some(_), Some(_)) => {
            return Err("give the secret in SLOTMESH_SECRET or --secret-file, not both".to_owned());
        }
        (Some(file), None) => read(file)?,
        (None, Some(secret)) => secret.into_bytes(),
        (None, None) => {
            return Err("no cluster secret: set SLOTMESH_SECRET or --secret-file".to_owned());
        }
    };
    ClusterSecret::new(secret).map_err(|error| error.to_string())
}

/// A variable of the environment, if it is set to something.
///
/// # Errors
/// When it is no text, or has control characters, such as the end of a line: taken for unset, a door would stay open.
pub(crate) fn variable(name: &str) -> Result<Option<String>, String> {
    let Some(value) = env::var_os(name) else { return Ok(None) };
    match value.into_string() {
        Ok(value) if value.chars().any(char::is_control) => {
            Err(format!("{name} must not have control characters, such as the end of a line"))
        }
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(_) => Err(format!("{name} must be UTF-8")),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut secret = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut secret));
    read.map_err(|error| format!("cannot read the secret file {}: {error}", path.display()))?;
    if secret.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("the secret file {} is too large", path.display()));
    }
    while secret.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
        secret.pop();
    }
    Ok(secret)
}
