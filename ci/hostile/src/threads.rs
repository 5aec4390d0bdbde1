//! The root task with the hostile programs, but without guests: an emulator that counts instructions stands still in a guest
//! that faults at each of its instructions.
#![no_std]
#![no_main]

use abi::boot::BootInfo;

rt::root_task!(main);

fn main(argument: u64) -> ! {
    // SAFETY: the kernel passes the address of the boot information, which it maps read-only.
    hostile::driver::run(unsafe { &*(argument as *const BootInfo) }, false)
}
