//! The benchmark's guest: measures what it costs a guest to leave guest mode, and what it costs not to.
//!
//! One binary runs under any monitor that offers what is said here, so that hypervisors are compared by the same
//! instructions. The library is what a monitor has to know; the program (feature `image`) is the guest.
//!
//! # Memory
//!
//! RAM is at [`place::RAM`]. The guest's image is copied to its start; the rest is zero but for the
//! [`Arguments`], which the monitor puts at [`place::ARGUMENTS`]. Nothing else is mapped but [`place::PAGE`], a page of
//! RAM that comes and goes. Addresses in [`place::DEVICE`] belong to a device of the monitor, and a write to the
//! doorbell ([`place::DOORBELL`], or on x86 [`place::DOORBELL_PORT`]) is a signal to somebody other than the monitor.
//!
//! # Start
//!
//! Each vCPU starts at the beginning of RAM, with its number in a register and interrupts off: vCPU 0 at once, and vCPU 1
//! together with it if there is one.
//!
//! - x86-64: 32-bit protected mode with flat segments and without paging, the number in `edi`.
//! - AArch64: EL1h with MMU and caches off, the number in `x0`.
//!
//! The guest reads the same counter as whoever signals it: its offset to the machine's is 0 (x86: TSC, Arm: CNTVCT_EL0).
//!
//! # What the monitor has
//!
//! Rows whose bits are not in the arguments are not measured, and nothing is needed for them.
//!
//! | row | what there has to be |
//! | --- | --- |
//! | [`Row::Hypercall`] | VMMCALL, VMCALL (`rax` is any number, and may change) or HVC (`x0` is 0, and `x0` to `x3` may change) |
//! | [`Row::Cpuid`], [`Row::Msr`] | the leaf [`arch`]`::CPUID_LEAF`; the MSR [`arch`]`::MSR`; any values |
//! | [`Row::IdRegister`], [`Row::SystemRegister`] | ID_AA64PFR0_EL1 and ACTLR_EL1; any values |
//! | [`Row::PortRead`] | [`place::PORT`] |
//! | [`Row::MmioRead`], [`Row::MmioWrite`] | [`place::VALUE`] |
//! | [`Row::Doorbell`] | the doorbell |
//! | [`Row::HaltWake`] | somebody who raises [`arch::INTERRUPT`] for vCPU 0 as soon as that halts |
//! | [`Row::SignalToHandler`] | [`Request::Interrupt`] |
//! | [`Row::Ipi`] | two vCPUs |
//! | [`Row::PageFault`] | [`Request::TakePage`] |
//!
//! x86: each vCPU has a local APIC with x2APIC mode, whose ID is its number; the guest switches it on. Arm: a GICv2 or GICv3 at the
//! addresses in [`arch`]; affinity 0.0.0.N for vCPU N.
//!
//! # Requests
//!
//! The guest asks for something by writing a [`Request`] (32 bits) to [`place::REQUEST`]. The word at [`place::VALUE`] reads as
//! what was last written to it.
//!
//! # Results
//!
//! [`results`] says how they lie in memory, when the guest has made [`Request::End`].
#![no_std]

pub mod arch;
pub mod results;
mod row;
pub mod summary;

pub use row::Row;

/// Where things are in the guest's physical address space.
pub mod place {
    use core::ops::Range;

    /// Its RAM. The image is at the start of it, and starts with the entry point.
    pub const RAM: Range<u64> = 0x20_0000..0x40_0000;
    /// The [`super::Arguments`].
    pub const ARGUMENTS: u64 = 0x3e_0000;
    /// Where who signals an interrupt writes what the counter was just before (64 bits).
    pub const STAMP: u64 = 0x3e_0800;
    /// The [`super::results::Results`].
    pub const RESULTS: u64 = 0x3f_0000;
    /// The monitor's device: a page.
    pub const DEVICE: u64 = 0x4000_0000;
    /// The device's register that keeps what is written to it (32 bits).
    pub const VALUE: u64 = DEVICE;
    /// The device's register for requests (32 bits).
    pub const REQUEST: u64 = DEVICE + 8;
    /// The doorbell in memory (32 bits).
    pub const DOORBELL: u64 = 0x4000_1000;
    /// A page of RAM that comes and goes.
    pub const PAGE: u64 = 0x4000_2000;
    /// x86: a port that reads as [`PORT_VALUE`] (8 bits): a PC's interrupt mask, the read of which a hypervisor with that device may
    /// answer without its monitor.
    pub const PORT: u8 = 0x21;
    /// x86: what the port reads as.
    pub const PORT_VALUE: u8 = 0x5a;
    /// x86: the port that is a doorbell (16 bits).
    pub const DOORBELL_PORT: u8 = 0x80;
}

/// What the guest asks the monitor for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Request {
    /// The results are complete: do not go on.
    End = 0,
    /// Something is not as said here; [`results::Results::current`] names the row. Do not go on.
    Failed = 1,
    /// Take [`place::PAGE`] away, so that the next access to it faults.
    TakePage = 2,
    /// Raise the interrupt [`arch::INTERRUPT`] soon, from outside of the vCPU and while it runs: write the counter to
    /// [`place::STAMP`] and signal.
    Interrupt = 3,
}

impl Request {
    /// The request with this code, if there is one.
    pub const fn from_code(code: u32) -> Option<Request> {
        match code {
            0 => Some(Request::End),
            1 => Some(Request::Failed),
            2 => Some(Request::TakePage),
            3 => Some(Request::Interrupt),
            _ => None,
        }
    }
}

/// What the monitor tells the guest.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Arguments {
    /// The rows to be measured: for each the bit [`Row::bit`].
    pub rows: u64,
    /// x86: 1: the doorbell is [`place::DOORBELL_PORT`]; else it is [`place::DOORBELL`].
    pub port_doorbell: u64,
    /// x86: 1: hypercalls are by VMMCALL; else by VMCALL.
    pub vmmcall: u64,
    /// Arm: version of the interrupt controller, 2 or 3.
    pub gic: u64,
}
