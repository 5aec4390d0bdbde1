//! x86-64.
use core::arch::{asm, naked_asm};

/// Makes the system call of this number; returns what the system returns: a negative number is an error's, negated.
///
/// # Safety
/// The call does nothing to memory that Rust code relies on.
pub unsafe fn system_call(number: u32, arguments: [usize; 6]) -> isize {
    let result;
    // SAFETY: the system changes rax, rcx and r11 only, and memory as the caller promises.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as usize => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            in("r9") arguments[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Ends the program with an instruction that does not exist.
pub fn crash() -> ! {
    // SAFETY: UD2 raises an exception and has no other effect.
    unsafe { asm!("ud2", options(noreturn, nomem, nostack)) }
}

/// Where the system starts the program: the stack pointer points to the number of arguments.
///
/// # Safety
/// Nobody calls it.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _start() -> ! {
    naked_asm!(
        "xor ebp, ebp",
        "mov rdi, rsp",
        "and rsp, -16",
        "call {main}",
        "ud2",
        main = sym crate::linux_main,
    )
}
