//! Boot information: what the kernel tells the root task.
//!
//! The root task starts at its entry point with `a0` (`rdi`, `x1`) = address of the [`BootInfo`] page (read-only),
//! the stack pointer = top of its stack, its UTCB at [`ROOT_UTCB`], on CPU 0, with the highest priority.

use crate::Selector;
use crate::cap::MemoryKind;

/// `"bulkhead"` in little-endian order: [`BootInfo::magic`].
pub const BOOT_INFO_MAGIC: u64 = u64::from_le_bytes(*b"bulkhead");

/// Address of the boot information in the root task.
pub const ROOT_BOOT_INFO: u64 = 0x7f_f000_0000;
/// Address of the root task's UTCB.
pub const ROOT_UTCB: u64 = 0x7f_f000_2000;
/// End of the root task's stack.
pub const ROOT_STACK_TOP: u64 = 0x7f_e010_0000;
/// Size of the root task's stack in bytes.
pub const ROOT_STACK_SIZE: u64 = 64 << 10;

/// The root task's own domain, with all rights.
pub const ROOT_DOMAIN: Selector = Selector(1);
/// The root task's host space.
pub const ROOT_SPACE: Selector = Selector(2);
/// The root task's thread.
pub const ROOT_THREAD: Selector = Selector(3);
/// The root task's scheduling context.
pub const ROOT_SCHED: Selector = Selector(4);
/// The log, with the rights to read and write.
pub const ROOT_LOG: Selector = Selector(5);
/// All I/O ports that are not the kernel's, as memory of kind `Ports`; empty but on x86.
pub const ROOT_PORTS: Selector = Selector(6);
/// The bundle's memory, whole.
pub const ROOT_BUNDLE: Selector = Selector(7);
/// The machine's power ([`crate::Op::Power`]).
pub const ROOT_PLATFORM: Selector = Selector(8);
/// The time of all CPUs, with all rights.
pub const ROOT_TIME: Selector = Selector(9);
/// Capability of memory region 0 ([`BootInfo::regions()`]); region `i` is at `+ i`.
pub const ROOT_MEMORY: Selector = Selector(64);
/// Capability of interrupt line 0 (x86: GSI, Arm: SPI, whose INTID is 32 more); line `i` is at `+ i`.
pub const ROOT_INTERRUPTS: Selector = Selector(256);
/// First selector that the kernel leaves free.
pub const ROOT_FREE: Selector = Selector(1024);
/// Slots in the root task's capability table.
pub const ROOT_SLOTS: u32 = 8192;

/// Most regions that [`BootInfo`] can hold.
pub const MAX_REGIONS: usize = 96;
/// Most CPUs that [`BootInfo`] can hold.
pub const MAX_CPUS: usize = 64;

/// Number of identification registers in [`BootInfo`].
pub const ID_REGISTERS: usize = 64;

/// A physical range that the root task holds a capability to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Region {
    /// Physical address in bytes, page-aligned.
    pub base: u64,
    /// Size in bytes, page-aligned.
    pub size: u64,
    /// Code of a [`MemoryKind`].
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
}

impl Region {
    /// What it is, if that is known.
    pub const fn memory_kind(&self) -> Option<MemoryKind> {
        MemoryKind::from_code(self.kind as u8)
    }
}

/// The boot information page. Fields named `reserved` are zero.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BootInfo {
    /// [`BOOT_INFO_MAGIC`].
    pub magic: u64,
    /// [`crate::VERSION`].
    pub abi_version: u32,
    /// Size of a UTCB in bytes.
    pub utcb_size: u32,
    /// Frequency of the machine's counter (x86: TSC, Arm: CNTPCT_EL0) in Hz.
    pub counter_hz: u64,
    /// Number of CPUs that run; their numbers are 0 to `cpus - 1`.
    pub cpus: u32,
    /// Number of interrupt lines.
    pub interrupts: u32,
    /// Code of a [`Virtualization`].
    pub virtualization: u32,
    /// Number of entries in `regions`.
    pub region_count: u32,
    /// Physical address of the ACPI RSDP, or 0.
    pub rsdp: u64,
    /// Physical address of the bundle.
    pub bundle_base: u64,
    /// Size of the bundle in bytes.
    pub bundle_size: u64,
    /// XCR0 bits that a guest may set; 1 or 3 without XSAVE.
    pub xcr0_mask: u64,
    /// Counter value at which the kernel was entered.
    pub boot_counter: u64,
    /// Pages of kernel memory that the root domain's quota holds.
    pub quota_pages: u64,
    /// Base I/O port of the UART that the kernel writes its log to until [`crate::Op::LogRead`]
    /// takes it over, or 0.
    pub uart_port: u64,
    /// Bytes of RAM that the kernel keeps for itself: image, CPU data and object pool.
    pub kernel_bytes: u64,
    /// Physical address of the device tree, in memory of kind `Firmware`, or 0.
    pub device_tree: u64,
    /// Arm: physical address of the PL011 that the kernel writes its log to, as for `uart_port`, or 0.
    pub uart_memory: u64,
    /// Arm: interrupt line of that UART.
    pub uart_interrupt: u32,
    /// Arm: version of the interrupt controller, 2 or 3; 0 on x86.
    pub gic_version: u32,
    /// GICv2: physical address of the virtual CPU interface (GICV, 8 KiB), in memory of kind `Device`; else 0.
    pub gic_vcpu_interface: u64,
    /// Arm: number of list registers of the virtual CPU interface.
    pub list_registers: u32,
    /// Arm: what firmware does against speculation on behalf of guests, by SMCCC_ARCH_WORKAROUND_1 to 3
    /// ([`Workaround::pack`]).
    pub workarounds: u32,
    /// Arm: identification registers of the boot CPU, those with op0 3, op1 0 and CRn 0: CRm × 8 + op2 is the index. Of
    /// CRm 0 there are MIDR_EL1, MPIDR_EL1 and REVIDR_EL1.
    pub id_registers: [u64; ID_REGISTERS],
    /// Hardware identifier of each CPU (x86: APIC ID, Arm: affinity levels 2 to 0 of MPIDR_EL1).
    pub cpu_ids: [u32; MAX_CPUS],
    /// Physical ranges, in ascending order of address; capability `i` is at `ROOT_MEMORY + i`.
    pub regions: [Region; MAX_REGIONS],
}

const _: () = assert!(core::mem::size_of::<BootInfo>() <= crate::PAGE_SIZE);

impl BootInfo {
    /// Nothing but zeros.
    pub const fn empty() -> BootInfo {
        BootInfo {
            magic: 0,
            abi_version: 0,
            utcb_size: 0,
            counter_hz: 0,
            cpus: 0,
            interrupts: 0,
            virtualization: 0,
            region_count: 0,
            rsdp: 0,
            bundle_base: 0,
            bundle_size: 0,
            xcr0_mask: 0,
            boot_counter: 0,
            quota_pages: 0,
            uart_port: 0,
            kernel_bytes: 0,
            device_tree: 0,
            uart_memory: 0,
            uart_interrupt: 0,
            gic_version: 0,
            gic_vcpu_interface: 0,
            list_registers: 0,
            workarounds: 0,
            id_registers: [0; ID_REGISTERS],
            cpu_ids: [0; MAX_CPUS],
            regions: [Region { base: 0, size: 0, kind: 0, reserved: 0 }; MAX_REGIONS],
        }
    }

    /// The physical ranges that there are.
    pub fn regions(&self) -> &[Region] {
        let count = (self.region_count as usize).min(MAX_REGIONS);
        &self.regions[..count]
    }
}

/// What guests are to be told of a mitigation that firmware may offer (Arm DEN 0028, 7.4 to 7.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Workaround {
    /// It is not there.
    NotOffered = 0,
    /// Guests call it; the kernel passes the call on.
    Needed = 1,
    /// It is there, and need not be called.
    NotNeeded = 2,
}

impl Workaround {
    /// The words of `SMCCC_ARCH_WORKAROUND_1` to `_3` as one, two bits each.
    pub fn pack(all: [Workaround; 3]) -> u32 {
        (0..).zip(all).fold(0, |word, (i, one)| word | (one as u32) << (2 * i))
    }

    /// What a word says of `SMCCC_ARCH_WORKAROUND_1` (index 0) to `_3` (2).
    pub const fn unpack(word: u32, index: usize) -> Workaround {
        match word >> (2 * (index & 3)) & 3 {
            1 => Workaround::Needed,
            2 => Workaround::NotNeeded,
            _ => Workaround::NotOffered,
        }
    }
}

/// CPU virtualisation extension in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Virtualization {
    /// None: native programs only.
    None = 0,
    /// Intel VT-x with EPT and unrestricted guest.
    Vmx = 1,
    /// AMD SVM with nested paging.
    Svm = 2,
    /// Arm EL2.
    El2 = 3,
}

impl Virtualization {
    /// The extension with this code, if there is one.
    pub const fn from_code(code: u32) -> Option<Virtualization> {
        Some(match code {
            0 => Virtualization::None,
            1 => Virtualization::Vmx,
            2 => Virtualization::Svm,
            3 => Virtualization::El2,
            _ => return None,
        })
    }
}
