//! Where things are: sources and the folder for what is made from them.

use std::path::{Path, PathBuf};

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
