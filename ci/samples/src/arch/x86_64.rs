//! x86-64.

use abi::utcb::exception;
use core::arch::naked_asm;
use rt::exception::Exception;

/// General registers in an exception message.
pub const GPRS: usize = exception::GPRS;
/// The one that holds a system call's number.
pub const NUMBER: usize = 0;
/// The one that holds its first argument.
pub const FIRST: usize = 7;
/// Bytes of the instruction that makes it.
pub const CALL_LENGTH: u64 = 2;
/// Flags that a program can have in any combination: those of arithmetic.
pub const FLAGS: u64 = 0x8d5;
/// Flags that it has always.
pub const FIXED_FLAGS: u64 = 0x202;

/// Where a compartment starts: the stack pointer is that of its [`crate::place::Start`].
#[unsafe(naked)]
pub extern "C" fn entry() -> ! {
    naked_asm!(
        "mov rdi, rsp",
        "and rsp, -16",
        "xor ebp, ebp",
        "call {main}",
        "ud2",
        main = sym crate::roles::main,
    )
}

/// Makes system calls for ever, with registers that others set.
#[unsafe(naked)]
pub extern "C" fn foreign() -> ! {
    naked_asm!("2: syscall", "jmp 2b")
}

/// What the processor sets in general registers when a system call is made, or what is no general register here.
pub fn set_by_processor(gprs: &mut [u64; GPRS], exception: &Exception) {
    const RCX: usize = 1;
    const RSP: usize = 4;
    const R11: usize = 11;
    gprs[RCX] = exception.ip;
    gprs[RSP] = exception.sp;
    gprs[R11] = exception.flags;
}
