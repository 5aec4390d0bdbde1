//! Drivers of the machine's UART.

pub mod ns16550;
pub mod pl011;

/// Most bytes that one round moves in each direction, so that none starves the other.
pub const BURST: usize = 1024;

/// Access to the registers of a UART, by number.
pub trait Registers {
    /// Reads a register.
    fn read(&mut self, register: u16) -> u32;
    /// Writes a register.
    fn write(&mut self, register: u16, value: u32);
}

/// A UART of the machine.
pub trait Driver {
    /// Takes a byte that arrived.
    fn receive(&mut self) -> Option<u8>;

    /// Transmits what `source` gives, as far as the FIFO takes it now. Returns the number of bytes.
    fn transmit(&mut self, source: &mut dyn FnMut() -> Option<u8>) -> usize;

    /// Prepares for waiting: the next interrupt comes when data arrives, if `receive`, and when the FIFO has
    /// room, if `transmit`. Without `receive` the other side is told to stop by RTS, and what it still sends
    /// stays in the FIFO.
    fn arm(&mut self, receive: bool, transmit: bool);
}
