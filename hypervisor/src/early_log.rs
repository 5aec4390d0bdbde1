//! Front of the crate `log`: what the kernel reports goes to the debug UART until the kernel's log
//! takes over.

use core::fmt::{self, Write};

use abi::text::Text;
use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::mutex::SpinMutex;

use crate::arch::uart;
use crate::cell::Given;

/// Takes text of the kernel's log: whole lines, in one or more calls. Called with interrupts off.
pub type Sink = fn(fmt::Arguments<'_>);

static SINK: Given<Sink> = Given::new();
static FRONT: Front = Front;

struct Front;

impl Log for Front {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let kind = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info | Level::Debug | Level::Trace => "",
        };
        let sink = SINK.get().copied().unwrap_or(print);
        sink(format_args!("bulkhead: {}{}\n", Text(kind), record.args()));
    }

    fn flush(&self) {}
}

/// Keeps the lines of several CPUs apart.
static LINE: SpinMutex<()> = SpinMutex::new(());
/// Attempts to get the lock: a CPU that stopped while printing, or the one that an NMI interrupted, must
/// not silence the others. A line takes 10 ms.
const MAX_ATTEMPTS: u32 = 1_000_000;

fn print(text: fmt::Arguments<'_>) {
    let _guard = (0..MAX_ATTEMPTS).find_map(|_| LINE.try_lock());
    // Fails only if a Display implementation does; the rest of the line is lost then.
    let _ = uart::EarlyConsole.write_fmt(text);
}

/// Makes the macros of `log` print on the debug UART.
pub fn init() {
    // Fails only if it was called before, which changes nothing.
    let _ = log::set_logger(&FRONT);
    log::set_max_level(LevelFilter::Info);
}

/// Sends the log to `sink` from now on. Once.
pub fn redirect(sink: Sink) {
    SINK.give(sink);
}
