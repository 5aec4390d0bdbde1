//! The root task.
#![no_std]
#![no_main]

use abi::Selector;
use abi::boot::{BootInfo, ROOT_DOMAIN, ROOT_FREE, ROOT_LOG};
use rt::syscall::{self, Deadline};

rt::root_task!(main);

fn main(argument: u64) -> ! {
    rt::log::init(ROOT_LOG, "registers");
    // SAFETY: the kernel passes the address of the boot information, which it maps read-only.
    let info = unsafe { &*(argument as *const BootInfo) };
    let say = |text: core::fmt::Arguments<'_>| rt::log::line(ROOT_LOG, "registers", text);
    match registers::arch::run(info) {
        Ok(rounds) => say(format_args!("done {rounds} rounds")),
        Err(failure) => say(format_args!("FAILED: {failure:?}")),
    }
    // The tool that started the emulator ends it when it reads that.
    const NEVER: Selector = Selector(ROOT_FREE.0);
    let _ = syscall::create_notification(ROOT_DOMAIN, NEVER);
    loop {
        let _ = syscall::wait(NEVER, Deadline::NEVER);
    }
}
