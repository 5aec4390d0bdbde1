//! The machine that a system is made for.

use std::fmt;

/// Instruction set of a machine, and of all that runs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm.
    Arm64,
}

impl Architecture {
    /// All there are.
    pub const ALL: [Architecture; 2] = [Architecture::X86_64, Architecture::Arm64];
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Architecture::X86_64 => "x86-64",
            Architecture::Arm64 => "arm64",
        })
    }
}

/// Version of an Arm interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    /// GICv2, for at most eight CPUs.
    V2,
    /// GICv3.
    V3,
}

impl Gic {
    /// The version's number.
    pub fn number(self) -> u32 {
        match self {
            Gic::V2 => 2,
            Gic::V3 => 3,
        }
    }

    /// Most CPUs that it can interrupt.
    pub fn max_cpus(self) -> u32 {
        match self {
            Gic::V2 => 8,
            Gic::V3 => Machine::MAX_CPUS,
        }
    }
}

/// What a machine is besides RAM and the number of its CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Board {
    /// A PC as the emulators make it.
    Pc,
    /// QEMU's `virt`.
    Virt {
        /// Model of its CPUs: one of [`Board::ARM_CPUS`].
        cpu: &'static str,
        /// Its interrupt controller.
        gic: Gic,
    },
}

impl Board {
    /// CPUs that `virt` can have: `max` has all that is emulated, the others are what real ones are.
    pub const ARM_CPUS: [&str; 5] = ["max", "cortex-a53", "cortex-a57", "cortex-a72", "cortex-a76"];

    /// The usual machine of an architecture.
    pub const fn usual(architecture: Architecture) -> Board {
        match architecture {
            Architecture::X86_64 => Board::Pc,
            Architecture::Arm64 => Board::Virt { cpu: Board::ARM_CPUS[0], gic: Gic::V3 },
        }
    }
}

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// What it is.
    pub board: Board,
    /// RAM in bytes.
    pub memory: u64,
    /// Number of CPUs.
    pub cpus: u32,
}

impl Machine {
    /// RAM that is no system's to give: firmware, hypervisor with its kernel memory, root task and
    /// the bundle with a guest kernel and an initial RAM disk of usual size.
    pub const RESERVE: u64 = 96 << 20;

    /// Least RAM of a machine.
    pub const MIN_MEMORY: u64 = 128 << 20;
    /// Most RAM of a machine.
    pub const MAX_MEMORY: u64 = 1 << 40;
    /// Most CPUs of a machine.
    pub const MAX_CPUS: u32 = 64;

    /// The usual machine of an architecture.
    pub const fn usual(architecture: Architecture, memory: u64, cpus: u32) -> Machine {
        Machine { board: Board::usual(architecture), memory, cpus }
    }

    /// Its instruction set.
    pub fn architecture(&self) -> Architecture {
        match self.board {
            Board::Pc => Architecture::X86_64,
            Board::Virt { .. } => Architecture::Arm64,
        }
    }

    /// Where RAM lies, as start and end.
    pub fn ram(&self) -> Vec<(u64, u64)> {
        match self.board {
            Board::Pc => self.ram_of_a_pc(),
            Board::Virt { .. } => vec![(1 << 30, (1 << 30) + self.memory)],
        }
    }

    /// A PC has a gap for devices below 4 GiB.
    fn ram_of_a_pc(&self) -> Vec<(u64, u64)> {
        // As QEMU's q35: with more than 2.75 GiB, all above 2 GiB goes beyond the gap.
        let low = if self.memory > 0xb000_0000 { 0x8000_0000 } else { self.memory };
        let mut ranges = vec![(0, low)];
        if self.memory > low {
            ranges.push((4 << 30, (4 << 30) + self.memory - low));
        }
        ranges
    }

    /// Whether all of `start..end` is RAM.
    pub fn has_ram(&self, start: u64, end: u64) -> bool {
        self.ram().iter().any(|(from, to)| *from <= start && end <= *to)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} CPU", self.architecture(), self.cpus)?;
        if let Board::Virt { cpu, gic } = self.board {
            write!(f, " ({cpu}, GICv{})", gic.number())?;
        }
        write!(f, ", {}", crate::size::show(self.memory))
    }
}
