//! The programs for the machine, built by cargo for bare metal.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::toolchain::{TARGET, Toolchain};
use crate::{child, progress, workspace};

/// Name of the root task's program.
pub const ROOT_TASK: &str = "init";

/// User programs: name in a system's description, and the package with a binary of that name.
pub const PROGRAMS: &[(&str, &str)] = &[
    ("init", "init"),
    ("monitor", "vmm"),
    ("console", "console"),
    (BENCHMARK, "bench"),
    (HOSTILE, "hostile"),
];

/// Name of the benchmark's program, which is a root task of its own.
pub const BENCHMARK: &str = "bench";
/// Name of the program with the hostile domains, which is a root task of its own.
pub const HOSTILE: &str = "hostile";

/// Where the built programs are.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// The kernel, an ELF file.
    pub kernel: PathBuf,
    programs: PathBuf,
}

/// A bare-metal build: the packages, and the compiler flags that distinguish it.
pub struct Mode {
    /// Name, of which its folder is made.
    pub name: &'static str,
    /// Flags of the compiler.
    pub flags: &'static [&'static str],
}

/// The kernel's build. It runs at the top of the address space, which the code model `kernel` can reach.
pub const KERNEL: Mode = Mode {
    name: "kernel",
    flags: &["-Crelocation-model=static", "-Ccode-model=kernel"],
};
/// The user programs' build.
pub const USER: Mode = Mode {
    name: "user",
    flags: &["-Crelocation-model=static"],
};

impl Mode {
    /// Names of the packages that are built in this mode.
    pub fn packages(&self) -> Vec<&'static str> {
        match self.name {
            "kernel" => vec!["hypervisor"],
            _ => PROGRAMS.iter().map(|(_, package)| *package).collect(),
        }
    }

    /// The folder for everything that cargo makes in this mode.
    pub fn target_dir(&self, toolchain: &Toolchain) -> PathBuf {
        workspace::output().join(format!("{}-{}", self.name, toolchain.name()))
    }

    /// A cargo command over the packages of this mode.
    pub fn cargo(&self, toolchain: &Toolchain, subcommand: &str) -> Command {
        let mut command = toolchain.cargo(subcommand, self.flags);
        command
            .current_dir(workspace::root())
            .env("CARGO_TARGET_DIR", self.target_dir(toolchain));
        command.args(["--release", "--features", "image"]);
        for package in self.packages() {
            command.args(["-p", package]);
        }
        command
    }

    fn build(&self, toolchain: &Toolchain, what: &str) -> Result<PathBuf> {
        let step = progress::step(what);
        let mut command = self.cargo(toolchain, "build");
        command.arg("--locked");
        child::run(&mut command, Some((&step, what))).with_context(|| format!("{what} failed"))?;
        Ok(self.target_dir(toolchain).join(TARGET).join("release"))
    }
}

impl Artifacts {
    /// Builds what is not up to date; cargo knows what that is.
    pub fn build() -> Result<Artifacts> {
        let toolchain = Toolchain::prepare()?;
        let kernel = KERNEL
            .build(&toolchain, "Building the hypervisor")?
            .join("hypervisor");
        let programs = USER.build(&toolchain, "Building the programs")?;
        Ok(Artifacts { kernel, programs })
    }

    /// The file of a user program.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        if !PROGRAMS.iter().any(|(program, _)| *program == name) {
            let known: Vec<&str> = PROGRAMS.iter().map(|(program, _)| *program).collect();
            bail!(
                "there is no program `{name}`; there are: {}",
                known.join(", ")
            );
        }
        Ok(self.programs.join(name))
    }
}
