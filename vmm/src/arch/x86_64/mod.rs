//! x86-64 guests.
//!
//! [`vcpu`] emulates what belongs to the processor ([`cpuid`], [`msr`], [`apic`], [`clock`]), finds the device
//! for a port or an address ([`ports`], [`instruction`]) and decides when interrupts are injected. [`boot`] and
//! [`acpi`] build what a guest finds in its memory when it starts.

pub mod acpi;
pub mod apic;
pub mod boot;
pub mod clock;
pub mod cpuid;
pub mod exits;
pub mod instruction;
pub mod msr;
pub mod paging;
pub mod ports;
#[cfg(target_os = "none")]
pub mod setup;
pub mod state;
pub mod vcpu;
pub mod vm;
