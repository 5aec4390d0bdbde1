//! AArch64.

use abi::utcb::exception;
use core::arch::naked_asm;
use rt::exception::Exception;

/// General registers in an exception message.
pub const GPRS: usize = exception::GPRS_AARCH64;
/// The one that holds a system call's number.
pub const NUMBER: usize = 0;
/// The one that holds its first argument.
pub const FIRST: usize = 1;
/// Bytes of the instruction that makes it.
pub const CALL_LENGTH: u64 = 4;
/// Flags that a program can have in any combination: the conditions.
pub const FLAGS: u64 = 0xf000_0000;
/// Flags that it has always.
pub const FIXED_FLAGS: u64 = 0;

/// Where a compartment starts: the stack pointer is that of its [`crate::place::Start`].
#[unsafe(naked)]
pub extern "C" fn entry() -> ! {
    naked_asm!(
        "mov x0, sp",
        "mov x29, xzr",
        "bl {main}",
        "udf #0",
        main = sym crate::roles::main,
    )
}

/// Makes system calls for ever, with registers that others set.
#[unsafe(naked)]
pub extern "C" fn foreign() -> ! {
    naked_asm!("2: svc #0x123", "b 2b")
}

/// What the processor sets in general registers when a system call is made: nothing.
pub fn set_by_processor(_gprs: &mut [u64; GPRS], _exception: &Exception) {}
