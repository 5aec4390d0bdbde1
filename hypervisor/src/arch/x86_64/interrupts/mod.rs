//! Interrupt controllers: a local APIC for each CPU, I/O APICs for lines.

pub mod apic;
pub mod ioapic;
