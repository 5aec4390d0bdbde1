//! The monitor: an unprivileged program that hosts one virtual machine.
//!
//! The kernel turns each exit of a vCPU into a call to a handler thread of the monitor. [`vcpu`] answers them:
//! it emulates what belongs to the processor ([`cpuid`], [`msr`], [`apic`], [`clock`]), finds the device for
//! a port or an address ([`ports`], [`instruction`]) and decides when interrupts are injected. [`boot`] and
//! [`acpi`] build what a guest finds in its memory when it starts.
//!
//! Everything that a guest supplies is hostile: numbers are checked, memory is copied once, loops are
//! bounded, and nothing that a guest does panics the monitor.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod acpi;
pub mod apic;
pub mod boot;
pub mod clock;
pub mod cpuid;
pub mod exits;
pub mod instruction;
pub mod memory;
pub mod msr;
pub mod once;
pub mod paging;
pub mod ports;
pub mod state;
pub mod vcpu;
pub mod vm;
