//! Ways into the kernel, and the ways back to threads and guests.
//!
//! While a thread or a guest runs, SP_EL2 is the top of this CPU's one kernel stack; an entry saves the registers right in
//! the thread or on the vCPU's state page, and nothing is ever left on the stack. HCR_EL2.TGE tells which of them ran.

use super::frame::offset as frame;
use super::traps::class;
use crate::cpu::Cpu;
use crate::thread::Thread;
use core::arch::{asm, global_asm};
use core::mem::offset_of;

/// Why an entry was made, as [`super::traps::user_entry`] and [`super::traps::guest_left`] are told.
pub mod cause {
    /// Synchronous exception.
    pub const SYNCHRONOUS: u64 = 0;
    /// Interrupt (IRQ or FIQ).
    pub const INTERRUPT: u64 = 1;
    /// SError.
    pub const ERROR: u64 = 2;
    /// The fast path of `Signal` has found somebody attached.
    pub const SIGNALLED: u64 = 3;
}

/// Loads or stores (`ldp`, `stp`) pairs of registers of a kind (`x`, `q`), each of which has its place at `$offset` and as many times
/// `$size` bytes as its number says from the address in `$base`.
macro_rules! pairs {
    ($move:literal, $kind:literal, $base:literal, $offset:literal, $size:literal, $($first:literal $second:literal),*) => {
        concat!($(
            $move, " ", $kind, $first, ", ", $kind, $second,
            ", [", $base, ", #(", $offset, " + ", $size, " * ", $first, ")]\n",
        )*)
    };
}
pub(super) use pairs;

/// Loads or stores x2 to x29, in a row of which x0 is the place of the first.
macro_rules! general_registers {
    ($move:literal) => {
        pairs!(
            $move, "x", "x0", 0, 8, 2 3, 4 5, 6 7, 8 9, 10 11, 12 13, 14 15, 16 17, 18 19, 20 21,
            22 23, 24 25, 26 27, 28 29
        )
    };
}

// Table of vectors (Arm ARM D1.3.2): four groups of four, 128 bytes each. Kernel code does not take interrupts, and what
// else happens in it is its end.
global_asm!(
    r#"
    .section .text.vectors, "ax"
    .balign 2048
exception_vectors:
    .rept 8
    .balign 128
    b       kernel_exception
    .endr
    .macro vector cause
    .balign 128
    stp     x0, x1, [sp, #-16]!
    mov     x1, #\cause
    b       lower_entry
    .endm
    .balign 128
    stp     x10, x11, [sp, #-16]!
    mrs     x10, esr_el2
    lsr     x10, x10, #26
    cmp     x10, #{svc}
    b.eq    system_call_entry
    ldp     x10, x11, [sp], #16
    stp     x0, x1, [sp, #-16]!
    mov     x1, #{synchronous}
    b       lower_entry
    vector  {interrupt}
    vector  {interrupt}
    vector  {error}
    // AArch32 below: guests' EL0 only, which EL1 handles; what comes here is treated alike.
    vector  {synchronous}
    vector  {interrupt}
    vector  {interrupt}
    vector  {error}
    .balign 128

    // x0 and x1 are on the stack, x1 is the cause.
lower_entry:
    mrs     x0, hcr_el2
    tbz     x0, #27, guest_exit
    mrs     x0, tpidr_el2
    ldr     x0, [x0, #{current}]
    add     x0, x0, #{frame}
    "#,
    general_registers!("stp"),
    r#"
    mrs     x4, sp_el0
    stp     x30, x4, [x0, #{x30}]
    mrs     x4, elr_el2
    mrs     x5, spsr_el2
    stp     x4, x5, [x0, #{elr}]
    ldp     x4, x5, [sp], #16
    stp     x4, x5, [x0]
    mov     x0, x1
    mov     x29, xzr
    bl      {user_entry}

guest_exit:
    mrs     x0, tpidr_el2
    ldr     x0, [x0, #{guest_page}]
    "#,
    general_registers!("stp"),
    r#"
    str     x30, [x0, #240]
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
    mrs     x0, tpidr_el2
    mov     x29, xzr
    bl      {guest_left}

    // PAR_EL1 for the guest's address in x0, as EL1 would read it; 1 if the walk fails. The walk may end in an external abort: the
    // only exception that the kernel expects of itself, whose way here changes x3 to x5.
    .global translate_address
translate_address:
    mrs     x1, par_el1
translation:
    at      s1e1r, x0
    isb
    mrs     x0, par_el1
    b       1f
translation_failed:
    mov     x0, #1
1:  msr     par_el1, x1
    ret

kernel_exception:
    mrs     x3, elr_el2
    adr     x4, translation
    sub     x5, x3, x4
    cmp     x5, #4
    b.hi    2f
    adr     x4, translation_failed
    msr     elr_el2, x4
    eret
2:  // The stack may be what is broken.
    mrs     x0, tpidr_el2
    cbz     x0, 1f
    ldr     x0, [x0, #{stack}]
    mov     sp, x0
1:  b       {kernel_fault}
    "#,
    current = const offset_of!(Cpu, current),
    frame = const offset_of!(Thread, frame),
    x30 = const frame::X30,
    elr = const frame::ELR,
    stack = const offset_of!(Cpu, arch) + offset_of!(super::CpuArch, stack_top),
    svc = const class::SYSTEM_CALL,
    synchronous = const cause::SYNCHRONOUS,
    interrupt = const cause::INTERRUPT,
    error = const cause::ERROR,
    guest_page = const offset_of!(Cpu, arch) + offset_of!(super::CpuArch, guest_page),
    user_entry = sym super::traps::user_entry,
    guest_left = sym super::traps::guest_left,
    kernel_fault = sym kernel_fault,
);

unsafe extern "C" {
    fn exception_vectors();
    fn translate_address(address: u64) -> u64;
}

/// The page at an address of the guest, whose state is loaded, by the guest's own tables.
pub fn translate(address: u64) -> Option<u64> {
    // SAFETY: translates without access; x3 to x5 are not preserved across calls, and PAR_EL1 is put back.
    let result = unsafe { translate_address(address) };
    (result & 1 == 0).then_some(result & 0x000f_ffff_ffff_f000)
}

const _: () = assert!(frame::SP == frame::X30 + 8);

/// Runs guest code with the general registers at `registers`, which is [`super::CpuArch::guest_page`], until an exception, which leads
/// to [`super::traps::guest_left`]. ELR_EL2, SPSR_EL2 and all else of the guest is loaded.
///
/// # Safety
/// `registers` is the address of 31 words, which stay; the machine's state is the guest's; nothing on the stack is
/// needed any more.
pub unsafe fn enter_guest(cpu: &Cpu, registers: u64) -> ! {
    crate::latency::leave();
    // SAFETY: by the caller's word; no value of a general register is the kernel's concern.
    unsafe {
        asm!(
            "mov sp, x1",
            general_registers!("ldp"),
            "ldr x30, [x0, #240]",
            "ldp x0, x1, [x0]",
            "eret",
            // No speculation past an exception return.
            "dsb nsh",
            "isb",
            in("x0") registers,
            in("x1") cpu.arch.stack_top,
            options(noreturn),
        )
    }
}

/// Goes on with `thread` in user mode. Its space is loaded and it is current.
pub fn resume_thread(cpu: &Cpu, thread: &Thread) -> ! {
    // SAFETY: a frame always holds a state of EL0; the thread is the caller's; nothing on the stack is needed.
    unsafe {
        asm!(
            "mov sp, x1",
            "ldp x4, x5, [x0, #{elr}]",
            "msr elr_el2, x4",
            "msr spsr_el2, x5",
            "ldp x30, x4, [x0, #{x30}]",
            "msr sp_el0, x4",
            general_registers!("ldp"),
            "ldp x0, x1, [x0]",
            "eret",
            "dsb nsh",
            "isb",
            in("x0") thread.frame.as_ptr(),
            in("x1") cpu.arch.stack_top,
            elr = const frame::ELR,
            x30 = const frame::X30,
            options(noreturn),
        )
    }
}

/// Sets this CPU's table of vectors.
pub fn init_vectors() {
    super::sysreg::write!("vbar_el2", exception_vectors as *const () as u64);
    super::sysreg::isb();
}

/// Waits for an interrupt, which stays pending.
pub fn wait_for_interrupt() {
    // SAFETY: WFI ends with a pending interrupt though they are masked.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}

/// Ends a CPU that met an exception in the kernel.
extern "C" fn kernel_fault() -> ! {
    use super::sysreg::read;
    use abi::text::Hex;
    if crate::panic::is_panicked() {
        super::halt();
    }
    crate::panic::fatal(format_args!(
        "exception in the kernel: ESR {}, ELR {}, FAR {}, SPSR {}",
        Hex(read!("esr_el2")),
        Hex(read!("elr_el2")),
        Hex(read!("far_el2")),
        Hex(read!("spsr_el2"))
    ))
}
