//! The debug UART: a 16550 at the address of COM1, polled, output only.
//!
//! It serves early boot and panics; between them a user program may own the device.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use x86::io::{inb, outb};

/// I/O port of the UART's first register.
pub const PORT: u16 = 0x3f8;

/// Reads of the line status before a byte is given up: far more than the 87 us that a byte takes at
/// 115200 baud, as each read takes a bus cycle of about 1 us.
const MAX_POLLS: u32 = 100_000;

/// Registers of a 16550 as offsets from its port; where reading and writing differ, for writing.
#[derive(Clone, Copy)]
#[repr(u16)]
enum Register {
    /// Transmit holding register, or the divisor's low byte.
    Data = 0,
    /// Interrupt enable register, or the divisor's high byte.
    InterruptEnable = 1,
    FifoControl = 2,
    LineControl = 3,
    ModemControl = 4,
    LineStatus = 5,
}

/// Line control: registers 0 and 1 are the divisor.
const DIVISOR_LATCH: u8 = 1 << 7;
/// Line control: 8N1.
const EIGHT_BITS: u8 = 0b11;
/// FIFO control: on, and empty in both directions.
const FIFOS: u8 = 0b111;
/// Modem control: data terminal ready, and request to send.
const READY: u8 = 0b11;
/// Line status.
const TRANSMIT_EMPTY: u8 = 1 << 5;

/// 115200 baud of a clock of 115200 Hz, 8N1, no interrupts.
const SET_UP: [(Register, u8); 7] = [
    (Register::LineControl, DIVISOR_LATCH),
    (Register::Data, 1),
    (Register::InterruptEnable, 0),
    (Register::LineControl, EIGHT_BITS),
    (Register::InterruptEnable, 0),
    (Register::FifoControl, FIFOS),
    (Register::ModemControl, READY),
];

/// Whether a UART answers and takes bytes.
static PRESENT: AtomicBool = AtomicBool::new(false);

fn write(register: Register, value: u8) {
    // SAFETY: the ports from PORT on are the debug UART's or nobody's; its registers reach no memory.
    unsafe { outb(PORT + register as u16, value) };
}

fn line_status() -> u8 {
    // SAFETY: as in `write`.
    unsafe { inb(PORT + Register::LineStatus as u16) }
}

/// Finds and sets up the UART: 115200 baud, 8N1, no interrupts. Whoever used it before loses its
/// settings.
pub fn init() {
    // An ISA bus without a device reads as ones; no UART has all status bits set.
    let present = line_status() != 0xff;
    if present {
        for (register, value) in SET_UP {
            write(register, value);
        }
    }
    PRESENT.store(present, Relaxed);
}

/// Whether [`init`] found a UART.
pub fn is_present() -> bool {
    PRESENT.load(Relaxed)
}

fn put(byte: u8) {
    if !is_present() {
        return;
    }
    let ready = (0..MAX_POLLS).any(|_| line_status() & TRANSMIT_EMPTY != 0);
    if ready {
        write(Register::Data, byte);
    } else {
        // Stuck: the kernel does not wait for it again.
        PRESENT.store(false, Relaxed);
    }
}

/// Prints `text`, line ends as CR LF. It takes no lock and works at any time on any CPU, so that a
/// panic can be reported; the lines of CPUs that print at once can mix.
pub fn early_print(text: &[u8]) {
    for &byte in text {
        if byte == b'\n' {
            put(b'\r');
        }
        put(byte);
    }
}
