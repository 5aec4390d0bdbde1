//! A sysroot with core and alloc for a bare-metal target, built from Debian's library sources.
//!
//! It is built once for each compiler and kept; the builds that use it need no unstable feature.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{child, progress, workspace};

/// Name of the finished sysroot's stamp.
const CRATES: [&str; 3] = ["core", "alloc", "compiler_builtins"];

/// The sysroot for `target` with the compiler in `bin`; built if it is not there yet.
pub fn prepare(bin: &Path, target: &str) -> Result<PathBuf> {
    let version = child::run(Command::new(bin.join("rustc")).arg("-vV"), None)?;
    let field = |name: &str| {
        let value = version.lines().find_map(|line| line.strip_prefix(name));
        value
            .unwrap_or("unknown")
            .trim()
            .replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-")
    };
    let commit = field("commit-hash:");
    let key = format!("{}-{}", field("release:"), &commit[..commit.len().min(12)]);
    let root = workspace::output().join(format!("sysroot-{key}"));
    let library = root.join("lib/rustlib").join(target).join("lib");
    if library.exists() {
        return Ok(root);
    }
    let what = "Building core and alloc for bare metal (once)";
    let step = progress::long_step(what);
    std::fs::create_dir_all(workspace::output())?;
    let dir = tempfile::Builder::new().prefix("sysroot-build-").tempdir_in(workspace::output())?;
    let path = dir.path();
    std::fs::create_dir(path.join("src"))?;
    std::fs::write(path.join("src/lib.rs"), "#![no_std]\n")?;
    // A workspace of its own, or cargo would look for it in the one around it.
    std::fs::write(
        path.join("Cargo.toml"),
        "[workspace]\n[package]\nname = \"sysroot\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\
         [profile.release]\npanic = \"abort\"\n",
    )?;
    let mut cargo = crate::toolchain::clean_cargo(bin);
    cargo
        .current_dir(path)
        .env("CARGO_TARGET_DIR", path.join("target"))
        // Debian's compiler is a stable one; building its own library is what this is for.
        .env("RUSTC_BOOTSTRAP", "1")
        // Link-time optimisation of the kernel and the programs goes through the library too.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Cembed-bitcode=yes")
        .args([
            "build",
            "--release",
            "--target",
            target,
            "-Zbuild-std=core,alloc,compiler_builtins",
        ])
        .arg("-Zbuild-std-features=compiler-builtins-mem");
    child::run(&mut cargo, Some((&step, what)))
        .context("core and alloc cannot be built from rust-src")?;
    let staged = path.join("lib");
    std::fs::create_dir(&staged)?;
    let built = path.join("target").join(target).join("release/deps");
    for entry in std::fs::read_dir(&built)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let wanted = CRATES.iter().any(|c| name.starts_with(&format!("lib{c}-")));
        if wanted && (name.ends_with(".rlib") || name.ends_with(".rmeta")) {
            std::fs::copy(entry.path(), staged.join(name))?;
        }
    }
    // Renamed when whole, so that an interruption leaves nothing that looks complete.
    std::fs::create_dir_all(library.parent().context("a sysroot has folders")?)?;
    workspace::put(&staged, &library)?;
    Ok(root)
}
