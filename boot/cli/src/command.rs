//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use configs::{Diagnostics, Overrides};
use regex::Regex;

use crate::bench::{Peer, Unit};
use crate::interrupt::{self, Interrupted};
use crate::machine::Kind;
use crate::{bench, bundle, check, fuzz, run, say};

/// Builds, runs and checks systems on the Bulkhead microhypervisor.
///
/// Without a command: runs configs/linux.toml, an unmodified Linux with a shell on this terminal.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    // What each says of itself is the text of its help: a text here would take its place.
    Run(Run),
    Check(Check),
    Bench(Bench),
    Fuzz(Fuzz),
}

/// Boot a system in an emulator, with its console on this terminal; Ctrl-A x ends it
///
/// Ctrl-A a sends Ctrl-A. Where several VMs share the console, Ctrl-T n moves the keyboard to the next one. Without a terminal
/// as input, Ctrl-C ends it. Installs what is missing where it can: a bare-metal target, an emulator, a guest kernel.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 when the machine switches itself off, the user ends it, or REGEX appears; \
1 on a timeout or another failure; 2 when the hypervisor panics or the description is wrong; 130 on Ctrl-C."
)]
struct Run {
    /// Description of the system; without it configs/linux.toml, on qemu-arm64 configs/linux-arm64.toml
    config: Option<PathBuf>,
    /// Machine to boot on; without it qemu-x86 or qemu-arm64, as the system's architecture has it
    #[arg(long, value_enum, value_name = "M")]
    machine: Option<Kind>,
    #[command(flatten)]
    replace: Replace,
    /// For scripts: no input, no terminal
    #[arg(long)]
    headless: bool,
    /// End the machine this many seconds after its start, with status 1
    #[arg(long, value_name = "S", requires = "headless")]
    timeout: Option<u64>,
    /// End the machine with status 0 when REGEX appears on a line of any console. Where VMs share one, their lines begin
    /// with `[NAME] `
    #[arg(long, value_name = "REGEX", requires = "headless")]
    until: Option<Regex>,
    /// Keep everything printed in FILE, each line with the name of its console
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// What replaces parts of a description, for its first VM.
#[derive(Debug, Args)]
struct Replace {
    /// Kernel of the first VM: a 64-bit bzImage, or an arm64 Image
    #[arg(long, value_name = "F")]
    kernel: Option<PathBuf>,
    /// Initial RAM disk of the first VM
    #[arg(long, value_name = "F")]
    initrd: Option<PathBuf>,
    /// Kernel command line of the first VM
    #[arg(long, value_name = "S")]
    cmdline: Option<String>,
    /// Disk of the first VM; there is no block device yet, so this is refused
    #[arg(long, value_name = "F")]
    disk: Option<PathBuf>,
}

/// Verify the description of a system and the guest files it names; exit status 2 if something is wrong
#[derive(Debug, Args)]
struct Check {
    /// Description of the system
    config: PathBuf,
    #[command(flatten)]
    replace: Replace,
}

/// Measure system calls, IPC and VM exits, in instructions
///
/// On QEMU its instruction counter is the clock, on Bochs the clock counts instructions anyway.
#[derive(Debug, Args)]
#[command(
    after_help = "The figures are without measures against speculation, and beside them with those that the kernel takes \
unless it is told otherwise. The same sources, compiler and emulator give the same figures to the digit."
)]
struct Bench {
    /// Machine to measure on
    #[arg(long, value_enum, default_value_t = Kind::QemuX86, value_name = "M")]
    machine: Kind,
    /// Measure in cycles of this computer's processor: on qemu-x86, where KVM offers virtualisation to guests
    #[arg(long)]
    cycles: bool,
    /// Append the figures to FILE, one line of JSON per run
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with tables and charts to FILE; the runs in the file of --json are compared with
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Measure this too, on the same machine, and put it beside
    #[arg(long, value_enum, value_name = "PEER")]
    peer: Option<Peer>,
}

/// Attack the kernel with random system calls, hostile monitors and guests
///
/// Domains make random and nearly right system calls on all CPUs, monitors and guests do what they should not, and a root
/// task ends them and looks that everything has come back.
#[derive(Debug, Args)]
struct Fuzz {
    /// Machine to run on
    #[arg(long, value_enum, default_value_t = Kind::QemuX86, value_name = "M")]
    machine: Kind,
    /// Number of its CPUs
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    cpus: u32,
    /// What the calls of each thread follow from
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// System calls to make, at least
    #[arg(long, default_value_t = 10_000_000, value_name = "N")]
    calls: u64,
    /// Use a clock that counts instructions: a run on one CPU repeats exactly (QEMU only; on Arm without guests)
    #[arg(long)]
    icount: bool,
}

impl Replace {
    fn overrides(self) -> anyhow::Result<Overrides> {
        if self.disk.is_some() {
            anyhow::bail!(
                "--disk: Bulkhead has no block device yet; put the files into an initial RAM disk and give it with --initrd"
            );
        }
        Ok(Overrides { kernel: self.kernel, initrd: self.initrd, cmdline: self.cmdline })
    }
}

/// Runs the command line; everything it started has ended when it returns.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    interrupt::catch();
    let command = cli.command.unwrap_or_else(|| {
        let Cli { command } = Cli::parse_from(["bulkhead", "run"]);
        command.unwrap_or_else(|| unreachable!("`run` was given"))
    });
    let result = match command {
        Command::Run(run) => start(run),
        Command::Check(check) => verify(check),
        Command::Fuzz(arguments) => fuzz::run(&fuzz::Options {
            kind: arguments.machine,
            cpus: arguments.cpus,
            seed: arguments.seed,
            calls: arguments.calls,
            count_instructions: arguments.icount,
        })
        .map(|()| 0),
        Command::Bench(arguments) => bench::run(&bench::Options {
            kind: arguments.machine,
            unit: match arguments.cycles {
                true => Unit::Cycles,
                false => Unit::Instructions,
            },
            json: arguments.json,
            html: arguments.html,
            peer: arguments.peer,
        })
        .map(|()| 0),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => report(&error),
    }
}

fn start(run: Run) -> anyhow::Result<u8> {
    let options = run::Options {
        config: run.config.unwrap_or_else(|| {
            let kind = run.machine.unwrap_or(Kind::QemuX86);
            kind.default_config().into()
        }),
        machine: run.machine,
        overrides: run.replace.overrides()?,
        headless: run.headless,
        timeout: run.timeout.map(Duration::from_secs),
        until: run.until,
        log: run.log,
    };
    let outcome = run::run(&options)?;
    if let Some(message) = outcome.message() {
        say::message(&format!("bulkhead: {message}"));
    }
    Ok(outcome.status())
}

fn verify(arguments: Check) -> anyhow::Result<u8> {
    let config = check::load(&arguments.config, &arguments.replace.overrides()?)?;
    bundle::guest_files(&config)?;
    say::result(&format!("{}\n", check::summary(&config)))?;
    Ok(0)
}

/// Says what went wrong, and the exit status for it.
fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(|cause| cause.is::<Interrupted>()) {
        say::message(&format!("\rbulkhead: {Interrupted}"));
        return ExitCode::from(Interrupted::STATUS);
    }
    if let Some(diagnostics) = error.chain().find_map(|cause| cause.downcast_ref::<Diagnostics>()) {
        say::message(&diagnostics.to_string());
        return ExitCode::from(2);
    }
    say::message(&format!("bulkhead: {error:#}"));
    ExitCode::from(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["bulkhead"]).unwrap().command.is_none());
        assert!(Cli::try_parse_from(["bulkhead", "run", "--until", "x"]).is_err());
        assert!(Cli::try_parse_from(["bulkhead", "run", "--headless", "--until", "("]).is_err());
        let run = Cli::try_parse_from(["bulkhead", "run"]).unwrap().command;
        assert!(
            matches!(run, Some(Command::Run(run)) if run.config.is_none() && run.machine.is_none())
        );
    }
}
