//! What a guest's kernel does without its hypervisor: system calls, context switches, page faults.

use super::interrupts::unexpected;
use super::tables::{DATA, Entries, ROOT, TABLE};
use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU32, Ordering};

/// Exception class: SVC of AArch64.
const SVC: u32 = 0x15;
/// Exception class: data abort of EL1.
const DATA_ABORT: u32 = 0x25;

/// Prepares system calls: EL0 reads the counter.
pub fn prepare_syscalls() {
    // SAFETY: EL0 is this program's.
    unsafe { asm!("msr cntkctl_el1, {}", "isb", in(reg) 1u64 << 1, options(nostack)) };
}

/// Goes to EL0, where a system call is measured. Returns its ticks. EL0 runs with interrupts off.
#[unsafe(naked)]
pub extern "C" fn syscall() -> u32 {
    naked_asm!(
        "stp x19, x20, [sp, #-96]!",
        "stp x21, x22, [sp, #16]",
        "stp x23, x24, [sp, #32]",
        "stp x25, x26, [sp, #48]",
        "stp x27, x28, [sp, #64]",
        "stp x29, x30, [sp, #80]",
        "adr x0, 2f",
        "msr elr_el1, x0",
        "mov x0, #0x3c0",
        "msr spsr_el1, x0",
        "eret",
        "2: mov x8, xzr",
        "isb",
        "mrs x1, cntvct_el0",
        "svc #0",
        "isb",
        "mrs x0, cntvct_el0",
        "sub x0, x0, x1",
        "mov x8, #1",
        "svc #0",
        "udf #0",
    )
}

/// Synchronous exceptions of EL0. System call 0 does nothing; 1 ends EL0.
#[unsafe(naked)]
pub unsafe extern "C" fn entry() {
    naked_asm!(
        "stp x0, x1, [sp, #-16]!",
        "mrs x0, esr_el1",
        "lsr x0, x0, #26",
        "cmp x0, #{svc}",
        "b.ne {unexpected}",
        "ldp x0, x1, [sp], #16",
        "cbnz x8, 2f",
        "eret",
        "2: ldp x21, x22, [sp, #16]",
        "ldp x23, x24, [sp, #32]",
        "ldp x25, x26, [sp, #48]",
        "ldp x27, x28, [sp, #64]",
        "ldp x29, x30, [sp, #80]",
        "ldp x19, x20, [sp], #96",
        "msr daifclr, #2",
        "ret",
        svc = const SVC,
        unexpected = sym unexpected,
    )
}

/// A context that does not run: its stack pointer, and its tables with their ASID.
#[repr(C)]
struct Context {
    stack: u64,
    tables: u64,
}

const NOBODY: Context = Context { stack: 0, tables: 0 };

/// The context that measures, and the other one.
static mut CONTEXTS: [Context; 2] = [NOBODY; 2];
/// The other one's tables; what they map is the same.
static mut OTHER_ROOT: Entries = Entries::EMPTY;
/// The other one's stack.
static mut OTHER_STACK: Entries = Entries::EMPTY;
/// Low half of the counter when the other one went on.
static SWITCHED: AtomicU32 = AtomicU32::new(0);

/// Words of a context's stack: the registers that it keeps. The last one is where it goes on.
const FRAME: usize = 12;
/// The other one's address-space identifier.
const ASID: u64 = 1 << 48;

/// Prepares context switches.
pub fn prepare_contexts() {
    // SAFETY: these statics are for contexts alone, and the other one does not run yet.
    unsafe {
        for i in 0..2 {
            OTHER_ROOT.0[i] = ROOT.0[i];
        }
        OTHER_STACK.0[512 - 1] = other as *const () as u64;
        CONTEXTS[0].tables = &raw const ROOT as u64;
        CONTEXTS[1] = Context {
            stack: &raw const OTHER_STACK as u64 + (512 - FRAME as u64) * 8,
            tables: &raw const OTHER_ROOT as u64 | ASID,
        };
        asm!("dsb ishst", options(nostack));
    }
}

/// Leaves the context `from` for `to`.
#[unsafe(naked)]
unsafe extern "C" fn switch(from: *mut Context, to: *mut Context) {
    naked_asm!(
        "stp x19, x20, [sp, #-96]!",
        "stp x21, x22, [sp, #16]",
        "stp x23, x24, [sp, #32]",
        "stp x25, x26, [sp, #48]",
        "stp x27, x28, [sp, #64]",
        "stp x29, x30, [sp, #80]",
        "mov x9, sp",
        "str x9, [x0]",
        "ldp x9, x10, [x1]",
        "msr ttbr0_el1, x10",
        "isb",
        "mov sp, x9",
        "ldp x21, x22, [sp, #16]",
        "ldp x23, x24, [sp, #32]",
        "ldp x25, x26, [sp, #48]",
        "ldp x27, x28, [sp, #64]",
        "ldp x29, x30, [sp, #80]",
        "ldp x19, x20, [sp], #96",
        "ret",
    )
}

/// What the other context does.
#[unsafe(naked)]
unsafe extern "C" fn other() {
    naked_asm!(
        "2: isb",
        "mrs x9, cntvct_el0",
        "adrp x10, {switched}",
        "str w9, [x10, :lo12:{switched}]",
        "adrp x1, {contexts}",
        "add x1, x1, :lo12:{contexts}",
        "add x0, x1, #{size}",
        "bl {switch}",
        "b 2b",
        switched = sym SWITCHED,
        contexts = sym CONTEXTS,
        size = const size_of::<Context>(),
        switch = sym switch,
    )
}

/// Ticks from before a switch to the other context's next instruction.
pub fn context_switch() -> u32 {
    let start: u64;
    // SAFETY: the other context comes back; what it does not keep is named.
    unsafe {
        asm!(
            "isb",
            "mrs x20, cntvct_el0",
            "bl {switch}",
            switch = sym switch,
            in("x0") &raw mut CONTEXTS[0],
            in("x1") &raw mut CONTEXTS[1],
            out("x20") start,
            clobber_abi("C"),
        );
    }
    SWITCHED.load(Ordering::Relaxed).wrapping_sub(start as u32)
}

/// The page that faults; the GiB from here on has tables of its own.
pub const FAULTING: u64 = 0x8000_0000;

static mut FAULT_BLOCKS: Entries = Entries::EMPTY;
static mut FAULT_PAGES: Entries = Entries::EMPTY;
/// The page behind it.
static mut FAULT_PAGE: Entries = Entries::EMPTY;

/// Prepares page faults.
pub fn prepare_faults() {
    // SAFETY: nothing was accessed there yet.
    unsafe {
        (&raw mut FAULT_BLOCKS.0[0]).write_volatile(&raw const FAULT_PAGES as u64 | TABLE);
        let entry = &raw mut ROOT.0[(FAULTING >> 30) as usize];
        entry.write_volatile(&raw const FAULT_BLOCKS as u64 | TABLE);
        asm!("dsb ishst", options(nostack));
    }
}

/// Synchronous exceptions of EL1: maps the page where a fault was.
#[unsafe(naked)]
pub unsafe extern "C" fn fault() {
    naked_asm!(
        "stp x0, x1, [sp, #-32]!",
        "str x2, [sp, #16]",
        "mrs x0, esr_el1",
        "lsr x0, x0, #26",
        "cmp x0, #{data_abort}",
        "b.ne {unexpected}",
        "mrs x0, far_el1",
        "ubfx x0, x0, #12, #9",
        "adrp x1, {page}",
        "ldr x2, ={rights}",
        "orr x1, x1, x2",
        "adrp x2, {pages}",
        "str x1, [x2, x0, lsl #3]",
        "dsb ishst",
        "ldr x2, [sp, #16]",
        "ldp x0, x1, [sp], #32",
        "eret",
        data_abort = const DATA_ABORT,
        unexpected = sym unexpected,
        page = sym FAULT_PAGE,
        pages = sym FAULT_PAGES,
        rights = const DATA,
    )
}

/// Takes the page away.
pub fn unmap() {
    // SAFETY: the fault handler maps it again.
    unsafe {
        (&raw mut FAULT_PAGES.0[0]).write_volatile(0);
        asm!(
            "dsb ishst",
            "tlbi vaae1, {}",
            "dsb ish",
            "isb",
            in(reg) FAULTING >> 12,
            options(nostack),
        );
    }
}
