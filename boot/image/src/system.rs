//! The checked description of a system: what the root task builds at boot, and nothing else.
//!
//! Crate `bulkhead-configs` makes it from a TOML file. Each value keeps its own rules by its type, also
//! when it is read back from a bundle; [`System::check`] adds the rules between values.

mod value;

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

pub use value::{
    Args, CommandLine, Cpu, GuestMemory, HostAddress, Name, Pages, Priority, ProgramMemory,
    ValueError, Vcpus,
};

/// A whole system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// Name of the system, for messages.
    pub name: Name,
    /// Device servers, in the order in which they start.
    pub servers: Vec<Server>,
    /// Virtual machines, in the order in which they start.
    pub vms: Vec<Vm>,
    /// Programs that run directly on the hypervisor and are no device server.
    pub natives: Vec<Native>,
}

/// What every program of the system is given, whatever it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compartment {
    /// The program in the bundle that runs in it.
    pub program: Name,
    /// CPU of its main thread.
    pub cpu: Cpu,
    /// Priority of its main thread.
    pub priority: Priority,
    /// Kernel memory that its operations can use.
    pub quota: Pages,
    /// RAM for its stack, heap and data, beside its segments and any guest memory.
    pub memory: ProgramMemory,
    /// For tests: this long after its start the program is made to fault at its next instruction,
    /// by taking its memory away.
    pub fault_after_ms: Option<u32>,
}

/// A device server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Name by which VMs refer to it; unique among servers, VMs and natives.
    pub name: Name,
    /// Its program and resources.
    pub compartment: Compartment,
    /// What it serves, with the host resources for it.
    pub kind: ServerKind,
}

/// Kind of a device server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerKind {
    /// Owns a UART of the machine and gives each of its VMs a UART.
    Console {
        /// The machine's UART.
        uart: Uart,
    },
}

/// What a UART is, and with it how its registers are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UartModel {
    /// A 16550A behind I/O ports.
    Ns16550,
    /// A PL011 in memory.
    Pl011,
}

/// A UART: one of the machine, or one that a VM is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uart {
    /// What it is.
    pub model: UartModel,
    /// First of its I/O ports, or physical address of its registers.
    pub address: u64,
    /// Its interrupt line (x86: GSI, Arm: SPI, whose INTID is 32 more).
    pub line: u32,
}

impl Uart {
    /// The first serial port of a PC; also what a VM on x86 is shown.
    pub const COM1: Uart = Uart { model: UartModel::Ns16550, address: 0x3f8, line: 4 };
    /// The UART of QEMU's `virt`; also what a VM on Arm is shown.
    pub const VIRT: Uart = Uart { model: UartModel::Pl011, address: 0x0900_0000, line: 1 };

    /// Number of I/O ports, or of bytes of memory, that its registers take.
    pub const fn size(self) -> u64 {
        match self.model {
            UartModel::Ns16550 => 8,
            UartModel::Pl011 => 4096,
        }
    }

    fn overlaps(self, other: Uart) -> bool {
        let (end, others_end) =
            (self.address.saturating_add(self.size()), other.address.saturating_add(other.size()));
        self.model == other.model && self.address < others_end && other.address < end
    }
}

/// A virtual machine and the monitor that hosts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Name, the prefix of its console lines; unique among servers, VMs and natives.
    pub name: Name,
    /// Its monitor's program and resources. The monitor's CPU is the first of `vcpus`.
    pub monitor: Compartment,
    /// RAM of the guest.
    pub memory: GuestMemory,
    /// Where in the machine's RAM the guest's RAM lies, in one piece; `None`: the root task chooses,
    /// and may take several pieces.
    pub memory_at: Option<HostAddress>,
    /// The machine's CPU of each vCPU.
    pub vcpus: Vcpus,
    /// Name of the bundle's file that holds its kernel.
    pub kernel: String,
    /// Name of the bundle's file that holds its initial RAM disk.
    pub initrd: Option<String>,
    /// The kernel's command line.
    pub cmdline: CommandLine,
    /// The console server that gives it a UART; the name of an entry of [`System::servers`].
    pub console: Option<Name>,
    /// What that UART is, and where the guest finds it. Its line is below 64: it is a bit of a badge.
    pub serial: Uart,
    /// What happens when the guest asks for a reset: reboot, keyboard reset, triple fault.
    pub on_reset: After,
    /// What happens when its monitor dies.
    pub on_crash: After,
}

/// What the root task does with a VM that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum After {
    /// It stays ended; its resources return.
    Stop,
    /// It is started again from its kernel.
    Restart,
}

/// A program that runs directly on the hypervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Native {
    /// Name; unique among servers, VMs and natives.
    pub name: Name,
    /// Its program and resources.
    pub compartment: Compartment,
    /// Text handed to it at its start.
    pub args: Args,
}

/// A rule between values that a description breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemError {
    /// Two parts have this name.
    DuplicateName(Name),
    /// VM and the console server that it names but that does not exist.
    NoSuchConsole(Name, Name),
    /// Two servers that own the same UART.
    SharedUart(Name, Name),
    /// VM whose monitor does not run on the CPU of its first vCPU.
    MonitorElsewhere(Name),
    /// VM whose UART has an interrupt line that is no bit of a badge.
    SerialLine(Name),
}

impl core::fmt::Display for SystemError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            SystemError::DuplicateName(name) => write!(f, "two parts are named `{name}`"),
            SystemError::NoSuchConsole(vm, console) => {
                write!(f, "VM `{vm}` names the console `{console}`, which does not exist")
            }
            SystemError::SharedUart(a, b) => write!(f, "`{a}` and `{b}` own the same UART"),
            SystemError::MonitorElsewhere(vm) => {
                write!(f, "the monitor of `{vm}` is not on the CPU of its first vCPU")
            }
            SystemError::SerialLine(vm) => {
                write!(f, "the UART of `{vm}` has an interrupt line above 63")
            }
        }
    }
}

impl core::error::Error for SystemError {}

impl System {
    /// Checks the rules between values: unique names, references that lead somewhere, one owner
    /// for each UART.
    pub fn check(&self) -> Result<(), SystemError> {
        let names: Vec<&Name> = self.names().collect();
        for (i, name) in names.iter().enumerate() {
            if names[..i].contains(name) {
                return Err(SystemError::DuplicateName((*name).clone()));
            }
        }
        for (i, server) in self.servers.iter().enumerate() {
            let ServerKind::Console { uart } = server.kind;
            for other in &self.servers[..i] {
                let ServerKind::Console { uart: theirs } = other.kind;
                if uart.overlaps(theirs) || uart.line == theirs.line {
                    return Err(SystemError::SharedUart(other.name.clone(), server.name.clone()));
                }
            }
        }
        for vm in &self.vms {
            if let Some(console) = &vm.console
                && !self.servers.iter().any(|s| s.name == *console)
            {
                return Err(SystemError::NoSuchConsole(vm.name.clone(), console.clone()));
            }
            if vm.monitor.cpu != vm.vcpus.first() {
                return Err(SystemError::MonitorElsewhere(vm.name.clone()));
            }
            if vm.serial.line >= u64::BITS {
                return Err(SystemError::SerialLine(vm.name.clone()));
            }
        }
        Ok(())
    }

    /// The names of all parts.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        let servers = self.servers.iter().map(|s| &s.name);
        let vms = self.vms.iter().map(|v| &v.name);
        servers.chain(vms).chain(self.natives.iter().map(|n| &n.name))
    }

    /// The names of all programs that it starts, each as often as it is started.
    pub fn programs(&self) -> impl Iterator<Item = &Name> {
        self.compartments().map(|c| &c.program)
    }

    /// All compartments.
    pub fn compartments(&self) -> impl Iterator<Item = &Compartment> {
        let servers = self.servers.iter().map(|s| &s.compartment);
        let vms = self.vms.iter().map(|v| &v.monitor);
        servers.chain(vms).chain(self.natives.iter().map(|n| &n.compartment))
    }

    /// The names of all files that it uses, with repetitions.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.vms
            .iter()
            .flat_map(|v| core::iter::once(&v.kernel).chain(&v.initrd))
            .map(String::as_str)
    }
}
