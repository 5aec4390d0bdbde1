//! The machine, and what its architecture decides.

use image::system::Uart;

use super::Verifier;
use crate::{Architecture, Board, Gic, Machine, raw, size};

/// The UARTs of a machine, by the names that a description gives them: those that emulators connect with the user's terminal.
pub(super) fn uarts(architecture: Architecture) -> &'static [(&'static str, Uart)] {
    match architecture {
        Architecture::X86_64 => &[("com1", Uart::COM1)],
        Architecture::Arm64 => &[("uart0", Uart::VIRT)],
    }
}

/// The UART that a VM is shown.
pub(super) fn guest_uart(architecture: Architecture) -> Uart {
    match architecture {
        Architecture::X86_64 => Uart::COM1,
        Architecture::Arm64 => Uart::VIRT,
    }
}

impl Verifier<'_> {
    /// RAM, CPUs and board.
    pub(super) fn machine(&mut self, raw: &raw::Machine, architecture: Architecture) {
        let (min, max) = (Machine::MIN_MEMORY, Machine::MAX_MEMORY);
        if let Some(memory) = self.bytes(&raw.memory) {
            self.machine.memory = memory;
            if !(min..=max).contains(&memory) || !memory.is_multiple_of(2 << 20) {
                let place = self.at(&raw.memory);
                let help =
                    format!("a multiple of 2 MiB, from {} to {}", size::show(min), size::show(max));
                self.error(place, format!("a machine cannot have {}", raw.memory.get_ref()), help);
            }
        }
        self.machine.board = self.board(raw, architecture);
        self.machine.cpus = *raw.cpus.get_ref();
        let (most, with, help) = match self.machine.board {
            Board::Virt { gic: Gic::V2, .. } => {
                (Gic::V2.max_cpus(), " with a GICv2", ", or set gic = 3")
            }
            _ => (Machine::MAX_CPUS, "", ""),
        };
        if !(1..=most).contains(&self.machine.cpus) {
            let place = self.at(&raw.cpus);
            self.error(
                place,
                format!("a machine{with} cannot have {} CPUs", self.machine.cpus),
                format!("give it 1 to {most}{help}"),
            );
        }
    }

    /// The board; the usual one where what is written is none.
    fn board(&mut self, raw: &raw::Machine, architecture: Architecture) -> Board {
        let usual = Board::usual(architecture);
        let Board::Virt { mut cpu, mut gic } = usual else {
            let cpu = raw.cpu.as_ref().map(|cpu| (self.at(cpu), "cpu"));
            let gic = raw.gic.as_ref().map(|gic| (self.at(gic), "gic"));
            for (place, key) in cpu.into_iter().chain(gic) {
                let message = format!(
                    "`{key}` cannot be chosen for a machine of architecture {architecture}"
                );
                self.error(place, message, "remove the key, or set architecture = \"arm64\"");
            }
            return usual;
        };
        if let Some(raw) = &raw.cpu {
            let known = Board::ARM_CPUS.into_iter().find(|cpu| cpu == raw.get_ref());
            cpu = known.unwrap_or(cpu);
            if known.is_none() {
                let place = self.at(raw);
                let message = format!(
                    "a machine of architecture {architecture} has no CPU `{}`",
                    raw.get_ref()
                );
                self.error(place, message, format!("there are: {}", Board::ARM_CPUS.join(", ")));
            }
        }
        if let Some(raw) = &raw.gic {
            match raw.get_ref() {
                2 => gic = Gic::V2,
                3 => gic = Gic::V3,
                other => {
                    let place = self.at(raw);
                    let message = format!("there is no interrupt controller GICv{other}");
                    self.error(place, message, "write 2 or 3");
                }
            }
        }
        Board::Virt { cpu, gic }
    }

    /// What everything is built for.
    pub(super) fn architecture(&mut self, raw: &raw::Machine) -> Option<Architecture> {
        let Some(raw) = &raw.architecture else {
            return Some(Architecture::X86_64);
        };
        let known = Architecture::ALL.into_iter().find(|a| a.to_string() == *raw.get_ref());
        if known.is_none() {
            let place = self.at(raw);
            let message = format!("there is no architecture `{}`", raw.get_ref());
            self.error(place, message, "write \"x86-64\" or \"arm64\"");
        }
        known
    }
}
