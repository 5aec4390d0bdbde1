//! The end: one line on the debug UART, then nothing on any CPU.

use core::arch::asm;
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::apic;
use super::uart::{self, EarlyConsole};

static PANICKED: AtomicBool = AtomicBool::new(false);

/// Whether a CPU has panicked: the others stop at their next NMI.
pub fn is_panicked() -> bool {
    PANICKED.load(Relaxed)
}

/// Stops the current CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off the CPU waits forever; an NMI or SMI leads back into the loop.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Ends the boot with one line that says why this machine cannot run the kernel.
pub fn refuse(why: core::fmt::Arguments<'_>) -> ! {
    // Errors of Display implementations: the rest of the line is lost.
    let _ = writeln!(EarlyConsole, "bulkhead: {why}");
    halt()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // A panic while panicking: print nothing more.
    if !PANICKED.swap(true, Relaxed) {
        // The device may be a user program's by now, in any state.
        uart::init();
        let _ = match info.location() {
            Some(at) => writeln!(EarlyConsole, "\nbulkhead: panic: {} ({at})", info.message()),
            None => writeln!(EarlyConsole, "\nbulkhead: panic: {}", info.message()),
        };
        // Only now: a CPU that has no interrupt table yet resets the machine.
        apic::send_nmi_to_others();
    }
    halt()
}
