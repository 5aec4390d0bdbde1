//! x86-64: servers, and where threads start.

use crate::ipc::NEXT;
use abi::Op;
use core::arch::naked_asm;

/// Defines the function at which a thread starts that runs a Rust function.
macro_rules! entry {
    ($(#[$attribute:meta])* $name:ident, $function:path) => {
        $(#[$attribute])*
        #[unsafe(naked)]
        pub extern "C" fn $name() -> ! {
            ::core::arch::naked_asm!("call {function}", "ud2", function = sym $function)
        }
    };
}
pub(crate) use entry;

/// Answers each call with what it got, in registers and UTCB.
#[unsafe(naked)]
pub extern "C" fn echo_all() -> ! {
    // The message's tag is that of the reply, but for the operation in place of the status 0.
    naked_asm!("2: or eax, {reply}", "syscall", "jmp 2b", reply = const Op::ReplyWait as u32)
}

/// Passes each call on to the next server of a chain, and the answer back.
#[unsafe(naked)]
pub extern "C" fn relay() -> ! {
    naked_asm!(
        "2: mov eax, {call}",
        "mov edi, {next}",
        "syscall",
        "mov eax, {reply}",
        "syscall",
        "jmp 2b",
        call = const Op::Call as u32,
        next = const NEXT.0,
        reply = const Op::ReplyWait as u32,
    )
}
