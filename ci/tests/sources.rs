//! Format and lints of all sources, for the host and for bare metal; and whether the kernel's can still be broken.

use std::process::Command;

use bulkhead::artifacts::{KERNEL, MEASURED_KERNEL, TRIAL, USER};
use bulkhead::toolchain::{Compiler, Toolchain, host_cargo};
use bulkhead::{apt, child, workspace};
use configs::Architecture;
use mutations::MUTATIONS;

fn run(what: &str, mut command: Command) {
    eprintln!("{what} ...");
    if let Err(error) = child::run(command.current_dir(workspace::root()), None) {
        panic!("{what}: {error:#}");
    }
}

/// Whether the host's cargo has this subcommand; installs Debian's where it is the cargo in use.
fn has(subcommand: &str, package: &str) -> bool {
    let works = || {
        let mut command = host_cargo().unwrap();
        child::run(command.args([subcommand, "--version"]), None).is_ok()
    };
    works() || (apt::install(&[package], subcommand).is_ok() && works())
}

#[test]
fn format() {
    if !has("fmt", "rustfmt-web") {
        eprintln!("skipped: there is no cargo fmt; add it with: rustup component add rustfmt");
        return;
    }
    let mut command = host_cargo().unwrap();
    command.args(["fmt", "--all", "--check"]);
    run("cargo fmt", command);
}

#[test]
fn lints_on_the_host() {
    if !has("clippy", "rust-web-clippy") {
        eprintln!("skipped: there is no cargo clippy; add it with: rustup component add clippy");
        return;
    }
    let mut command = host_cargo().unwrap();
    command.args(["clippy", "--locked", "--all-targets"]);
    // Beside the tests' own builds, which hold their folder's lock.
    command.env("CARGO_TARGET_DIR", workspace::output().join("clippy"));
    command.args(["--", "-D", "warnings"]);
    run("cargo clippy for the host", command);
}

fn lints_on_bare_metal(architecture: Architecture) {
    let toolchain = Toolchain::prepare(architecture).unwrap_or_else(|e| panic!("{e:#}"));
    if let Compiler::Debian { bin, .. } = &toolchain.compiler
        && !bin.join("cargo-clippy").exists()
    {
        apt::install(&["rust-web-clippy"], "clippy for bare metal")
            .unwrap_or_else(|e| panic!("{e:#}"));
    }
    for mode in [KERNEL, MEASURED_KERNEL, USER, TRIAL] {
        let mut command = mode.cargo(&toolchain, "clippy");
        command.args(["--locked", "--", "-D", "warnings"]);
        run(&format!("cargo clippy for bare metal: {}, {architecture}", mode.name), command);
    }
}

#[test]
fn lints_on_x86_64() {
    lints_on_bare_metal(Architecture::X86_64);
}

#[test]
fn lints_on_arm64() {
    lints_on_bare_metal(Architecture::Arm64);
}

/// They are tried by hand only (`cargo run -p mutate`).
#[test]
fn mutations_are_of_lines_that_are_there() {
    let kernel = workspace::root().join("hypervisor/src");
    for mutation in MUTATIONS {
        let text = std::fs::read_to_string(kernel.join(mutation.file)).unwrap();
        assert!(mutation.apply(&text).is_some(), "{}", mutation.name);
    }
}
