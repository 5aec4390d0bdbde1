//! The programs for the machine, built by cargo for bare metal.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use configs::Architecture;

use crate::toolchain::Toolchain;
use crate::{bundle, child, progress, workspace};

/// Name of the root task's program.
pub const ROOT_TASK: &str = "init";

/// Programs of systems: name in a system's description, and the package with a binary of that name.
pub const PROGRAMS: &[(&str, &str)] =
    &[(ROOT_TASK, "init"), ("monitor", "vmm"), ("console", "console")];
/// Root tasks that measure and try the hypervisor, and what they run; no part of a system.
pub const TRIALS: &[(&str, &str)] = &[
    (BENCHMARK, "bench"),
    (BENCHMARK_GUEST, "bench-guest"),
    (HOSTILE, "hostile"),
    (REGISTERS, "registers"),
    (SAMPLES, "samples"),
    (SHARES, "shares"),
    (LINUX_HELLO, "linux-hello"),
    (PEER, "peer"),
];

/// Name of the benchmark's program.
pub const BENCHMARK: &str = "bench";
/// Name of the benchmark's guest.
pub const BENCHMARK_GUEST: &str = "bench-guest";
/// Name of the program with the hostile domains.
pub const HOSTILE: &str = "hostile";
/// Name of the program with the guests that fill their registers.
pub const REGISTERS: &str = "registers";
/// Name of the program that runs the examples.
pub const SAMPLES: &str = "samples";
/// Name of the program that measures shares of a CPU.
pub const SHARES: &str = "shares";
/// Name of the Linux program among the examples.
pub const LINUX_HELLO: &str = "linux-hello";
/// Name of the Linux program that measures KVM.
pub const PEER: &str = "peer";

/// Where the built programs are.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// What they run on.
    pub architecture: Architecture,
    /// The kernel, in the form that machines of its architecture boot.
    pub kernel: PathBuf,
    programs: PathBuf,
    built: &'static [(&'static str, &'static str)],
}

/// A bare-metal build: the packages, and the compiler flags that distinguish it.
pub struct Mode {
    /// Name, of which its folder is made.
    pub name: &'static str,
    /// Names and packages of what it builds.
    pub programs: &'static [(&'static str, &'static str)],
    /// Features of the packages.
    features: &'static str,
    /// It runs at the top of the address space.
    at_top: bool,
}

/// The kernel's build.
pub const KERNEL: Mode = Mode {
    name: "kernel",
    programs: &[("hypervisor", "hypervisor")],
    features: "image",
    at_top: true,
};
/// The build of the kernel that prints its longest stretches with interrupts off.
pub const MEASURED_KERNEL: Mode =
    Mode { name: "kernel-latency", features: "image,latency", ..KERNEL };
/// The build of systems' programs.
pub const USER: Mode = Mode { name: "user", programs: PROGRAMS, features: "image", at_top: false };
/// The build of the programs that are no part of a system, with the flags of those that are.
pub const TRIAL: Mode = Mode { name: "user", programs: TRIALS, features: "image", at_top: false };

/// The linker moves code that a Cortex-A53 can execute wrongly, by its place in a page (erratum 843419): asked to for the target with
/// hardware floating point by the compiler itself, but not for this one.
const FIX_CORTEX_A53: &str = "-Clink-arg=--fix-cortex-a53-843419";

impl Mode {
    /// Flags of the compiler.
    fn flags(&self, architecture: Architecture) -> &'static [&'static str] {
        match (self.at_top, architecture) {
            // The code model that can reach it. In the kernel little becomes part of its callers that does not say so, there
            // are few indirect jumps, and panics name files by their places in the kernel's sources.
            (true, Architecture::X86_64) => &[
                "-Crelocation-model=static",
                "-Ccode-model=kernel",
                "--remap-path-prefix=hypervisor/src=",
                "-Cllvm-args=-inline-threshold=40 -min-jump-table-entries=16",
            ],
            // Code that functions share (outlined) would cost two instructions more wherever it is on a hot path.
            (true, Architecture::Arm64) => &[
                "-Crelocation-model=static",
                FIX_CORTEX_A53,
                "--remap-path-prefix=hypervisor/src=",
                "-Cllvm-args=-inline-threshold=30 -enable-machine-outliner=never",
            ],
            (false, Architecture::X86_64) => &["-Crelocation-model=static"],
            (false, Architecture::Arm64) => &["-Crelocation-model=static", FIX_CORTEX_A53],
        }
    }

    /// Optimisation levels of packages that differ from the profile's: that of the kernel, which for the least size would
    /// take 20 instructions more for a call on x86, and those of others in it, none of which is on a hot path.
    fn levels(&self, architecture: Architecture) -> &'static [(&'static str, &'static str)] {
        match (self.at_top, architecture) {
            (true, Architecture::X86_64) => &[("bulkhead-abi", "z"), ("x86", "z")],
            (true, Architecture::Arm64) => &[("hypervisor", "z")],
            (false, _) => &[],
        }
    }

    /// The folder for everything that cargo makes in this mode.
    pub fn target_dir(&self, toolchain: &Toolchain) -> PathBuf {
        workspace::output().join(format!("{}-{}", self.name, toolchain.name()))
    }

    /// A cargo command over the packages of this mode.
    pub fn cargo(&self, toolchain: &Toolchain, subcommand: &str) -> Command {
        let mut command = toolchain.cargo(subcommand, self.flags(toolchain.architecture));
        command.current_dir(workspace::root()).env("CARGO_TARGET_DIR", self.target_dir(toolchain));
        command.args(["--release", "--features", self.features]);
        for (package, level) in self.levels(toolchain.architecture) {
            let level = format!("profile.release.package.{package}.opt-level='{level}'");
            command.args(["--config", &level]);
        }
        for (_, package) in self.programs {
            command.args(["-p", package]);
        }
        command
    }

    fn build(&self, toolchain: &Toolchain, what: &str) -> Result<PathBuf> {
        let step = progress::step(what);
        let mut command = self.cargo(toolchain, "build");
        command.arg("--locked");
        child::run(&mut command, Some((&step, what))).with_context(|| format!("{what} failed"))?;
        Ok(self.target_dir(toolchain).join(toolchain.target()).join("release"))
    }
}

impl Artifacts {
    /// Builds the kernel and the programs of systems, as far as they are not up to date; cargo knows what that is.
    pub fn build(architecture: Architecture) -> Result<Artifacts> {
        Artifacts::build_with(architecture, USER)
    }

    /// The same for the programs that are no part of a system.
    pub fn trials(architecture: Architecture) -> Result<Artifacts> {
        Artifacts::build_with(architecture, TRIAL)
    }

    fn build_with(architecture: Architecture, mode: Mode) -> Result<Artifacts> {
        let toolchain = Toolchain::prepare(architecture)?;
        let kernel = kernel(&toolchain, KERNEL)?;
        let programs =
            mode.build(&toolchain, &format!("Building the programs for {architecture}"))?;
        Ok(Artifacts { architecture, kernel, programs, built: mode.programs })
    }

    /// The kernel's ELF file, with symbols and lines. On Arm the boot image lies beside it.
    pub fn kernel_elf(&self) -> PathBuf {
        self.kernel.with_extension("")
    }

    /// The file of a user program.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        if !self.built.iter().any(|(program, _)| *program == name) {
            let known: Vec<&str> = self.built.iter().map(|(program, _)| *program).collect();
            bail!("there is no program `{name}`; there are: {}", known.join(", "));
        }
        Ok(self.programs.join(name))
    }
}

/// Builds the kernel of [`MEASURED_KERNEL`].
pub fn measured_kernel(architecture: Architecture) -> Result<PathBuf> {
    kernel(&Toolchain::prepare(architecture)?, MEASURED_KERNEL)
}

/// Builds a kernel, in the form that machines of its architecture boot.
fn kernel(toolchain: &Toolchain, mode: Mode) -> Result<PathBuf> {
    let architecture = toolchain.architecture;
    let what = format!("Building the hypervisor for {architecture}");
    let elf = mode.build(toolchain, &what)?.join("hypervisor");
    match architecture {
        Architecture::X86_64 => Ok(elf),
        Architecture::Arm64 => boot_image(&elf),
    }
}

/// The kernel's ELF file as a boot image, which lies beside it; written only when it changes.
fn boot_image(elf: &Path) -> Result<PathBuf> {
    let bytes = std::fs::read(elf).with_context(|| format!("{} cannot be read", elf.display()))?;
    let image = image::pack::arm64_image(&bytes)
        .with_context(|| format!("{} makes no boot image", elf.display()))?;
    let path = elf.with_extension("image");
    if std::fs::read(&path).is_ok_and(|old| old == image) {
        return Ok(path);
    }
    bundle::write(&path, &image)?;
    Ok(path)
}
