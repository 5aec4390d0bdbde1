//! The compiler for bare metal: rustup's where it has the target or can get it, else Debian's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use configs::Architecture;

use crate::{apt, child, interrupt, progress, say, sysroot};

/// The target of everything that runs on a machine. Neither has vector registers: threads have none.
fn target(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86_64 => "x86_64-unknown-none",
        Architecture::Arm64 => "aarch64-unknown-none-softfloat",
    }
}

/// Oldest compiler that builds the workspace, as its `rust-version` says.
const OLDEST: (u32, u32) = (1, 90);

/// Set to `debian` to use Debian's compiler though rustup's would do: for tests.
pub const CHOICE: &str = "BULKHEAD_TOOLCHAIN";

/// A compiler for bare metal.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// What it builds for.
    pub architecture: Architecture,
    /// Whose it is.
    pub compiler: Compiler,
}

/// Where a compiler comes from.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// The one that built this command; it has the target.
    Own {
        /// The `cargo` to call.
        cargo: PathBuf,
    },
    /// Debian's, with a sysroot made here.
    Debian {
        /// Folder of `rustc` and `cargo`.
        bin: PathBuf,
        /// Holds core and alloc.
        sysroot: PathBuf,
    },
}

static PREPARED: Mutex<BTreeMap<Architecture, Toolchain>> = Mutex::new(BTreeMap::new());

impl Toolchain {
    /// Finds a compiler for an architecture; installs what is missing. Done once in a process.
    pub fn prepare(architecture: Architecture) -> Result<Toolchain> {
        let mut prepared = PREPARED.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(toolchain) = prepared.get(&architecture) {
            return Ok(toolchain.clone());
        }
        let toolchain = Toolchain { architecture, compiler: find(target(architecture))? };
        prepared.insert(architecture, toolchain.clone());
        Ok(toolchain)
    }

    /// Its target.
    pub fn target(&self) -> &'static str {
        target(self.architecture)
    }

    /// The compiler, with its version.
    pub fn version(&self) -> Result<String> {
        let rustc = match &self.compiler {
            Compiler::Own { cargo } => {
                beside(cargo).context("there is no rustc in the search path")?
            }
            Compiler::Debian { bin, .. } => bin.join("rustc"),
        };
        let version = child::run(Command::new(rustc).arg("--version"), None)?;
        Ok(version.trim().to_owned())
    }

    /// A cargo command for the target, `subcommand` first, with these compiler flags for target code. Its
    /// environment is that of the toolchain, not of the cargo that started this process.
    pub fn cargo(&self, subcommand: &str, flags: &[&str]) -> Command {
        let mut rustflags: Vec<String> = flags.iter().map(|f| f.to_string()).collect();
        let mut command = match &self.compiler {
            Compiler::Own { cargo } => {
                let mut command = Command::new(cargo);
                without_outer_settings(&mut command);
                command
            }
            Compiler::Debian { bin, sysroot } => {
                rustflags.push("-Clinker=ld.lld".into());
                rustflags.push(format!("--sysroot={}", sysroot.display()));
                clean_cargo(bin)
            }
        };
        let list: Vec<String> = rustflags.iter().map(|f| format!("{f:?}")).collect();
        let target = self.target();
        command.args([subcommand, "--target", target, "--config"]);
        // Appends to the user's flags; the RUSTFLAGS variable would replace them.
        command.arg(format!("target.{target}.rustflags=[{}]", list.join(",")));
        command
    }

    /// A short name, of which a build's folder is made: two compilers share no artefacts.
    pub fn name(&self) -> &'static str {
        match self.compiler {
            Compiler::Own { .. } => "own",
            Compiler::Debian { .. } => "debian",
        }
    }
}

/// `cargo` of the toolchain in `bin`, untouched by settings for another.
pub fn clean_cargo(bin: &Path) -> Command {
    let mut command = Command::new(bin.join("cargo"));
    without_outer_settings(&mut command);
    command.env_remove("RUSTUP_TOOLCHAIN").env("RUSTC", bin.join("rustc"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(bin.to_path_buf()).chain(std::env::split_paths(&path));
    if let Ok(path) = std::env::join_paths(dirs) {
        command.env("PATH", path);
    }
    command
}

/// Removes what an outer cargo or the user set for host builds.
fn without_outer_settings(command: &mut Command) {
    for variable in [
        "CARGO",
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_BOOTSTRAP",
        "CARGO_BUILD_TARGET",
    ] {
        command.env_remove(variable);
    }
    // Cargo tells a build script's children about the package; they must not leak into another build.
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("CARGO_PKG_") || variable == "CARGO_MANIFEST_DIR"
        {
            command.env_remove(variable);
        }
    }
}

fn find(target: &str) -> Result<Compiler> {
    let own = own_cargo();
    let forced = std::env::var(CHOICE).is_ok_and(|choice| choice == "debian");
    if let Some((cargo, rustc)) = &own
        && !forced
        && (has_target(rustc, target) || add_target(rustc, target)?)
    {
        return Ok(Compiler::Own { cargo: cargo.clone() });
    }
    debian(target)
}

/// The `cargo` and `rustc` in use. Under rustup these are its proxies, which follow RUSTUP_TOOLCHAIN.
fn own_cargo() -> Option<(PathBuf, PathBuf)> {
    let from_cargo = std::env::var_os("CARGO").map(PathBuf::from);
    let cargo = from_cargo.filter(|cargo| cargo.exists()).or_else(|| child::find("cargo"))?;
    let rustc = beside(&cargo)?;
    Some((cargo, rustc))
}

/// The compiler that `cargo` uses: a toolchain's programs lie beside each other.
fn beside(cargo: &Path) -> Option<PathBuf> {
    let rustc = cargo.with_file_name("rustc");
    match rustc.exists() {
        true => Some(rustc),
        false => child::find("rustc"),
    }
}

fn has_target(rustc: &Path, target: &str) -> bool {
    let dir = child::run(
        Command::new(rustc).args(["--print", "target-libdir", "--target", target]),
        None,
    );
    let Ok(dir) = dir else { return false };
    let Ok(mut files) = std::fs::read_dir(dir.trim()) else {
        return false;
    };
    files.any(|file| {
        file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

/// Asks rustup for the target. `false` if there is no rustup or it cannot get it.
fn add_target(rustc: &Path, target: &str) -> Result<bool> {
    let Some(rustup) = child::find("rustup") else {
        return Ok(false);
    };
    let what = format!("Adding the target {target} to the Rust toolchain");
    let step = progress::long_step(&what);
    let mut command = Command::new(rustup);
    command.args(["target", "add", target]);
    if let Err(error) = child::run(&mut command, Some((&step, &what))) {
        interrupt::check()?;
        drop(step);
        let text = error.to_string();
        let cause = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let cause = cause.trim();
        say::message(&format!(
            "bulkhead: rustup cannot add {target} ({cause}); using Debian's compiler"
        ));
        return Ok(false);
    }
    Ok(has_target(rustc, target))
}

/// Debian's packages for a compiler: those of a recent one first.
const DEBIAN: [[&str; 3]; 2] =
    [["rustc-web", "cargo-web", "rust-web-src"], ["rustc", "cargo", "rust-src"]];

fn debian(target: &str) -> Result<Compiler> {
    let bin = PathBuf::from("/usr/bin");
    if !debian_is_complete(&bin) {
        if !apt::exists() {
            bail!(
                "the Rust compiler lacks the target {target}; add it with `rustup target add {target}`, or install \
                 a Rust toolchain that has it"
            );
        }
        let recent = |set: &&[&str; 3]| apt::candidate(set[0]).is_some_and(|v| new_enough(&v));
        let set = match DEBIAN.iter().find(recent) {
            Some(set) => set,
            None => {
                // Old lists know old compilers only; what cannot be updated is reported when it is missing.
                let _ = apt::update();
                interrupt::check()?;
                DEBIAN.iter().find(recent).unwrap_or(&DEBIAN[0])
            }
        };
        let mut packages = set.to_vec();
        packages.push("lld");
        apt::install(&packages, "building for bare metal")?;
        if !debian_is_complete(&bin) {
            let (major, minor) = OLDEST;
            bail!(
                "Debian's compiler in /usr/bin is older than {major}.{minor} or incomplete, and rustup has no {target}; \
                 get it with `rustup target add {target}`"
            );
        }
    }
    let sysroot = sysroot::prepare(&bin, target)?;
    Ok(Compiler::Debian { bin, sysroot })
}

fn debian_is_complete(bin: &Path) -> bool {
    let version =
        child::run(Command::new(bin.join("rustc")).arg("--version"), None).unwrap_or_default();
    let library = child::run(Command::new(bin.join("rustc")).args(["--print", "sysroot"]), None)
        .map(|root| Path::new(root.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml"));
    version.split_whitespace().nth(1).is_some_and(new_enough)
        && library.is_ok_and(|file| file.exists())
        && bin.join("cargo").exists()
        && child::find("ld.lld").is_some()
}

/// Whether a version is at least [`OLDEST`].
fn new_enough(version: &str) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST,
        _ => false,
    }
}

/// The `cargo` to call for the host side: checks of the sources.
pub fn host_cargo() -> Result<Command> {
    let (cargo, _) = own_cargo().context("there is no cargo in the search path")?;
    let mut command = Command::new(cargo);
    without_outer_settings(&mut command);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert!(new_enough("1.96.0+dfsg1-1~deb12u2") && new_enough("1.90.0") && new_enough("2.0"));
        assert!(!new_enough("1.63.0+dfsg1-2") && !new_enough("") && !new_enough("one"));
    }
}
