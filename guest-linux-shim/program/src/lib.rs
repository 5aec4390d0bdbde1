//! What a static Linux program without a C library starts with: its entry and the system-call instruction.
//!
//! Such a program is built for bare metal, where nothing is linked to it that Linux programs usually have. It names its
//! main function with [`entry`].
#![no_std]

#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
pub use arch::{crash, system_call};

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
