//! The program `monitor`: hosts the VM that its environment describes.
#![no_std]
#![no_main]

use rt::program::Program;
use rt::protocol::supervisor::{self, Request, StopReason};

fn main(program: Program) {
    let ends = match vmm::setup::start(&program) {
        Ok(ends) => ends,
        Err(error) => {
            log::error!("the VM does not start: {error}");
            // Whoever hears of it destroys this program; if nobody does, the exit code tells.
            let _ = supervisor::request(Request::VmStopped(StopReason::MonitorError));
            supervisor::exit(1);
        }
    };
    // The vCPUs' handlers do the rest. This thread waits until the VM has ended.
    vmm::native::supervise(ends)
}

rt::program!(main);
