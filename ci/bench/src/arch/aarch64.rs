//! AArch64.

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
        "2: mov x2, #{resume}",
        "3: mov x0, #{reply}",
        "svc #0",
        "cmp x2, #{call}",
        "b.eq 2b",
        "mov x0, #{signal}",
        "mov x1, #{done}",
        "svc #0",
        "mov x2, xzr",
        "b 3b",
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
        "2: mov x0, #{reply}",
        "svc #0",
        "yield",
        "b 2b",
        reply = const Op::ReplyWait as u32
    )
}

/// One instruction, at which an emulator that runs the CPUs in turns goes on with the next CPU.
#[inline(always)]
pub fn give_way() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) };
}

/// [`crate::throughput::KNOWN`] instructions.
#[inline(always)]
pub fn known() {
    // SAFETY: changes a register that it owns, and flags.
    unsafe {
        asm!(
            "mov {n}, #{rounds}",
            "2: subs {n}, {n}, #1",
            "b.ne 2b",
            "nop",
            n = out(reg) _,
            rounds = const KNOWN / 2 - 1,
            options(nomem, nostack),
        );
    }
}
