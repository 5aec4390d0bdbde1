//! x86-64.

mod servers;

pub(crate) use servers::entry;
pub use servers::{echo_all, relay};

use crate::throughput::KNOWN;
use abi::Op;
use abi::utcb::exception::{ExceptionReply, SYSTEM_CALL};
use core::arch::{asm, naked_asm};

/// The handler of a foreign thread: resumes it after each system call. Another exception is its end, and signalled.
#[unsafe(naked)]
pub extern "C" fn answer() -> ! {
    naked_asm!(
        "2: mov esi, {resume}",
        "3: mov eax, {reply}",
        "syscall",
        "cmp rsi, {call}",
        "je 2b",
        "mov eax, {signal}",
        "mov edi, {done}",
        "syscall",
        "xor esi, esi",
        "jmp 3b",
        resume = const ExceptionReply::RESUME.bits(),
        reply = const Op::ReplyWait as u32,
        call = const SYSTEM_CALL,
        signal = const Op::Signal as u32,
        done = const crate::foreign::HANDLERS_DONE.0,
    )
}

/// Answers each call with what it got, after it has given way.
#[unsafe(naked)]
pub extern "C" fn server() -> ! {
    naked_asm!(
        "2: mov eax, {reply}",
        "syscall",
        "pause",
        "jmp 2b",
        reply = const Op::ReplyWait as u32
    )
}

/// One instruction, at which an emulator that runs the CPUs in turns goes on with the next CPU.
#[inline(always)]
pub fn give_way() {
    // SAFETY: a hint.
    unsafe { asm!("pause", options(nomem, nostack, preserves_flags)) };
}

/// [`crate::throughput::KNOWN`] instructions.
#[inline(always)]
pub fn known() {
    // SAFETY: changes a register that it owns, and flags.
    unsafe {
        asm!(
            "mov {n:e}, {rounds}",
            "2: dec {n:e}",
            "jnz 2b",
            "nop",
            n = out(reg) _,
            rounds = const KNOWN / 2 - 1,
            options(nomem, nostack),
        );
    }
}
