//! The log on the UART after the console server that owned it has died.
use crate::root::{Result, Root};
use abi::boot::ROOT_LOG;
use image::system::Uart;
use rt::arch;
use rt::syscall::{self, LOG_CHUNK};

/// Line status register: offset and the bit that says that a byte can be written.
const LSR: u16 = 5;
const EMPTY: u8 = 1 << 5;
/// Polls per byte; a UART at 9,600 baud needs a millisecond.
const PATIENCE: u32 = 100_000;

/// Writes the log to a UART, by polling.
#[derive(Debug)]
pub struct LastResort {
    port: u16,
}

impl LastResort {
    /// Takes the UART over as it is.
    pub fn new(root: &mut Root, uart: Uart) -> Result<LastResort> {
        let port = uart.address as u16;
        root.open_ports(port, uart.size() as u16)?;
        root.listen_to_log()?;
        let last_resort = LastResort { port };
        last_resort.write(b"\r\n");
        last_resort.drain();
        Ok(last_resort)
    }

    /// Writes what the log holds.
    pub fn drain(&self) {
        let mut bytes = [0; LOG_CHUNK];
        while let Ok(count @ 1..) = syscall::log_read(ROOT_LOG, false, &mut bytes) {
            for &byte in &bytes[..count] {
                if byte == b'\n' {
                    self.write(b"\r");
                }
                self.write(&[byte]);
            }
        }
    }

    fn write(&self, bytes: &[u8]) {
        for &byte in bytes {
            for _ in 0..PATIENCE {
                // SAFETY: the UART's owner is gone; the root task owns all ports.
                if unsafe { arch::port_in(self.port + LSR) } & EMPTY != 0 {
                    break;
                }
            }
            // SAFETY: as above.
            unsafe { arch::port_out(self.port, byte) };
        }
    }
}
