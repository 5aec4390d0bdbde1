//! The console server: owns the machine's UART and emulates one for each VM.
//!
//! One handler thread per VM and CPU serves the register accesses of the VM's monitor, on the monitor's
//! time; the main thread moves bytes between the emulated UARTs and the machine's. The two sides meet in
//! [`emulated::Uart`], where they share byte rings and atomic flags and no lock: threads of one CPU
//! preempt each other, so neither may ever wait for the other.
//!
//! Nothing is lost on the way: where a ring is full, the side that fills it is held back by the means of
//! its hardware (a full transmitter and CTS for a guest; RTS and an unread receive buffer for the machine's line).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod driver;
pub mod emulated;
pub mod merger;
pub mod registers;
pub mod ring;
pub mod router;
pub mod server;
