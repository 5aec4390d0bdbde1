//! The debug UART: a 16550 at the address of COM1, polled, output only.
//!
//! It serves early boot and panics; between them a user program may own the device.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bitflags::bitflags;
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

bitflags! {
    struct LineControl: u8 {
        const EIGHT_BITS = 0b11;
        const DIVISOR_LATCH = 1 << 7;
    }
    struct FifoControl: u8 {
        const ENABLE = 1 << 0;
        const CLEAR_RECEIVER = 1 << 1;
        const CLEAR_TRANSMITTER = 1 << 2;
    }
    struct ModemControl: u8 {
        const DATA_TERMINAL_READY = 1 << 0;
        const REQUEST_TO_SEND = 1 << 1;
    }
    struct LineStatus: u8 {
        const TRANSMIT_EMPTY = 1 << 5;
    }
}

/// Divisor of the 115200-Hz clock for 115200 baud.
const DIVISOR: u16 = 1;

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
        write(Register::LineControl, LineControl::DIVISOR_LATCH.bits());
        write(Register::Data, DIVISOR.to_le_bytes()[0]);
        write(Register::InterruptEnable, DIVISOR.to_le_bytes()[1]);
        write(Register::LineControl, LineControl::EIGHT_BITS.bits());
        write(Register::InterruptEnable, 0);
        let fifo =
            FifoControl::ENABLE | FifoControl::CLEAR_RECEIVER | FifoControl::CLEAR_TRANSMITTER;
        write(Register::FifoControl, fifo.bits());
        let ready = ModemControl::DATA_TERMINAL_READY | ModemControl::REQUEST_TO_SEND;
        write(Register::ModemControl, ready.bits());
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
    let ready = (0..MAX_POLLS).any(|_| {
        LineStatus::from_bits_truncate(line_status()).contains(LineStatus::TRANSMIT_EMPTY)
    });
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
