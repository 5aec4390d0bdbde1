//! The debug UART: a PL011, polled, output only (Arm DDI 0183).
//!
//! It serves early boot and panics; between them a user program may own the device.

use super::layout::window;
use crate::addr::HostPhys;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Registers, in bytes from the base.
const DATA: u64 = 0x00;
const FLAGS: u64 = 0x18;
const CONTROL: u64 = 0x30;
const INTERRUPT_MASK: u64 = 0x38;

/// FR: the transmit FIFO is full.
const TRANSMIT_FULL: u32 = 1 << 5;
/// CR: enabled, transmitter and receiver on.
const ENABLED: u32 = 1 << 0 | 1 << 8 | 1 << 9;

/// Reads of the flags before a byte is given up.
const MAX_POLLS: u32 = 1_000_000;

/// Physical address of the UART, 0: none.
static BASE: AtomicU64 = AtomicU64::new(0);

/// Names the UART; its page is mapped.
pub fn set_base(base: HostPhys) {
    BASE.store(base.0, Relaxed);
}

/// Where the UART is.
pub fn base() -> Option<HostPhys> {
    Some(HostPhys(BASE.load(Relaxed))).filter(|base| base.0 != 0)
}

fn register(offset: u64) -> Option<*mut u32> {
    base().map(|base| window(base.offset(offset)).0 as *mut u32)
}

fn read(offset: u64) -> u32 {
    // SAFETY: the device tree says that a PL011 is there, and its page is mapped as device memory.
    register(offset).map_or(0, |at| unsafe { at.read_volatile() })
}

fn write(offset: u64, value: u32) {
    if let Some(at) = register(offset) {
        // SAFETY: as in `read`; the registers that are written reach no memory.
        unsafe { at.write_volatile(value) };
    }
}

/// Makes the UART usable for polled output. Baud rate and format are left as firmware or their user has them.
pub fn init() {
    write(INTERRUPT_MASK, 0);
    write(CONTROL, read(CONTROL) | ENABLED);
}

/// Prints text, with carriage returns before line feeds.
pub fn early_print(text: &[u8]) {
    for &byte in text {
        if byte == b'\n' {
            put(b'\r');
        }
        put(byte);
    }
}

fn put(byte: u8) {
    for _ in 0..MAX_POLLS {
        if read(FLAGS) & TRANSMIT_FULL == 0 {
            return write(DATA, byte.into());
        }
    }
}
