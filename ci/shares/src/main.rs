//! The root task that measures shares.
#![no_std]
#![no_main]

use abi::boot::BootInfo;

rt::root_task!(main);

fn main(argument: u64) -> ! {
    // SAFETY: the kernel passes the address of the boot information, which it maps read-only.
    shares::run(unsafe { &*(argument as *const BootInfo) })
}
