//! The program `monitor`: hosts the VM that its environment describes.
#![no_std]
#![no_main]

extern crate alloc;

mod native;
mod setup;

use rt::program::Program;
use rt::protocol::supervisor::{self, Request, StopReason};
use rt::syscall::{self, Deadline};

fn main(program: Program) {
    if let Err(error) = setup::start(&program) {
        log::error!("the VM does not start: {error}");
        // Whoever hears of it destroys this program; if nobody does, the exit code tells.
        let _ = supervisor::request(Request::VmStopped(StopReason::MonitorError));
        supervisor::exit(1);
    }
    // The vCPU's handler does the rest. This thread only keeps out of its way.
    let idle = program.selectors.one();
    if syscall::create_notification(rt::layout::DOMAIN, idle).is_ok() {
        while syscall::wait(idle, Deadline::NEVER).is_ok() {}
    }
    log::error!("the main thread cannot wait");
}

rt::program!(main);
