//! x86-64.

use core::arch::x86_64::{__cpuid, _rdtsc};

use bench_guest::arch::INTERRUPT;
use bench_guest::{Arguments, Row, place};

use crate::kvm::{Kvm, Vcpu, Vm, exchange, plain, read, write};
use crate::linux::{Memory, Request, Result};
use crate::measurement::Measurement;

const GET_SUPPORTED_CPUID: Request = exchange::<CpuidHead>("KVM_GET_SUPPORTED_CPUID", 0x05);
const CREATE_IRQCHIP: Request = plain("KVM_CREATE_IRQCHIP", 0x60);
const GET_IRQCHIP: Request = exchange::<Chip>("KVM_GET_IRQCHIP", 0x62);
/// KVM reads it, though its number says otherwise.
const SET_IRQCHIP: Request = read::<Chip>("KVM_SET_IRQCHIP", 0x63);
const SET_REGS: Request = write::<Registers>("KVM_SET_REGS", 0x82);
const GET_SREGS: Request = read::<SystemRegisters>("KVM_GET_SREGS", 0x83);
const SET_SREGS: Request = write::<SystemRegisters>("KVM_SET_SREGS", 0x84);
const SET_CPUID2: Request = write::<CpuidHead>("KVM_SET_CPUID2", 0x90);
const SET_MP_STATE: Request = write::<u32>("KVM_SET_MP_STATE", 0x99);
const ENABLE_CAP: Request = write::<Capability>("KVM_ENABLE_CAP", 0xa3);
const SIGNAL_MSI: Request = write::<Message>("KVM_SIGNAL_MSI", 0xa5);

#[repr(C)]
#[derive(Clone, Copy)]
struct CpuidHead {
    count: u32,
    padding: u32,
}

/// More leaves than KVM has.
const LEAVES: usize = 128;

#[repr(C)]
struct Cpuid {
    head: CpuidHead,
    /// Of 40 bytes each.
    leaves: [[u32; 10]; LEAVES],
}

/// State of an emulated interrupt controller.
#[repr(C)]
struct Chip {
    number: u32,
    padding: u32,
    state: [u8; 512],
}

#[repr(C)]
struct Capability {
    number: u32,
    flags: u32,
    arguments: [u64; 4],
    padding: [u8; 64],
}

#[repr(C)]
struct Message {
    address_low: u32,
    address_high: u32,
    data: u32,
    flags: u32,
    device: u32,
    padding: [u8; 12],
}

#[repr(C)]
#[derive(Default)]
struct Registers {
    rax: u64,
    rbx: u64,
    rcx: u64,
    rdx: u64,
    rsi: u64,
    rdi: u64,
    rsp: u64,
    rbp: u64,
    r8_to_r15: [u64; 8],
    rip: u64,
    rflags: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Segment {
    base: u64,
    limit: u32,
    selector: u16,
    kind: u8,
    present: u8,
    privilege: u8,
    default_32: u8,
    is_code_or_data: u8,
    long: u8,
    in_pages: u8,
    available: u8,
    unusable: u8,
    padding: u8,
}

impl Segment {
    /// All of the first 4 GiB, for ring 0, of a kind in a descriptor's coding.
    fn flat(selector: u16, kind: u8) -> Segment {
        Segment {
            limit: u32::MAX,
            selector,
            kind,
            present: 1,
            default_32: 1,
            is_code_or_data: 1,
            in_pages: 1,
            ..Segment::default()
        }
    }
}

#[repr(C)]
#[derive(Default)]
struct SystemRegisters {
    cs: Segment,
    /// ds, es, fs, gs, ss.
    data: [Segment; 5],
    tr: Segment,
    ldt: Segment,
    /// Base, and limit in the low 16 bits.
    gdt: [u64; 2],
    idt: [u64; 2],
    cr0: u64,
    cr2: u64,
    cr3: u64,
    cr4: u64,
    cr8: u64,
    efer: u64,
    apic_base: u64,
    interrupts: [u64; 4],
}

/// What is measured beside what the guest does under any monitor: other ways in which KVM answers.
pub fn variations() -> impl Iterator<Item = Measurement> {
    let usual = Variant::usual();
    let in_kernel = Measurement {
        row: Row::PortRead,
        suffix: ".in_kernel",
        variant: Variant { all_chips: true, ..usual },
    };
    let other_doorbell = Measurement {
        row: Row::Doorbell,
        suffix: if usual.port_doorbell { ".memory" } else { ".port" },
        variant: Variant { port_doorbell: !usual.port_doorbell, ..usual },
    };
    [in_kernel, other_doorbell].into_iter()
}

/// What differs between guests.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// The doorbell is a port.
    port_doorbell: bool,
    /// KVM emulates not only the local APIC, but the PIC too, one of whose ports the guest reads.
    all_chips: bool,
}

/// Whether the CPU's extension is SVM.
fn has_svm() -> bool {
    const SVM: u32 = 1 << 2;
    __cpuid(0x8000_0001).ecx & SVM != 0
}

impl Variant {
    /// That of the rows that other hypervisors have too, with a doorbell as theirs.
    pub fn usual() -> Variant {
        Variant { port_doorbell: has_svm(), all_chips: false }
    }

    /// Gives a machine what has to be there before its vCPUs.
    pub fn prepare(self, vm: Vm) -> Result {
        if self.all_chips {
            // SAFETY: it takes no argument.
            unsafe { vm.file.control(CREATE_IRQCHIP, 0) }?;
            set_mask(vm)?;
        } else {
            const SPLIT_IRQCHIP: u32 = 121;
            let capability = Capability {
                number: SPLIT_IRQCHIP,
                flags: 0,
                // Pins of the I/O APIC that is not there.
                arguments: [24, 0, 0, 0],
                padding: [0; 64],
            };
            // SAFETY: it has no effect on this process's memory.
            unsafe { vm.file.pass(ENABLE_CAP, &capability) }?;
        }
        match self.port_doorbell {
            true => vm.set_doorbell(place::DOORBELL_PORT.into(), 2, true),
            false => vm.set_doorbell(place::DOORBELL, 0, false),
        }
    }

    /// Gives a machine what can only be there after its vCPUs: nothing. Returns what the guest is told.
    pub fn complete(self, _vm: Vm, rows: u64) -> Result<Arguments> {
        Ok(Arguments {
            rows,
            port_doorbell: self.port_doorbell.into(),
            vmmcall: has_svm().into(),
            gic: 0,
        })
    }
}

/// Makes the PIC's mask, which the guest reads at [`place::PORT`], what it expects.
fn set_mask(vm: Vm) -> Result {
    const MASK: usize = 2;
    let mut chip = Chip { number: 0, padding: 0, state: [0; 512] };
    // SAFETY: it writes no more than the structure.
    unsafe { vm.file.control(GET_IRQCHIP, &raw mut chip as usize) }?;
    chip.state[MASK] = place::PORT_VALUE;
    // SAFETY: it reads the structure.
    unsafe { vm.file.pass(SET_IRQCHIP, &chip) }
}

/// Makes a vCPU all that KVM can make of the machine's CPU, with the machine's counter.
pub fn prepare_vcpu(kvm: Kvm, _vm: Vm, vcpu: Vcpu) -> Result {
    let mut cpuid =
        Cpuid { head: CpuidHead { count: LEAVES as u32, padding: 0 }, leaves: [[0; 10]; LEAVES] };
    // SAFETY: it writes no more leaves than there is space for.
    unsafe { kvm.file.control(GET_SUPPORTED_CPUID, &raw mut cpuid as usize) }?;
    // SAFETY: it reads as many leaves as were written.
    unsafe { vcpu.file.pass(SET_CPUID2, &cpuid) }?;
    const COUNTER: u32 = 0;
    const OFFSET: u64 = 0;
    vcpu.file.set_attribute(COUNTER, OFFSET, &0)
}

/// Brings a vCPU into the state that the guest starts in.
pub fn start(vcpu: Vcpu, number: usize) -> Result {
    let mut system = SystemRegisters::default();
    // SAFETY: it writes the structure.
    unsafe { vcpu.file.control(GET_SREGS, &raw mut system as usize) }?;
    // Code to execute and read, data to read and write, both accessed.
    system.cs = Segment::flat(0x08, 0xb);
    system.data = [Segment::flat(0x10, 0x3); 5];
    // Protection and the bit that is always one.
    system.cr0 = 0x11;
    // SAFETY: it reads the structure.
    unsafe { vcpu.file.pass(SET_SREGS, &system) }?;
    let registers = Registers {
        rdi: number as u64,
        rip: place::RAM.start,
        // The bit that is always one.
        rflags: 2,
        ..Registers::default()
    };
    // SAFETY: it reads the structure.
    unsafe { vcpu.file.pass(SET_REGS, &registers) }?;
    // KVM's others than the first wait to be started by it.
    const RUNNABLE: u32 = 0;
    // SAFETY: it reads the state.
    unsafe { vcpu.file.pass(SET_MP_STATE, &RUNNABLE) }
}

/// How far the guest's counter is behind this program's: not at all, as [`prepare_vcpu`] has set it.
pub fn counter_lag(_vcpu: Vcpu, _page: &Memory) -> Result<u64> {
    Ok(0)
}

/// The counter.
#[inline(always)]
pub fn counter() -> u64 {
    // SAFETY: user programs may read it.
    unsafe { _rdtsc() }
}

/// Raises the interrupt that the guest asks for: by a message to vCPU 0's local APIC.
#[inline(always)]
pub fn interrupt(vm: Vm) -> Result {
    let message = Message {
        address_low: 0xfee0_0000,
        address_high: 0,
        data: INTERRUPT.into(),
        flags: 0,
        device: 0,
        padding: [0; 12],
    };
    // SAFETY: it reads the structure.
    unsafe { vm.file.pass(SIGNAL_MSI, &message) }
}
