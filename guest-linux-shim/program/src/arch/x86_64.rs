//! x86-64.
use core::arch::{asm, naked_asm};
use linux_raw_sys::general::__NR_clone;

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
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") __NR_clone as usize => result,
            in("rdi") crate::THREAD as usize,
            in("rsi") stack,
            in("rdx") 0,
            in("r10") 0,
            in("r8") 0,
            in("r12") argument,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
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
