//! x86-64: SYSCALL, entry points, TSC, I/O ports.
use super::{Registers, bulkhead_main};
use core::arch::{asm, naked_asm};
use core::ops::Range;

/// System call by these instructions with these registers; the operands that follow say what else is changed.
#[macro_export]
macro_rules! syscall {
    ([$($instruction:literal),+], $r:ident, $($more:tt)*) => {
        ::core::arch::asm!(
            $($instruction,)+
            inlateout("rax") $r.tag,
            inlateout("rdi") $r.first,
            inlateout("rsi") $r.words[0],
            inlateout("rdx") $r.words[1],
            inlateout("r8") $r.words[2],
            inlateout("r9") $r.words[3],
            inlateout("r10") $r.words[4],
            inlateout("r12") $r.words[5],
            inlateout("r13") $r.words[6],
            inlateout("r14") $r.words[7],
            lateout("rcx") _,
            lateout("r11") _,
            $($more)*
        )
    };
}

/// A system call other than `Call` and `ReplyWait`.
#[inline(always)]
pub fn system_call(mut r: Registers) -> Registers {
    // SAFETY: the kernel changes only the registers named here (abi: register table). What an operation
    // does to this program's address space is bounded by the capabilities that the program holds.
    unsafe { syscall!(["syscall"], r, options(nostack)) }
    r
}

/// A portal call: as [`system_call`], but the kernel scrubs `rbx`, `rbp` and `r15` too.
#[inline(always)]
pub fn call_portal(mut r: Registers) -> Registers {
    // SAFETY: as in `system_call`; the two registers that cannot be named as operands are saved on the
    // stack, which the kernel preserves.
    unsafe {
        syscall!(
            ["push rbx", "push rbp", "syscall", "pop rbp", "pop rbx"],
            r,
            lateout("r15") _,
        )
    }
    r
}

/// Entry point of a program. The root task's `rdi` is the address of the boot information.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!(
        "xor ebp, ebp",
        "and rsp, -16",
        "call {main}",
        "ud2",
        main = sym bulkhead_main,
    )
}

/// Entry point of handler threads. They start here with their first call: registers as after
/// `ReplyWait`, and at the top of the stack the address of a [`crate::handler::Context`].
#[unsafe(naked)]
pub extern "C" fn handler_entry() -> ! {
    // Between two messages nothing is kept in registers, which `ReplyWait` scrubs. The frame of 80
    // bytes is a `Registers`; `rsp` stays 16-byte aligned.
    naked_asm!(
        "sub rsp, 80",
        "2:",
        "mov [rsp], rax",
        "mov [rsp + 8], rdi",
        "mov [rsp + 16], rsi",
        "mov [rsp + 24], rdx",
        "mov [rsp + 32], r8",
        "mov [rsp + 40], r9",
        "mov [rsp + 48], r10",
        "mov [rsp + 56], r12",
        "mov [rsp + 64], r13",
        "mov [rsp + 72], r14",
        "mov rdi, [rsp + 80]",
        "mov rsi, rsp",
        "call {dispatch}",
        "mov rax, [rsp]",
        "mov rdi, [rsp + 8]",
        "mov rsi, [rsp + 16]",
        "mov rdx, [rsp + 24]",
        "mov r8, [rsp + 32]",
        "mov r9, [rsp + 40]",
        "mov r10, [rsp + 48]",
        "mov r12, [rsp + 56]",
        "mov r13, [rsp + 64]",
        "mov r14, [rsp + 72]",
        "syscall",
        "jmp 2b",
        dispatch = sym crate::handler::dispatch,
    )
}

/// Entry point of threads with a scheduling context: at the top of the stack lies the address of a
/// [`crate::thread::Start`].
#[unsafe(naked)]
pub extern "C" fn thread_entry() -> ! {
    naked_asm!(
        "xor ebp, ebp",
        "mov rdi, [rsp]",
        "call {run}",
        "ud2",
        run = sym crate::thread::run,
    )
}

/// The machine's counter (TSC).
#[inline(always)]
pub fn counter() -> u64 {
    // SAFETY: RDTSC only reads the counter, which the kernel leaves open to user programs.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Ends the thread with an exception, which its exception portal reports.
pub fn crash() -> ! {
    // SAFETY: UD2 raises #UD and has no other effect.
    unsafe { asm!("ud2", options(noreturn, nomem, nostack)) }
}

/// Makes code that was written to these addresses visible to instruction fetches. Here: nothing to do.
pub fn make_executable(_range: Range<usize>) {}

/// Writes what the caches hold of these addresses back to memory and forgets it, for others that read and write
/// there with their caches off. Here: nothing to do.
pub fn clean_to_memory(_range: Range<usize>) {}

/// Reads an I/O port.
///
/// # Safety
/// Reading a device register can have any effect that the device gives it: the caller owns the device.
#[inline(always)]
pub unsafe fn port_in(port: u16) -> u8 {
    let value;
    // SAFETY: the caller's promise; a port that is not mapped raises #GP.
    unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nostack, preserves_flags)) }
    value
}

/// Writes an I/O port.
///
/// # Safety
/// As for [`port_in`].
#[inline(always)]
pub unsafe fn port_out(port: u16, value: u8) {
    // SAFETY: the caller's promise; a port that is not mapped raises #GP.
    unsafe { asm!("out dx, al", in("al") value, in("dx") port, options(nostack, preserves_flags)) }
}

/// Writes 16 bits to an I/O port.
///
/// # Safety
/// As for [`port_in`].
pub unsafe fn port_out16(port: u16, value: u16) {
    // SAFETY: the caller's promise; a port that is not mapped raises #GP.
    unsafe { asm!("out dx, ax", in("ax") value, in("dx") port, options(nostack, preserves_flags)) }
}

/// Reads 16 bits from an I/O port.
///
/// # Safety
/// As for [`port_in`].
pub unsafe fn port_in16(port: u16) -> u16 {
    let value;
    // SAFETY: the caller's promise; a port that is not mapped raises #GP.
    unsafe { asm!("in ax, dx", out("ax") value, in("dx") port, options(nostack, preserves_flags)) }
    value
}
