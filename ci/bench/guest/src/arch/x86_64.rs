//! x86-64.

use crate::Row;

/// The rows that there are on this architecture, in the order in which they are measured.
pub const ROWS: &[Row] = &[
    Row::Hypercall,
    Row::Doorbell,
    Row::Cpuid,
    Row::PortRead,
    Row::MmioRead,
    Row::MmioWrite,
    Row::Msr,
    Row::InterruptController,
    Row::HaltWake,
    Row::SignalToHandler,
    Row::Ipi,
    Row::PageFault,
    Row::Syscall,
    Row::ContextSwitch,
    Row::GuestPageFault,
];

/// Vector of the interrupt that ends a halt and that the guest asks for.
pub const INTERRUPT: u8 = 0x40;
/// Vector of the interrupt that a vCPU sends to the other one, by the x2APIC with that one's number as its ID.
pub const IPI: u8 = 0x41;

/// The leaf that the guest asks CPUID for.
pub const CPUID_LEAF: u32 = 0;
/// The MSR that the guest reads: IA32_MISC_ENABLE.
pub const MSR: u32 = 0x1a0;
/// The register of the x2APIC that the guest reads: its version.
pub const X2APIC_VERSION: u32 = 0x803;
