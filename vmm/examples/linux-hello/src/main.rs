//! The program.
#![no_std]
#![no_main]

mod program;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    program::exit(101)
}
