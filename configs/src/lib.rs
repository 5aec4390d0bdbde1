//! Systems as data: reads the TOML file that describes a system and verifies it before anything boots.
//!
//! [`load`] returns a [`Config`]: the checked description ([`image::system::System`]) with the machine
//! it is for and the guest files it needs, or every error found, each with its place, cause and remedy.
#![forbid(unsafe_code)]

pub mod guest_file;
pub mod kernel_memory;
pub mod machine;
pub mod size;

mod diagnostic;
mod raw;
mod verify;

pub use diagnostic::{Diagnostic, Diagnostics, Place};
pub use machine::{Architecture, Board, Gic, Machine};
pub use verify::{CONSOLE_PROGRAM, MONITOR_PROGRAM};

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use image::bundle::FileKind;
use image::system::System;

/// Names before a colon at the beginning of lines that are no part's of a system: the hypervisor's and the root task's.
pub const OWN_NAMES: [&str; 2] = ["bulkhead", "init"];

/// A verified system with what is needed to boot it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The description that the root task builds.
    pub system: System,
    /// The machine that it is made for.
    pub machine: Machine,
    /// The guest files that `system` names, each once.
    pub files: Vec<GuestFile>,
}

/// A file for a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFile {
    /// Its name in the bundle.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// Where it comes from.
    pub source: Source,
    /// What names it, for messages.
    pub place: Place,
}

/// Where a guest file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `"default"`: Debian's cloud kernel for the machine's architecture, or the initial RAM disk that the command makes.
    Default,
    /// A file of the user's.
    Path(PathBuf),
}

/// What replaces parts of the file for its first VM: the options of the same names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--kernel`.
    pub kernel: Option<PathBuf>,
    /// `--initrd`.
    pub initrd: Option<PathBuf>,
    /// `--cmdline`.
    pub cmdline: Option<String>,
}

/// The longest description, in bytes: what is longer is some other file.
const LONGEST: u64 = 1 << 20;

/// Reads and verifies the system in `path`. Paths in the file are relative to its folder.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Config, Diagnostics> {
    let read = || {
        let mut text = String::new();
        let file = File::open(path)?;
        file.take(LONGEST + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|e: std::io::Error| {
        let help = match e.kind() {
            std::io::ErrorKind::NotFound => "the systems that come with Bulkhead are in configs/",
            std::io::ErrorKind::InvalidData => "a system is described in TOML, as UTF-8 text",
            _ => "check the path and its permissions",
        };
        Diagnostic::new(Place::File(path.into()), format!("cannot be read: {e}"), help)
    })?;
    if text.len() as u64 > LONGEST {
        let message = format!("is longer than {}", size::show(LONGEST));
        let help = "a system is described in TOML; configs/linux.toml is an example";
        return Err(Diagnostic::new(Place::File(path.into()), message, help).into());
    }
    parse(path, &text, overrides)
}

/// Verifies the system described by `text`; `path` is where it came from.
pub fn parse(path: &Path, text: &str, overrides: &Overrides) -> Result<Config, Diagnostics> {
    let raw = raw::parse(path, text)?;
    verify::verify(path, text, raw, overrides)
}

#[cfg(test)]
mod tests;
