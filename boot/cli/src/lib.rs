//! The `bulkhead` command as a library: sets the developer's machine up, builds the image, boots it in an
//! emulator and talks to its console.
//!
//! [`command`] is the command line; tests use [`artifacts::Artifacts`], [`bundle`] and
//! [`machine::Running`] without it.
#![forbid(unsafe_code)]
// They end the program when nobody reads: see `say`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod apt;
pub mod artifacts;
pub mod bench;
pub mod bundle;
pub mod check;
pub mod child;
pub mod command;
pub mod dialogue;
pub mod fuzz;
pub mod guest;
pub mod initramfs;
pub mod interrupt;
pub mod log;
pub mod machine;
pub mod peer;
pub mod progress;
pub mod run;
pub mod say;
pub mod screen;
pub mod sysroot;
pub mod terminal;
pub mod toolchain;
pub mod trial;
pub mod watch;
pub mod workspace;
