//! The root task with the examples.
#![no_std]
#![no_main]

use abi::boot::BootInfo;

rt::root_task!(main);

fn main(argument: u64) -> ! {
    trial::claim_heap();
    // SAFETY: the kernel passes the address of the boot information, which it maps read-only.
    samples::driver::run(unsafe { &*(argument as *const BootInfo) })
}
