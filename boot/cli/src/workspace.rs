//! Where things are: sources and the folder for what is made from them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The workspace's root. The command runs from its own checkout.
pub fn root() -> &'static Path {
    const MANIFEST: &str = env!("CARGO_MANIFEST_DIR");
    let manifest = Path::new(MANIFEST);
    manifest.ancestors().nth(2).unwrap_or(manifest)
}

/// The folder for everything that the command makes or downloads; below `target/`.
pub fn output() -> PathBuf {
    root().join("target").join("bulkhead")
}

/// A path of the user's: as given, or else below the workspace's root.
pub fn resolve(path: &Path) -> PathBuf {
    let below_root = root().join(path);
    if path.is_relative() && !path.exists() && below_root.exists() {
        below_root
    } else {
        path.into()
    }
}

/// Puts a finished folder to its place, where none was. If another run has put its own there meanwhile, that one stays: it is
/// as good, and may be in use.
pub fn put(folder: &Path, place: &Path) -> Result<()> {
    match std::fs::rename(folder, place) {
        Err(_) if place.is_dir() => Ok(()),
        other => other.with_context(|| format!("{} cannot be written", place.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_two_runs_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for folder in ["first", "second"] {
            std::fs::create_dir(path(folder)).unwrap();
            std::fs::write(path(folder).join("file"), folder).unwrap();
            put(&path(folder), &path("place")).unwrap();
        }
        let text = std::fs::read_to_string(path("place").join("file")).unwrap();
        assert_eq!(text, "first");
        assert!(put(&path("second"), &path("nowhere/place")).is_err());
    }
}
