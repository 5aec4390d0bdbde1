//! The VM that an environment describes.
use super::acpi::{Machine, Serial};
use super::boot::load;
use super::clock::Clock;
use super::vm::Vm;
use super::{cpuid, instruction};
use crate::memory::GuestRam;
use crate::setup::{Files, SetupError};
use abi::Selector;
use core::sync::atomic::{AtomicBool, AtomicU32};
use rt::env::MonitorEnvironment;
use rt::program::Program;

/// Loads the guest.
pub fn build(
    program: &Program,
    environment: &MonitorEnvironment,
    files: &Files<'_>,
    ram: GuestRam,
    _guest_space: Selector,
    vcpus: u32,
) -> Result<Vm, SetupError> {
    instruction::prepare();
    let serial = environment
        .console
        .as_ref()
        .map(|serial| Serial { port: serial.address as u16, line: serial.line });
    let machine = Machine { vcpus, serial };
    let start = load::load(&ram, files.kernel, files.initrd, files.cmdline, &machine)
        .map_err(SetupError::Load)?;
    let tsc_hz = program.environment.counter_hz;
    let parameters = cpuid::Parameters { xcr0_mask: environment.xcr0_mask, vcpus, tsc_hz };
    let host = |leaf, sub| {
        let answer = raw_cpuid::cpuid!(leaf, sub);
        cpuid::Leaf { eax: answer.eax, ebx: answer.ebx, ecx: answer.ecx, edx: answer.edx }
    };
    Ok(Vm {
        ram,
        start,
        cpuid: cpuid::Table::new(host, &parameters),
        clock: Clock::new(tsc_hz),
        serial,
        io_apic: spin::Mutex::default(),
        mailboxes: Default::default(),
        vcpus,
        // The first.
        alive: AtomicU32::new(1),
        // The guest's TSC starts at 0, and with it its clock.
        tsc_offset: rt::arch::counter().wrapping_neg(),
        stopped: AtomicBool::new(false),
    })
}
