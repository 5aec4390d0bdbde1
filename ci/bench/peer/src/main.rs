//! The program.
#![no_std]
#![no_main]

mod linux;

use linux::{File, Request, Result};

/// The modules that KVM is made of, in the order in which they have to be loaded.
const MODULES: [&core::ffi::CStr; 4] = [c"/modules/0", c"/modules/1", c"/modules/2", c"/modules/3"];

fn run() -> Result {
    for module in MODULES {
        if !linux::load_module(module)? {
            break;
        }
    }
    let kvm = File::device(c"/dev/kvm", "opening /dev/kvm")?;
    let v = unsafe {
        kvm.control(
            Request {
                name: "version",
                number: 0xae00,
            },
            0,
        )
    }?;
    print_line!("bench: version {v} 1 1 1 1 1");
    print_line!("bench: end");
    Ok(())
}

/// Loads what is missing for KVM, measures, and switches the machine off.
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
