//! The root task.
#![no_std]
#![no_main]

use abi::boot::{BootInfo, ROOT_FREE, ROOT_LOG};

rt::root_task!(main);

fn main(argument: u64) -> ! {
    rt::log::init(ROOT_LOG, "registers");
    // SAFETY: the kernel passes the address of the boot information, which it maps read-only.
    let info = unsafe { &*(argument as *const BootInfo) };
    let say = |text: core::fmt::Arguments<'_>| rt::log::line(ROOT_LOG, "registers", text);
    match registers::turns::run(info) {
        Ok(rounds) => say(format_args!("done {rounds} rounds")),
        Err(failure) => say(format_args!("FAILED: {failure:?}")),
    }
    trial::rest(ROOT_FREE)
}
