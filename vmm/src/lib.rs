//! The monitor: an unprivileged program that hosts one virtual machine.
//!
//! The kernel turns each exit of a vCPU into a call to a handler thread of the monitor ([`native`]), which the
//! vCPU of the machine's architecture answers ([`arch`]). [`setup`] builds the VM.
//!
//! Everything that a guest supplies is hostile: numbers are checked, memory is copied once, loops are
//! bounded, and nothing that a guest does panics the monitor.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod arch;
pub mod bits;
pub mod load;
pub mod memory;
#[cfg(target_os = "none")]
pub mod native;
pub mod once;
pub mod platform;
#[cfg(target_os = "none")]
pub mod setup;
pub mod state;
pub mod wide;
