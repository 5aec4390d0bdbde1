//! What the vCPUs of a VM share.
use crate::acpi::Serial;
use crate::apic::io::IoApic;
use crate::boot::load::Start;
use crate::clock::Clock;
use crate::cpuid;
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
