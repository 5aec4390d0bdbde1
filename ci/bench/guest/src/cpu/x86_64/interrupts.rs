//! The interrupt descriptor table, the local APIC, and what handlers note.

use super::tables::{KERNEL_CODE, TableRegister};
use bench_guest::arch::{INTERRUPT, IPI};
use core::arch::{asm, naked_asm};
use core::mem::size_of;
use core::sync::atomic::{AtomicU32, Ordering};

/// Vectors of the processor's exceptions.
const EXCEPTIONS: u8 = 32;
/// Vectors that have a place in the table.
const VECTORS: usize = IPI as usize + 1;

/// Entries of 16 bytes (Intel SDM 3A 6.14.1).
type Table = [[u64; 2]; VECTORS];

static mut IDT: Table = [[0; 2]; VECTORS];

/// Low half of the counter when the last interrupt arrived.
static ARRIVED: AtomicU32 = AtomicU32::new(0);
/// Interrupts so far.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// MSR: IA32_APIC_BASE, with its bits for x2APIC mode.
const APIC_BASE: u32 = 0x1b;
const X2APIC_ON: u64 = 3 << 10;
/// MSR: the x2APIC's spurious-interrupt vector register, with its bit that enables interrupts.
const SPURIOUS: u32 = 0x80f;
const APIC_ENABLED: u64 = 1 << 8 | 0xff;
/// MSR: the x2APIC's end of interrupt.
const EOI: u32 = 0x80b;
/// MSR: the x2APIC's interrupt command.
pub const ICR: u32 = 0x830;

/// An interrupt gate of ring 0.
fn gate(handler: u64) -> [u64; 2] {
    const PRESENT_INTERRUPT_GATE: u64 = 0x8e << 40;
    [
        handler & 0xffff
            | u64::from(KERNEL_CODE) << 16
            | PRESENT_INTERRUPT_GATE
            | (handler >> 16 & 0xffff) << 48,
        handler >> 32,
    ]
}

/// Has a vector handled; before the interrupts that it is for.
pub fn handle(vector: u8, handler: unsafe extern "C" fn()) {
    let entry = gate(handler as *const () as u64);
    // SAFETY: vCPUs write the same words, and none of these interrupts comes yet.
    unsafe { (&raw mut IDT[usize::from(vector)]).write_volatile(entry) };
}

/// Loads the table, switches the APIC on, and interrupts.
pub fn prepare() {
    for vector in 0..EXCEPTIONS {
        handle(vector, unexpected);
    }
    handle(INTERRUPT, arrive);
    handle(IPI, arrive);
    let register =
        TableRegister { limit: size_of::<Table>() as u16 - 1, base: (&raw const IDT).cast() };
    // SAFETY: the table is there for ever, and has a handler for all that can come.
    unsafe { asm!("lidt [{}]", in(reg) &register, options(readonly, nostack)) };
    write_msr(APIC_BASE, read_msr(APIC_BASE) | X2APIC_ON);
    write_msr(SPURIOUS, APIC_ENABLED);
    // SAFETY: as above.
    unsafe { asm!("sti", options(nomem, nostack)) };
}

/// Writes an MSR.
pub fn write_msr(number: u32, value: u64) {
    // SAFETY: those that this program writes change nothing but what it wants of them.
    unsafe {
        asm!(
            "wrmsr",
            in("ecx") number,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack),
        );
    }
}

/// Reads an MSR.
fn read_msr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register.
    unsafe { asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// An exception that nothing here raises.
#[unsafe(naked)]
unsafe extern "C" fn unexpected() {
    naked_asm!("and rsp, -16", "call {fail}", fail = sym fail)
}

extern "C" fn fail() -> ! {
    crate::fail()
}

/// Notes when an interrupt arrived, and ends it.
#[unsafe(naked)]
unsafe extern "C" fn arrive() {
    naked_asm!(
        "push rax",
        "push rdx",
        "rdtsc",
        "push rcx",
        "mov [rip + {arrived}], eax",
        "mov ecx, {eoi}",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "inc dword ptr [rip + {count}]",
        "pop rcx",
        "pop rdx",
        "pop rax",
        "iretq",
        arrived = sym ARRIVED,
        count = sym COUNT,
        eoi = const EOI,
    )
}

/// Does something that an interrupt follows, which returns when it began, and waits for the interrupt. Returns the ticks in
/// between.
pub fn until_arrival(begin: impl FnOnce() -> u32) -> u32 {
    let before = COUNT.load(Ordering::Relaxed);
    let start = begin();
    while COUNT.load(Ordering::Relaxed) == before {}
    ARRIVED.load(Ordering::Relaxed).wrapping_sub(start)
}
