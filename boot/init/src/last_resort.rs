//! The log on the UART after the console server that owned it has died.
use crate::root::{Result, Root, UartAccess};
use abi::boot::ROOT_LOG;
use image::system::Uart;
use rt::arch;
use rt::mmio::Mmio;
use rt::syscall::{self, LOG_CHUNK};

/// 16550: offset of the line status register, and the bit that says that a byte can be written.
const LSR: u16 = 5;
const EMPTY: u8 = 1 << 5;
/// PL011: offset of the data register; offset of the flag register, and the bit that says that none can be.
const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
const FULL: u32 = 1 << 5;
/// Pieces of the log that are written at a time: at 115,200 baud they take ten milliseconds.
const PORTION: usize = 2;
/// Polls per byte; a UART at 9,600 baud needs a millisecond.
const PATIENCE: u32 = 100_000;

/// A UART as its last owner has left it.
#[derive(Debug)]
enum Line {
    Ns16550(u16),
    Pl011(Mmio),
}

impl Line {
    fn is_ready(&self) -> bool {
        match self {
            // SAFETY: the UART's owner is gone; the root task owns all ports.
            Line::Ns16550(port) => unsafe { arch::port_in(port.wrapping_add(LSR)) & EMPTY != 0 },
            Line::Pl011(registers) => registers.read(FLAGS).is_ok_and(|flags| flags & FULL == 0),
        }
    }

    fn send(&self, byte: u8) {
        match self {
            // SAFETY: as above.
            Line::Ns16550(port) => unsafe { arch::port_out(*port, byte) },
            // The registers are inside: they are a whole page.
            Line::Pl011(registers) => _ = registers.write(DATA, byte.into()),
        }
    }
}

/// Writes the log to a UART, by polling.
#[derive(Debug)]
pub struct LastResort {
    line: Line,
}

impl LastResort {
    /// Takes the UART over as it is.
    pub fn new(root: &mut Root, uart: Uart) -> Result<LastResort> {
        let uart = root.uart(uart);
        let line = match UartAccess::of(uart)? {
            UartAccess::Ports(base) => {
                root.open_ports(base, uart.size() as u16)?;
                Line::Ns16550(base)
            }
            UartAccess::Memory(address) => Line::Pl011(root.open_registers(address, uart.size())?),
        };
        root.listen_to_log()?;
        let last_resort = LastResort { line };
        last_resort.write(b"\r\n");
        last_resort.drain();
        Ok(last_resort)
    }

    /// Writes a portion of what the log holds. Returns whether there may be more.
    pub fn drain(&self) -> bool {
        let read = |bytes: &mut _| syscall::log_read(ROOT_LOG, false, bytes).unwrap_or(0);
        portion(read, |byte| self.write(&[byte]))
    }

    fn write(&self, bytes: &[u8]) {
        for &byte in bytes {
            for _ in 0..PATIENCE {
                if self.line.is_ready() {
                    break;
                }
            }
            self.line.send(byte);
        }
    }
}

/// Writes what `read` gives, but only so much of it: programs of other CPUs may fill the log faster than this empties it,
/// and nobody else runs on the root task's CPU meanwhile. Returns whether there may be more.
fn portion(mut read: impl FnMut(&mut [u8; LOG_CHUNK]) -> usize, mut write: impl FnMut(u8)) -> bool {
    for _ in 0..PORTION {
        let mut bytes = [0; LOG_CHUNK];
        let count = read(&mut bytes);
        if count == 0 {
            return false;
        }
        for &byte in bytes.iter().take(count) {
            if byte == b'\n' {
                write(b'\r');
            }
            write(byte);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_writes_without_end_is_not_waited_for() {
        let mut out = Vec::new();
        let endless = |bytes: &mut [u8; LOG_CHUNK]| {
            bytes.fill(b'x');
            LOG_CHUNK
        };
        assert!(portion(endless, |byte| out.push(byte)));
        assert_eq!(out.len(), PORTION * LOG_CHUNK);
        out.clear();
        let mut left = Some(*b"a\n");
        let short = |bytes: &mut [u8; LOG_CHUNK]| {
            left.take().map_or(0, |text| {
                bytes[..2].copy_from_slice(&text);
                2
            })
        };
        assert!(!portion(short, |byte| out.push(byte)));
        assert_eq!(out, b"a\r\n");
    }
}
