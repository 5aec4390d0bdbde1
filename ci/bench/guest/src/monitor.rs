//! What the guest has of its monitor.

use bench_guest::{Arguments, Request, place};

/// What the monitor has told.
pub fn arguments() -> Arguments {
    // SAFETY: RAM of this guest that nothing else uses, aligned; any words are arguments.
    unsafe { (place::ARGUMENTS as *const Arguments).read_volatile() }
}

/// Asks for something.
pub fn request(request: Request) {
    crate::cpu::device_write(place::REQUEST, request as u32);
}

/// Low half of what the counter was just before the last interrupt was signalled.
pub fn stamp() -> u32 {
    // SAFETY: RAM of this guest that nothing else of it uses, aligned.
    unsafe { (place::STAMP as *const u32).read_volatile() }
}
