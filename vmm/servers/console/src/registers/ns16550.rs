//! Registers of the 16550 (National Semiconductor PC16550D data sheet, section 8).
use bitflags::bitflags;

/// Receive buffer (read), transmit holding register (write), divisor latch low with DLAB.
pub const DATA: u16 = 0;
/// Interrupt enable, divisor latch high with DLAB.
pub const IER: u16 = 1;
/// Interrupt identification (read), FIFO control (write).
pub const IIR_FCR: u16 = 2;
/// Line control.
pub const LCR: u16 = 3;
/// Modem control.
pub const MCR: u16 = 4;
/// Line status.
pub const LSR: u16 = 5;
/// Modem status.
pub const MSR: u16 = 6;
/// Scratch.
pub const SCRATCH: u16 = 7;

/// Depth of either FIFO.
pub const FIFO: usize = 16;

bitflags! {
    /// Interrupt enable register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct InterruptEnable: u8 {
        /// Received data, and receive timeout in FIFO mode.
        const RECEIVED = 1 << 0;
        /// Transmit holding register empty.
        const TRANSMIT = 1 << 1;
        /// Line status.
        const LINE = 1 << 2;
        /// Modem status.
        const MODEM = 1 << 3;
    }

    /// FIFO control register. Bits 6–7 are the receive trigger level.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FifoControl: u8 {
        /// FIFOs on.
        const ENABLE = 1 << 0;
        /// Clear the receive FIFO.
        const CLEAR_RECEIVE = 1 << 1;
        /// Clear the transmit FIFO.
        const CLEAR_TRANSMIT = 1 << 2;
        /// Trigger level, low bit.
        const TRIGGER_LOW = 1 << 6;
        /// Trigger level, high bit.
        const TRIGGER_HIGH = 1 << 7;
    }

    /// Line control register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct LineControl: u8 {
        /// Eight data bits (both bits); one stop bit and no parity as the other bits are clear.
        const EIGHT_BITS = 3;
        /// Registers 0 and 1 are the divisor latch.
        const DIVISOR = 1 << 7;
        const _ = !0;
    }

    /// Modem control register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ModemControl: u8 {
        /// Data terminal ready.
        const DTR = 1 << 0;
        /// Request to send.
        const RTS = 1 << 1;
        /// First auxiliary output.
        const OUT1 = 1 << 2;
        /// Second auxiliary output; on a PC it connects the interrupt output to the line.
        const OUT2 = 1 << 3;
        /// Loopback.
        const LOOP = 1 << 4;
    }

    /// Line status register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct LineStatus: u8 {
        /// Received data is there.
        const DATA = 1 << 0;
        /// Received data was lost.
        const OVERRUN = 1 << 1;
        /// The transmit FIFO is empty.
        const TRANSMIT_EMPTY = 1 << 5;
        /// So is the shift register.
        const IDLE = 1 << 6;
        const _ = !0;
    }

    /// Modem status register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ModemStatus: u8 {
        /// CTS changed since the last read.
        const CTS_CHANGED = 1 << 0;
        /// Clear to send.
        const CTS = 1 << 4;
        /// Data set ready.
        const DSR = 1 << 5;
        /// Ring indicator.
        const RI = 1 << 6;
        /// Data carrier detect.
        const DCD = 1 << 7;
        const _ = !0;
    }
}

/// Interrupt identification: what the low four bits of IIR say, by descending priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Interrupt {
    /// Line status: overrun and the like.
    Line = 0b0110,
    /// Received data: the trigger level is reached.
    Received = 0b0100,
    /// Received data below the trigger level waits.
    Timeout = 0b1100,
    /// Transmit holding register empty.
    Transmit = 0b0010,
    /// Modem status.
    Modem = 0b0000,
    /// None is pending.
    None = 0b0001,
}

/// IIR: both FIFOs are on.
pub const IIR_FIFOS: u8 = 0b1100_0000;

impl FifoControl {
    /// Number of received bytes at which [`Interrupt::Received`] is raised.
    pub fn trigger(self) -> usize {
        match (self.contains(Self::TRIGGER_HIGH), self.contains(Self::TRIGGER_LOW)) {
            (false, false) => 1,
            (false, true) => 4,
            (true, false) => 8,
            (true, true) => 14,
        }
    }
}
