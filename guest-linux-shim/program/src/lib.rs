//! What a static Linux program without a C library starts with: its entry and the system-call instruction.
//!
//! Such a program is built for bare metal, where nothing is linked to it that Linux programs usually have. It names its
//! main function with [`entry`].
#![no_std]

#[cfg(target_os = "none")]
use linux_raw_sys::general::{
    CLONE_FILES, CLONE_FS, CLONE_SIGHAND, CLONE_SYSVSEM, CLONE_THREAD, CLONE_VM,
};

#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
pub use arch::{crash, start_thread, system_call};

/// What a thread shares with the one that starts it: everything but its registers and stack.
#[cfg(target_os = "none")]
const THREAD: u32 =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

/// Makes a function that takes the address of the number of arguments, behind which their addresses lie, the program's
/// main function.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn linux_main(arguments: *const usize) -> ! {
            let main: fn(*const usize) -> ! = $main;
            main(arguments)
        }
    };
}

#[cfg(target_os = "none")]
unsafe extern "C" {
    /// What [`entry`] makes.
    fn linux_main(arguments: *const usize) -> !;
}
