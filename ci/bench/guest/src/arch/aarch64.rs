//! AArch64.

use crate::Row;

/// The rows that there are on this architecture, in the order in which they are measured.
pub const ROWS: &[Row] = &[
    Row::Hypercall,
    Row::Doorbell,
    Row::IdRegister,
    Row::MmioRead,
    Row::MmioWrite,
    Row::SystemRegister,
    Row::InterruptController,
    Row::HaltWake,
    Row::SignalToHandler,
    Row::Ipi,
    Row::PageFault,
    Row::Syscall,
    Row::ContextSwitch,
    Row::GuestPageFault,
];

/// INTID of the interrupt that ends a halt and that the guest asks for: a shared one, edge-triggered.
pub const INTERRUPT: u32 = 32;
/// INTID of the interrupt that a vCPU sends to the other one.
pub const IPI: u32 = 1;

/// The distributor.
pub const DISTRIBUTOR: u64 = 0x0800_0000;
/// GICv2: the CPU interface.
pub const CPU_INTERFACE: u64 = 0x0801_0000;
/// GICv3: the redistributors, of 128 KiB each, in the order of the vCPUs.
pub const REDISTRIBUTORS: u64 = 0x080a_0000;
