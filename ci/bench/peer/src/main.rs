//! The program: the first and only one of a Linux without anything else.
//!
//! It loads the modules that KVM is made of and lets the benchmark's guest (`bench_guest`) measure what it costs to be KVM's
//! guest. Of what the guest asks for, KVM answers in the kernel what it can: hypercalls, CPUID, registers, interrupt
//! controllers, doorbells, page faults; this program answers the rest, with nothing else to do. It prints the rows as the
//! hypervisor's benchmark does, and switches the machine off.
//!
//! The machine has one CPU; who runs on it, priorities say ([`linux::Priority`]).
#![no_std]
#![no_main]

mod arch;
mod kvm;
mod linux;
mod measurement;
mod signaller;

use core::ffi::CStr;

use kvm::Kvm;
use linux::{Priority, Result};

/// Loads the modules, whose files have two digits as names, in their order.
fn load_modules() -> Result {
    for number in 0..100_u8 {
        let mut path = *b"/modules/00\0";
        path[9] += number / 10;
        path[10] += number % 10;
        let path = CStr::from_bytes_with_nul(&path).unwrap_or_default();
        if !linux::load_module(path)? {
            break;
        }
    }
    Ok(())
}

fn run() -> Result {
    load_modules()?;
    let kvm = Kvm::open()?;
    linux::set_priority(0, Priority::Usual)?;
    signaller::start()?;
    print_line!("bench: begin");
    for measurement in measurement::all() {
        measurement.run(kvm);
    }
    print_line!("bench: end");
    Ok(())
}

fn main(_arguments: *const usize) -> ! {
    if let Err(failure) = run() {
        print_line!("peer: {failure}");
    }
    linux::power_off()
}

linux_program::entry!(main);

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    print_line!("peer: {info}");
    linux::power_off()
}
