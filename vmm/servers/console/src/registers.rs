//! Registers of UARTs, as driven and as emulated.

pub mod ns16550;
pub mod pl011;
