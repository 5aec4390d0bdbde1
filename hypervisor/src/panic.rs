//! The end: one line on the debug UART, then nothing on any CPU.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::arch::{halt, stop_others, uart};
use crate::log;
use abi::text::{Dec, Text};

static PANICKED: AtomicBool = AtomicBool::new(false);

/// Whether a CPU has panicked: the others stop when they notice.
pub fn is_panicked() -> bool {
    PANICKED.load(Relaxed)
}

/// Ends the boot with one line that says why this machine cannot run the kernel.
pub fn refuse(why: core::fmt::Arguments<'_>) -> ! {
    log::print(format_args!("bulkhead: {why}\n"));
    halt()
}

/// Ends everything with one line that says what happened.
pub fn fatal(why: core::fmt::Arguments<'_>) -> ! {
    // A panic while panicking: print nothing more.
    if !PANICKED.swap(true, Relaxed) {
        // The device may be a user program's by now, in any state.
        uart::init();
        log::print(format_args!("\nbulkhead: panic: {why}\n"));
        // Only now: a CPU that cannot take interrupts yet may reset the machine.
        stop_others();
    }
    halt()
}

/// Says where; the sources say what is checked there. The messages, and what formats the values in them, would be
/// a tenth of the kernel.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(at) => fatal(format_args!("{}:{}", Text(at.file()), Dec(at.line().into()))),
        None => fatal(format_args!("")),
    }
}
