//! What tests run on: a kind of machine with the systems that come for it.

use std::fmt;

use anyhow::{Context, Result, ensure};
use bulkhead::dialogue::Dialogue;
use bulkhead::machine::{Image, Kind, Settings};
use bulkhead::trial::{self, Extra};
use configs::{Architecture, Board, Config, Gic, Machine, Overrides};

use crate::{seconds, with_machine};

/// A machine to test on.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What boots it.
    pub kind: Kind,
    /// Its board.
    pub board: Board,
    /// Number of its CPUs.
    pub cpus: u32,
}

impl Target {
    /// A PC on QEMU.
    pub const fn x86(cpus: u32) -> Target {
        Target { kind: Kind::QemuX86, board: Board::Pc, cpus }
    }

    /// A PC on Bochs.
    pub const fn bochs(cpus: u32) -> Target {
        Target { kind: Kind::Bochs, ..Target::x86(cpus) }
    }

    /// QEMU's `virt` with CPUs of one of the models that descriptions can name.
    pub const fn arm64(cpu: &'static str, gic: Gic, cpus: u32) -> Target {
        Target { kind: Kind::QemuArm64, board: Board::Virt { cpu, gic }, cpus }
    }

    /// Its instruction set.
    pub fn architecture(self) -> Architecture {
        self.kind.architecture()
    }

    /// The machine with this much RAM.
    pub fn machine(self, memory: u64) -> Machine {
        Machine { board: self.board, memory, cpus: self.cpus }
    }

    /// How `uname -m` names its instruction set.
    pub fn uname(self) -> &'static str {
        match self.architecture() {
            Architecture::X86_64 => "x86_64",
            Architecture::Arm64 => "aarch64",
        }
    }

    /// How long a guest may take to its shell: many times what it takes on an idle machine.
    pub fn boot(self) -> std::time::Duration {
        match self.kind {
            Kind::Bochs => seconds(600),
            Kind::QemuX86 | Kind::QemuArm64 => seconds(240),
        }
    }

    /// The system with one Linux, as if it stood in configs/`name`.toml, changed by replacing text. Guests have a vCPU on
    /// each CPU, where that does not replace their vCPUs.
    pub fn linux(self, name: &str, changes: &[(&str, &str)]) -> Result<Config> {
        self.system(name, "linux", changes)
    }

    /// The system with two of them.
    pub fn two_linux(self, name: &str, changes: &[(&str, &str)]) -> Result<Config> {
        self.system(name, "two-linux", changes)
    }

    fn system(self, name: &str, base: &str, changes: &[(&str, &str)]) -> Result<Config> {
        let configs = bulkhead::workspace::root().join("configs");
        let suffix = match self.architecture() {
            Architecture::X86_64 => "",
            Architecture::Arm64 => "-arm64",
        };
        let file = format!("{base}{suffix}.toml");
        let mut text = std::fs::read_to_string(configs.join(&file))?;
        for (from, to) in changes {
            ensure!(text.contains(from), "configs/{file} does not contain {from:?}");
            text = text.replace(from, to);
        }
        let vcpus: Vec<u32> = (0..self.cpus).collect();
        text = text
            .replace("vcpus = [0]", &format!("vcpus = {vcpus:?}"))
            .replace("cpus = 1\n", &format!("cpus = {}\n", self.cpus));
        if let Board::Virt { cpu, gic } = self.board {
            text = text
                .replace("cpu = \"max\"", &format!("cpu = {cpu:?}"))
                .replace("gic = 3", &format!("gic = {}", gic.number()));
        }
        let path = configs.join(format!("{name}.toml"));
        let config = configs::parse(&path, &text, &Overrides::default())
            .context("the test's system is wrong")?;
        ensure!(
            config.machine == self.machine(config.machine.memory),
            "configs/{file} is not for {self}"
        );
        Ok(config)
    }

    /// The boot image of a system.
    pub fn image(self, config: &Config) -> Image {
        let name = &config.system.name;
        bulkhead::run::image(config).unwrap_or_else(|error| panic!("{name} on {self}: {error:#}"))
    }

    /// Boots a system and talks to it.
    pub fn boots(self, config: &Config, talk: impl FnOnce(&mut Dialogue) -> Result<()>) {
        let name = config.system.name.as_str();
        let settings = Settings::new(config.machine);
        with_machine(name, self, &self.image(config), &settings, talk);
    }

    /// Boots a program that is a root task of its own, with `extras` for it, and talks to it.
    pub fn tries(
        self,
        program: &str,
        extras: &[Extra<'_>],
        talk: impl FnOnce(&mut Dialogue) -> Result<()>,
    ) {
        self.tries_with(program, extras, "", false, talk);
    }

    /// As [`Target::tries`], with options for the hypervisor, and with a clock that counts instructions if
    /// `count_instructions`.
    pub fn tries_with(
        self,
        program: &str,
        extras: &[Extra<'_>],
        options: &str,
        count_instructions: bool,
        talk: impl FnOnce(&mut Dialogue) -> Result<()>,
    ) {
        let mut image = trial::image(self.architecture(), program, extras)
            .unwrap_or_else(|error| panic!("{program} on {self}: {error:#}"));
        image.options = options.into();
        let settings =
            Settings { count_instructions, ..Settings::new(self.machine(trial::MEMORY)) };
        with_machine(program, self, &image, &settings, talk);
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} CPUs", self.kind, self.cpus)?;
        if let Board::Virt { cpu, gic } = self.board {
            write!(f, " ({cpu}, GICv{})", gic.number())?;
        }
        Ok(())
    }
}
