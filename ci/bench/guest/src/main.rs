//! The guest.
#![no_std]
#![no_main]

mod cpu;
mod monitor;
mod sampler;

use bench_guest::Request;
use core::sync::atomic::{AtomicBool, Ordering};
use monitor::request;
use sampler::Sampler;

/// What a vCPU does, when it can run compiled code.
extern "C" fn main(number: usize) -> ! {
    let arguments = monitor::arguments();
    cpu::prepare(number, &arguments);
    if number == 0 {
        cpu::measure(&Sampler::new(arguments.rows), &arguments);
        request(Request::End);
    }
    OTHER_IS_READY.store(true, Ordering::Release);
    cpu::rest()
}

/// vCPU 1 takes interrupts.
static OTHER_IS_READY: AtomicBool = AtomicBool::new(false);

/// Waits until vCPU 1 takes interrupts.
fn wait_for_other() {
    while !OTHER_IS_READY.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
}

/// Something is not as it should be.
fn fail() -> ! {
    request(Request::Failed);
    cpu::rest()
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    fail()
}
