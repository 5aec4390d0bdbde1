//! The environment: what the root task tells a program of itself and of what it holds.
//!
//! The pages at [`crate::layout::ENVIRONMENT_ADDRESS`] hold a [`Header`] and behind it the
//! [`Environment`] in postcard's encoding.
use abi::{PAGE_SIZE, Selector};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// [`Header::magic`].
pub const MAGIC: u64 = u64::from_le_bytes(*b"environ1");

/// What start-up code needs before there is a heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// Bytes of the encoded environment.
    pub length: u64,
    /// Address of the heap.
    pub heap_address: u64,
    /// Size of the heap in bytes.
    pub heap_size: u64,
}

/// Bytes of a [`Header`].
pub const HEADER_SIZE: usize = core::mem::size_of::<Header>();

mod as_number {
    //! Selectors travel as numbers.
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(selector: &Selector, s: S) -> Result<S::Ok, S::Error> {
        selector.0.serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Selector, D::Error> {
        u32::deserialize(d).map(Selector)
    }
}

mod as_optional_number {
    //! The same for a selector that may be missing.
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(selector: &Option<Selector>, s: S) -> Result<S::Ok, S::Error> {
        selector.map(|selector| selector.0).serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Selector>, D::Error> {
        Ok(Option::<u32>::deserialize(d)?.map(Selector))
    }
}

/// What the root task tells a program. Capabilities common to all programs are at fixed selectors
/// ([`crate::layout`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// The program's name.
    pub name: String,
    /// CPU of its first thread.
    pub cpu: u32,
    /// Frequency of the machine's counter in Hz.
    pub counter_hz: u64,
    /// First free selector.
    pub first_selector: u32,
    /// Slots in its capability table.
    pub end_selector: u32,
    /// What it is for.
    pub role: Role,
}

/// What a program is for, with what that needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Owns the UART and emulates one for each client.
    ConsoleServer(ConsoleEnvironment),
    /// Runs one VM.
    Monitor(MonitorEnvironment),
    /// Any other program.
    Native(NativeEnvironment),
}

/// What a console server needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleEnvironment {
    /// The machine's UART, if it has one.
    pub uart: Option<UartEnvironment>,
    /// The log, with the right to read it.
    #[serde(with = "as_number")]
    pub log: Selector,
    /// Notification, to be signalled whenever everything has been written.
    #[serde(with = "as_number")]
    pub idle: Selector,
    /// Whose consoles it serves.
    pub clients: Vec<ConsoleClient>,
}

/// A UART of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UartEnvironment {
    /// What it is, and how it is reached.
    pub registers: UartRegisters,
    /// Its interrupt line.
    #[serde(with = "as_number")]
    pub interrupt: Selector,
}

/// Registers of a UART of the machine, to be mapped by the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UartRegisters {
    /// A 16550 behind I/O ports.
    Ns16550 {
        /// Capability of its eight ports.
        #[serde(with = "as_number")]
        ports: Selector,
        /// Its first port.
        base: u16,
    },
    /// A PL011 in memory.
    Pl011 {
        /// Capability of its page.
        #[serde(with = "as_number")]
        memory: Selector,
    },
}

/// Kind of an emulated UART.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UartModel {
    /// A 16550A.
    Ns16550,
    /// A PL011.
    Pl011,
}

/// A VM whose console the server emulates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleClient {
    /// The VM's name.
    pub name: String,
    /// CPUs of its vCPUs: the server exports a handler for each.
    pub cpus: Vec<u32>,
    /// What it is shown.
    pub model: UartModel,
    /// Notification, badged with the VM's interrupt line: signalled at each rising edge of the emulated
    /// UART's interrupt output.
    #[serde(with = "as_number")]
    pub signal: Selector,
}

/// What a monitor needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorEnvironment {
    /// RAM of the VM; the monitor maps it into its own space and the guest's.
    pub memory: Vec<GuestMemory>,
    /// The guest's kernel.
    pub kernel: FileView,
    /// The guest's initial RAM disk.
    pub initrd: Option<FileView>,
    /// The guest's command line.
    pub cmdline: String,
    /// The VM's vCPUs.
    pub vcpus: Vec<VcpuEnvironment>,
    /// Its serial port, if it has one.
    pub console: Option<SerialEnvironment>,
    /// Code of an [`abi::boot::Virtualization`].
    pub virtualization: u32,
    /// XCR0 bits that a guest may set.
    pub xcr0_mask: u64,
    /// Arm: the machine's interrupt controller, as far as guests use it.
    pub gic: Option<GicEnvironment>,
    /// Arm: the machine's ID registers, by [`register_key`], for the policy of what a guest sees.
    pub id_registers: Vec<(u16, u64)>,
    /// Arm: mitigations that firmware offers ([`abi::boot::Workaround::pack`]).
    pub workarounds: u32,
}

/// Key of a system register of Arm: its five encoding fields as in an MRS instruction, of two, three, four, four
/// and three bits.
pub const fn register_key(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> u16 {
    (op0 & 3) << 14 | (op1 & 7) << 11 | (crn & 15) << 7 | (crm & 15) << 3 | (op2 & 7)
}

/// The machine's GIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GicEnvironment {
    /// Version: 2 or 3.
    pub version: u32,
    /// List registers of the virtual CPU interface.
    pub list_registers: u32,
    /// GICv2: memory capability of the virtual CPU interface (GICV, 8 KiB), for the guest's space.
    #[serde(with = "as_optional_number")]
    pub vcpu_interface: Option<Selector>,
}

/// RAM of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestMemory {
    /// Memory capability: read, write, execute.
    #[serde(with = "as_number")]
    pub selector: Selector,
    /// Guest-physical address.
    pub guest_address: u64,
    /// Size in bytes.
    pub size: u64,
}

/// A file of the bundle, mapped read-only for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileView {
    /// Address.
    pub address: u64,
    /// Size in bytes.
    pub size: u64,
}

impl FileView {
    /// The file's bytes.
    ///
    /// # Safety
    /// The value comes from the root task, which mapped the file so; nobody writes to the bundle.
    pub unsafe fn bytes(&self) -> &'static [u8] {
        if self.size == 0 {
            return &[];
        }
        // SAFETY: the caller's promise.
        unsafe { core::slice::from_raw_parts(self.address as *const u8, self.size as usize) }
    }
}

/// What a vCPU needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuEnvironment {
    /// Its CPU.
    pub cpu: u32,
    /// Its scheduling context.
    #[serde(with = "as_number")]
    pub sched: Selector,
    /// Its kick: a notification with the rights to wait and to signal.
    #[serde(with = "as_number")]
    pub kick: Selector,
}

/// A VM's serial port, emulated by a console server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialEnvironment {
    /// The server's portals ([`crate::protocol::console`]), one per CPU.
    pub portals: Vec<PortalOnCpu>,
    /// Where its registers are in the guest: the first port (x86), or the guest-physical address (Arm).
    pub address: u64,
    /// Interrupt line in the guest (GSI, or number of the SPI). A rising edge arrives as the bit with this number in the kick of
    /// the first vCPU.
    pub line: u32,
}

impl SerialEnvironment {
    /// The portal for threads and vCPUs on `cpu`.
    pub fn portal(&self, cpu: u32) -> Option<Selector> {
        self.portals.iter().find(|portal| portal.cpu == cpu).map(|portal| portal.portal)
    }
}

/// A portal that can be called from one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortalOnCpu {
    /// The CPU.
    pub cpu: u32,
    /// The portal.
    #[serde(with = "as_number")]
    pub portal: Selector,
}

/// What any other program gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NativeEnvironment {
    /// Its arguments.
    pub args: Vec<String>,
}

/// Why an environment cannot be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvironmentError {
    /// It does not fit into [`crate::layout::ENVIRONMENT_MAX`] bytes.
    TooLarge,
    /// The bytes are no environment.
    Malformed,
}

impl Environment {
    /// The content of the environment pages: whole pages.
    pub fn to_pages(&self, heap_address: u64, heap_size: u64) -> Result<Vec<u8>, EnvironmentError> {
        let body = postcard::to_allocvec(self).map_err(|_| EnvironmentError::TooLarge)?;
        let size = (HEADER_SIZE + body.len()).next_multiple_of(PAGE_SIZE);
        if size as u64 > crate::layout::ENVIRONMENT_MAX {
            return Err(EnvironmentError::TooLarge);
        }
        let mut pages = Vec::with_capacity(size);
        for field in [MAGIC, body.len() as u64, heap_address, heap_size] {
            pages.extend_from_slice(&field.to_le_bytes());
        }
        pages.extend_from_slice(&body);
        pages.resize(size, 0);
        Ok(pages)
    }

    /// Decodes what follows the header.
    pub fn from_bytes(bytes: &[u8]) -> Result<Environment, EnvironmentError> {
        postcard::from_bytes(bytes).map_err(|_| EnvironmentError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_survives_its_pages() {
        let environment = Environment {
            name: "console".into(),
            cpu: 1,
            counter_hz: 1_000_000_000,
            first_selector: 130,
            end_selector: 512,
            role: Role::ConsoleServer(ConsoleEnvironment {
                uart: Some(UartEnvironment {
                    registers: UartRegisters::Pl011 { memory: Selector(132) },
                    interrupt: Selector(133),
                }),
                log: Selector(128),
                idle: Selector(131),
                clients: vec![ConsoleClient {
                    name: "linux".into(),
                    cpus: vec![0, 1],
                    model: UartModel::Pl011,
                    signal: Selector(129),
                }],
            }),
        };
        let pages = environment.to_pages(0x4000_0000, 0x10_0000).unwrap();
        assert_eq!(pages.len(), PAGE_SIZE);
        let length = u64::from_le_bytes(pages[8..16].try_into().unwrap()) as usize;
        let body = &pages[HEADER_SIZE..HEADER_SIZE + length];
        assert_eq!(Environment::from_bytes(body), Ok(environment.clone()));
        assert_eq!(Environment::from_bytes(&body[..9]), Err(EnvironmentError::Malformed));
        let large = Environment { name: "x".repeat(1 << 17), ..environment };
        assert_eq!(large.to_pages(0, 0), Err(EnvironmentError::TooLarge));
    }
}
