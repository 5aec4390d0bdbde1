//! Registers of the PL011, revision r1p5 (ARM DDI 0183G, chapter 3). Numbers are byte offsets divided by 4.
use bitflags::bitflags;

const fn at(offset: u16) -> u16 {
    offset / 4
}

/// Data.
pub const DR: u16 = at(0x00);
/// Receive status (read), error clear (write).
pub const RSR_ECR: u16 = at(0x04);
/// Flags.
pub const FR: u16 = at(0x18);
/// IrDA low-power counter.
pub const ILPR: u16 = at(0x20);
/// Integer baud rate divisor.
pub const IBRD: u16 = at(0x24);
/// Fractional baud rate divisor.
pub const FBRD: u16 = at(0x28);
/// Line control.
pub const LCR_H: u16 = at(0x2c);
/// Control.
pub const CR: u16 = at(0x30);
/// Interrupt FIFO level select.
pub const IFLS: u16 = at(0x34);
/// Interrupt mask: what is set is enabled.
pub const IMSC: u16 = at(0x38);
/// Raw interrupt status.
pub const RIS: u16 = at(0x3c);
/// Masked interrupt status.
pub const MIS: u16 = at(0x40);
/// Interrupt clear.
pub const ICR: u16 = at(0x44);
/// DMA control.
pub const DMACR: u16 = at(0x48);
/// First of the eight identification registers.
pub const ID: u16 = at(0xfe0);

/// Contents of the identification registers: part 0x011 of designer 0x41, revision 3 (r1p5).
pub const IDS: [u8; 8] = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// Depth of either FIFO; 16 before r1p5.
pub const FIFO: usize = 32;
/// The same in every revision, at least.
pub const LEAST_FIFO: usize = 16;

/// DR: the FIFO overran before this byte.
pub const DATA_OVERRUN: u32 = 1 << 11;
/// RSR: the FIFO overran.
pub const STATUS_OVERRUN: u32 = 1 << 3;

bitflags! {
    /// Flag register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// Clear to send.
        const CTS = 1 << 0;
        /// Data set ready.
        const DSR = 1 << 1;
        /// Data carrier detect.
        const DCD = 1 << 2;
        /// It is transmitting.
        const BUSY = 1 << 3;
        /// The receive FIFO is empty.
        const RECEIVE_EMPTY = 1 << 4;
        /// The transmit FIFO is full.
        const TRANSMIT_FULL = 1 << 5;
        /// The receive FIFO is full.
        const RECEIVE_FULL = 1 << 6;
        /// The transmit FIFO is empty.
        const TRANSMIT_EMPTY = 1 << 7;
        /// Ring indicator.
        const RI = 1 << 8;
        const _ = !0;
    }

    /// Line control register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct LineControl: u32 {
        /// FIFOs on.
        const FIFOS = 1 << 4;
        /// Eight data bits (both bits); one stop bit and no parity as the other bits are clear.
        const EIGHT_BITS = 3 << 5;
        const _ = 0xff;
    }

    /// Control register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Control: u32 {
        /// The UART is on.
        const ENABLE = 1 << 0;
        /// Loopback.
        const LOOP = 1 << 7;
        /// The transmitter is on.
        const TRANSMIT = 1 << 8;
        /// The receiver is on.
        const RECEIVE = 1 << 9;
        /// Data terminal ready.
        const DTR = 1 << 10;
        /// Request to send.
        const RTS = 1 << 11;
        /// First auxiliary output: DCD, by convention.
        const OUT1 = 1 << 12;
        /// Second auxiliary output: RI, by convention.
        const OUT2 = 1 << 13;
        /// RTS follows the room in the receive FIFO.
        const AUTO_RTS = 1 << 14;
        /// The transmitter obeys CTS.
        const AUTO_CTS = 1 << 15;
        const _ = 0xff87;
    }

    /// Interrupts: bits of IMSC, RIS, MIS and ICR.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Interrupts: u32 {
        /// CTS changed.
        const CTS = 1 << 1;
        /// The receive FIFO has reached its level.
        const RECEIVE = 1 << 4;
        /// The transmit FIFO has fallen to its level.
        const TRANSMIT = 1 << 5;
        /// Received data waits.
        const TIMEOUT = 1 << 6;
        /// The receive FIFO overran.
        const OVERRUN = 1 << 10;
        const _ = 0x7ff;
    }
}

/// Interrupt FIFO level select.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels(pub u32);

impl Levels {
    /// After reset: half.
    pub const RESET: Levels = Levels(0x12);

    /// Eighths of a FIFO; reserved values mean half.
    fn eighths(code: u32) -> usize {
        match code & 7 {
            0 => 1,
            1 => 2,
            3 => 6,
            4 => 7,
            _ => 4,
        }
    }

    /// Bytes in a receive FIFO of this depth that raise [`Interrupts::RECEIVE`].
    pub fn receive(self, depth: usize) -> usize {
        (depth * Self::eighths(self.0 >> 3) / 8).max(1)
    }

    /// Bytes in a transmit FIFO of this depth that [`Interrupts::TRANSMIT`] waits for.
    pub fn transmit(self, depth: usize) -> usize {
        depth * Self::eighths(self.0) / 8
    }
}
