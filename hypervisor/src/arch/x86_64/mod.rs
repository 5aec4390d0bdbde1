//! x86-64.
pub mod acpi;
pub mod apic;
pub mod boot;
pub mod clock;
pub mod early_log;
pub mod features;
pub mod gdt;
pub mod ioapic;
pub mod layout;
pub mod panic;
pub mod smp;
pub mod uart;

pub use boot::demo::{ap_main, kernel_main};
