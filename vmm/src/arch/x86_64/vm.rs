//! What the vCPUs of a VM share.
use crate::arch::x86_64::acpi::Serial;
use crate::arch::x86_64::apic::io::IoApic;
use crate::arch::x86_64::boot::load::Start;
use crate::arch::x86_64::clock::Clock;
use crate::arch::x86_64::cpuid;
use crate::memory::GuestRam;
use spin::Mutex;

/// A virtual machine.
#[derive(Debug)]
pub struct Vm {
    /// Its RAM, with the guest loaded.
    pub ram: GuestRam,
    /// How its first vCPU starts.
    pub start: Start,
    /// What CPUID answers.
    pub cpuid: cpuid::Table,
    /// Its clock.
    pub clock: Clock,
    /// Its serial port.
    pub serial: Option<Serial>,
    /// Its I/O APIC.
    pub io_apic: Mutex<IoApic>,
    /// Number of its vCPUs.
    pub vcpus: u32,
}
