//! AArch64.
use core::arch::{asm, naked_asm};
use linux_raw_sys::general::__NR_clone;

/// Makes the system call of this number; returns what the system returns: a negative number is an error's, negated.
///
/// # Safety
/// The call does nothing to memory that Rust code relies on.
pub unsafe fn system_call(number: u32, arguments: [usize; 6]) -> isize {
    let result;
    // SAFETY: the system changes x0 only, and memory as the caller promises.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number as usize,
            inlateout("x0") arguments[0] => result,
            in("x1") arguments[1],
            in("x2") arguments[2],
            in("x3") arguments[3],
            in("x4") arguments[4],
            in("x5") arguments[5],
            options(nostack, preserves_flags),
        );
    }
    result
}

/// Starts a thread: `entry` with `argument`, and a stack that ends at `stack`. Returns what the system returns.
///
/// # Safety
/// The stack is memory of the process's that nothing else uses, and ends at a multiple of 16.
pub unsafe fn start_thread(
    stack: usize,
    entry: extern "C" fn(usize) -> !,
    argument: usize,
) -> isize {
    let result;
    // SAFETY: as in `system_call`; the new thread, where the result is 0, has the registers of this one but for its stack, and
    // does not go on to what follows.
    unsafe {
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x20",
            "blr x21",
            "udf #0",
            "2:",
            in("x8") __NR_clone as usize,
            inlateout("x0") crate::THREAD as usize => result,
            in("x1") stack,
            in("x2") 0,
            in("x3") 0,
            in("x4") 0,
            in("x20") argument,
            in("x21") entry,
        );
    }
    result
}

/// Ends the program with an instruction that does not exist.
pub fn crash() -> ! {
    // SAFETY: UDF raises an exception and has no other effect.
    unsafe { asm!("udf #0", options(noreturn, nomem, nostack)) }
}

/// Where the system starts the program: the stack pointer points to the number of arguments.
///
/// # Safety
/// Nobody calls it.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _start() -> ! {
    naked_asm!(
        "mov x29, xzr",
        "mov x30, xzr",
        "mov x0, sp",
        "bl {main}",
        "udf #0",
        main = sym crate::linux_main,
    )
}
