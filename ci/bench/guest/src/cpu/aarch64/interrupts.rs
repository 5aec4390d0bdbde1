//! Exception vectors, the interrupt controller, and what handlers note.

use super::internal;
use bench_guest::arch::{CPU_INTERFACE, DISTRIBUTOR, INTERRUPT, IPI, REDISTRIBUTORS};
use core::arch::{asm, global_asm, naked_asm};
use core::sync::atomic::{AtomicU32, Ordering};

/// Low half of the counter when the last interrupt arrived.
static ARRIVED: AtomicU32 = AtomicU32::new(0);
/// Interrupts so far.
static COUNT: AtomicU32 = AtomicU32::new(0);
/// Whether the CPU interface is a GICv3's.
static GICV3: AtomicU32 = AtomicU32::new(0);

// The vectors (Arm ARM D1.3.1.5), of 128 bytes each: from EL1 with SP_EL1 those of synchronous exceptions and interrupts, from EL0
// that of synchronous exceptions.
global_asm!(
    ".pushsection .text.vectors, \"ax\"",
    ".balign 2048",
    "bench_guest_vectors:",
    ".rept 4",
    "b {unexpected}",
    ".balign 128",
    ".endr",
    "b {fault}",
    ".balign 128",
    "b {arrive}",
    ".balign 128",
    ".rept 2",
    "b {unexpected}",
    ".balign 128",
    ".endr",
    "b {syscall}",
    ".balign 128",
    ".rept 7",
    "b {unexpected}",
    ".balign 128",
    ".endr",
    ".popsection",
    unexpected = sym unexpected,
    fault = sym internal::fault,
    arrive = sym arrive,
    syscall = sym internal::entry,
);

unsafe extern "C" {
    #[link_name = "bench_guest_vectors"]
    static VECTORS: u8;
}

/// Registers of the distributor, which a GICv2 and a GICv3 share, and of a GICv2's CPU interface.
mod register {
    pub const GICD_CTLR: u64 = 0x000;
    pub const GICD_TYPER: u64 = 0x004;
    pub const GICD_IGROUPR: u64 = 0x080;
    pub const GICD_ISENABLER: u64 = 0x100;
    pub const GICD_IPRIORITYR: u64 = 0x400;
    pub const GICD_ITARGETSR: u64 = 0x800;
    pub const GICD_ICFGR: u64 = 0xc00;
    pub const GICD_SGIR: u64 = 0xf00;
    pub const GICR_WAKER: u64 = 0x014;
    pub const GICC_CTLR: u64 = 0x00;
    pub const GICC_PMR: u64 = 0x04;
    pub const GICC_IAR: u64 = 0x0c;
    pub const GICC_EOIR: u64 = 0x10;
}
use register::*;

/// Bytes of a redistributor, and offset of its registers for SGIs, which lie as in the distributor.
const REDISTRIBUTOR_SIZE: u64 = 128 << 10;
const PRIVATE: u64 = 64 << 10;
/// Lowest priority that reaches the CPU, and that of all interrupts here.
const MASK: u32 = 0xf0;
const PRIORITY: u32 = 0xa0;
/// A register of the distributor whose reads are measured, and for which nobody has to look at single interrupts.
pub const MEASURED: u64 = DISTRIBUTOR + GICD_TYPER;

fn write(address: u64, value: u32) {
    super::device_write(address, value);
}

/// Loads the vectors, prepares the interrupt controller for vCPU `number`, and switches interrupts on.
pub fn prepare(number: usize, gic: u64) {
    // SAFETY: the vectors are there for ever.
    unsafe {
        asm!("msr vbar_el1, {}", "isb", in(reg) &raw const VECTORS, options(nostack));
    }
    GICV3.store((gic == 3).into(), Ordering::Relaxed);
    let (word, bit) = (u64::from(INTERRUPT) / 32 * 4, 1 << (INTERRUPT % 32));
    let byte = u64::from(INTERRUPT);
    let priorities = PRIORITY * 0x0101_0101;
    if number == 0 {
        // Edge-triggered, to vCPU 0.
        write(DISTRIBUTOR + GICD_ICFGR + u64::from(INTERRUPT) / 16 * 4, 2);
        write(DISTRIBUTOR + GICD_IPRIORITYR + byte, priorities);
        match gic {
            3 => write(DISTRIBUTOR + GICD_IGROUPR + word, bit),
            _ => write(DISTRIBUTOR + GICD_ITARGETSR + byte, 1),
        }
        // Affinity routing and group 1, or group 0.
        write(DISTRIBUTOR + GICD_CTLR, if gic == 3 { 1 << 4 | 1 << 1 } else { 1 });
        write(DISTRIBUTOR + GICD_ISENABLER + word, bit);
    }
    if gic == 3 {
        let own = REDISTRIBUTORS + number as u64 * REDISTRIBUTOR_SIZE;
        write(own + GICR_WAKER, 0);
        write(own + PRIVATE + GICD_IGROUPR, 1 << IPI);
        write(own + PRIVATE + GICD_IPRIORITYR, priorities);
        write(own + PRIVATE + GICD_ISENABLER, 1 << IPI);
        // SAFETY: registers of this vCPU's CPU interface.
        unsafe {
            asm!(
                "msr icc_sre_el1, {one}",
                "isb",
                "msr icc_pmr_el1, {mask}",
                "msr icc_igrpen1_el1, {one}",
                "isb",
                one = in(reg) 1u64,
                mask = in(reg) u64::from(MASK),
                options(nostack),
            );
        }
    } else {
        write(DISTRIBUTOR + GICD_IPRIORITYR, priorities);
        write(CPU_INTERFACE + GICC_PMR, MASK);
        write(CPU_INTERFACE + GICC_CTLR, 1);
    }
    // SAFETY: there are handlers.
    unsafe { asm!("msr daifclr, #2", options(nomem, nostack)) };
}

/// An exception that nothing here raises.
#[unsafe(naked)]
pub unsafe extern "C" fn unexpected() {
    naked_asm!("bl {fail}", fail = sym fail)
}

extern "C" fn fail() -> ! {
    crate::fail()
}

/// Notes when an interrupt arrived, and ends it.
#[unsafe(naked)]
unsafe extern "C" fn arrive() {
    naked_asm!(
        "stp x0, x1, [sp, #-16]!",
        "isb",
        "mrs x0, cntvct_el0",
        "adrp x1, {arrived}",
        "str w0, [x1, :lo12:{arrived}]",
        "adrp x1, {gicv3}",
        "ldr w1, [x1, :lo12:{gicv3}]",
        "cbz w1, 2f",
        "mrs x0, icc_iar1_el1",
        "msr icc_eoir1_el1, x0",
        "b 3f",
        "2: mov x1, #{interface}",
        "ldr w0, [x1, #{iar}]",
        "str w0, [x1, #{eoir}]",
        "3: adrp x1, {count}",
        "ldr w0, [x1, :lo12:{count}]",
        "add w0, w0, #1",
        "str w0, [x1, :lo12:{count}]",
        "ldp x0, x1, [sp], #16",
        "eret",
        arrived = sym ARRIVED,
        gicv3 = sym GICV3,
        count = sym COUNT,
        interface = const CPU_INTERFACE,
        iar = const GICC_IAR,
        eoir = const GICC_EOIR,
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

/// Reads the counter, and waits for an interrupt.
pub fn halt() -> u32 {
    let start: u64;
    // SAFETY: interrupts are on.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", "wfi", out(reg) start, options(nostack)) };
    start as u32
}

/// Reads the counter, and sends vCPU 1 an interrupt.
pub fn send() -> u32 {
    let start: u64;
    // SAFETY: the other vCPU handles it.
    unsafe {
        if GICV3.load(Ordering::Relaxed) != 0 {
            // Affinity 0.0.0, target list with bit 1.
            asm!(
                "isb",
                "mrs {start}, cntvct_el0",
                "msr icc_sgi1r_el1, {command}",
                start = out(reg) start,
                command = in(reg) u64::from(IPI) << 24 | 1 << 1,
                options(nostack),
            );
        } else {
            asm!(
                "isb",
                "mrs {start}, cntvct_el0",
                "str {command:w}, [{address}]",
                start = out(reg) start,
                command = in(reg) 1 << (16 + 1) | IPI,
                address = in(reg) DISTRIBUTOR + GICD_SGIR,
                options(nostack),
            );
        }
    }
    start as u32
}
