//! The guest.
#![no_std]
#![no_main]

mod cpu;
mod monitor;
mod sampler;

use bench_guest::Request;
use monitor::request;
use sampler::Sampler;

/// What a vCPU does, when it can run compiled code.
extern "C" fn main(number: usize) -> ! {
    cpu::prepare(number);
    if number == 0 {
        let arguments = monitor::arguments();
        cpu::measure(&Sampler::new(arguments.rows), &arguments);
        request(Request::End);
    }
    cpu::rest()
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
